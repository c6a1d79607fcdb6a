"""retromae search"""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from retromae.app.flags import console
from retromae.app.queries import read_queries
from retromae.core.errors import UserError
from retromae.core.ranking import write_trec
from retromae.retrieval.search import Hit, Searcher

_CHARACTERS = 300  # of a passage that are shown


def command(
    index: Annotated[str, typer.Argument(help="folder that `retromae index` made")],
    query: Annotated[
        list[str] | None, typer.Argument(help="what to look for; several are searched in turn")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="results of each query")] = 10,
    queries: Annotated[
        str | None,
        typer.Option("--queries", help="file of queries (.jsonl, .tsv, or one per line) for --out"),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="TREC run to write the results of --queries to")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="where the model lies now, if it was moved since the encoding"),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth", help="with a lexical half: score so many candidates of each half (default: all)"
        ),
    ] = None,
    effort: Annotated[int | None, typer.Option("--effort", help="hnsw: candidates looked at")] = None,
    probes: Annotated[int | None, typer.Option("--probes", help="ivfpq: lists looked at")] = None,
    rescore: Annotated[
        int | None, typer.Option("--rescore", help="ivfpq, int8, binary: candidates per result scored whole")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda …")] = None,
) -> None:
    """Search an index by text: passages, scores, and what they come from. With --queries, a TREC run instead."""
    if bool(query) == bool(queries) or bool(queries) != bool(out):
        raise UserError("say what to look for: a text, or --queries FILE together with --out RUN.")
    if any(not text.strip() for text in query or []):
        raise UserError("the query is empty; give it a text.")
    given = {"effort": effort, "probes": probes, "rescore": rescore}
    settings = {name: value for name, value in given.items() if value is not None}
    texts = read_queries(queries) if queries else {}
    searcher = Searcher.open(index, model, device=device, **settings)
    if out:
        write_trec(out, searcher.run(texts, k, depth=depth))
        return _print(f"{len(texts):,} queries, up to {k} passages each: {out}")
    for text in query or []:
        if len(query or []) > 1:
            _print(f"\n“{text}”")
        for rank, hit in enumerate(searcher.search(text, k, depth=depth), 1):
            for line in shown(rank, hit):
                _print(line)


def shown(rank: int, hit: Hit) -> list[str]:
    """One result for people: score, id and title, the beginning of the text, and why it was found."""
    passage = hit.passage
    text = textwrap.shorten(passage.text, _CHARACTERS, placeholder=" …")
    lines = [f"{rank:>3}. {hit.score:.3f}  {passage.id}  {passage.title}".rstrip()]
    lines += [f"     {line}" for line in textwrap.wrap(text, 100)]
    return [*lines, f"     {hit.why}"]


def _print(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
