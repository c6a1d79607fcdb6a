"""`retromae serve`: search, compare, judge and watch in a browser, and an API for programs.

    limits.py       how much a request may ask for
    problems.py     errors as one JSON shape
    metrics.py      what happened, in Prometheus' text format
    batching.py     requests that come together share one pass of the model
    engine.py       the work itself, on one thread
    guard.py        before any route: host, origin, token, size; after it: headers and metrics
    api.py          /search, /v1/embeddings, /rerank, /health, /metrics
    workbench.py    the page, and what only it asks for
    judgements.py   grades on disk, as a log and as a BEIR folder
    watch.py        metrics.jsonl of runs, as it grows
    running.py      a socket, uvicorn, and a clean end

FastAPI and uvicorn are the extra `serve`; nothing else of the package imports this room.
"""
