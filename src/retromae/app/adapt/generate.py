"""Questions that a language model writes for passages, through any server that speaks OpenAI's protocol.

    generated.jsonl    {"passage": id, "query": text} for each passage, as answers come: an interruption loses none

Only passages that are trained on are asked about. The questions join the training queries of `corpus/`.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from retromae.app.adapt.settings import AdaptConfig
from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.core.files import replacing

GENERATED = "generated.jsonl"
MARK = "generated:"  # before the ids of such queries
PROMPT = (
    "Write one short search query that a person would type who does not know the following passage and would be "
    "helped by it. Do not copy its wording. Answer with the query alone.\n\nPassage:\n{passage}"
)
_AT_ONCE = 8
_TRIES, _WAIT = 4, 1.0  # seconds, twice as long after each try
_SECONDS = 120  # that an answer may take
_LONGEST = 300  # characters of a query: more is an explanation


def generate(config: AdaptConfig, run: Path) -> int:
    """Ask for what has not been asked, add everything to the training queries, and say how many there are."""
    wanted = _wanted(run, config)
    path = run / GENERATED
    known = _read(path)
    missing = [(name, text) for name, text in wanted.items() if name not in known]
    asker = Asker(config)
    lock = threading.Lock()
    with path.open("a", encoding="utf-8") as stream, ThreadPoolExecutor(_AT_ONCE) as pool:

        def work(item: tuple[str, str]) -> None:
            query = asker.ask(item[1])
            with lock:
                stream.write(json.dumps({"passage": item[0], "query": query}, ensure_ascii=False) + "\n")
                stream.flush()

        try:
            for _ in pool.map(work, missing):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = {name: query for name, query in _read(path).items() if name in wanted and query}
    _join(run / "corpus", found)
    return len(found)


def _wanted(run: Path, config: AdaptConfig) -> dict[str, str]:
    """Passages that answer a training query, drawn evenly."""
    rows = (run / "corpus" / "qrels" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    names = sorted({name for row in rows if not row.startswith(MARK) for name in [row.split("\t")[1]]})
    shuffled = order(len(names), config.seed, int(Stream.POSITIVES))[: config.generate_most]
    chosen = {names[place] for place in np.sort(shuffled).tolist()}
    return {name: text for name, text in _passages(run) if name in chosen}


def _passages(run: Path) -> Iterator[tuple[str, str]]:
    with (run / "corpus" / "corpus.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["_id"], f"{row['title']}\n{row['text']}".strip()


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by an interruption
            continue
        found[str(row["passage"])] = str(row["query"])
    return found


def _join(corpus: Path, found: dict[str, str]) -> None:
    """Make the training queries of the corpus those that it had and these, however often this is done."""
    lines = {
        corpus / "queries.jsonl": [
            json.dumps({"_id": MARK + name, "text": query}, ensure_ascii=False)
            for name, query in found.items()
        ],
        corpus / "qrels" / "train.tsv": [f"{MARK}{name}\t{name}\t1" for name in found],
    }
    for path, added in lines.items():
        kept = [
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if not line.startswith((MARK, f'{{"_id": "{MARK}'))
        ]
        with replacing(path) as temporary:
            temporary.write_text("\n".join([*kept, *added]) + "\n", encoding="utf-8")


class Asker:
    """Asks one server, patiently."""

    def __init__(self, config: AdaptConfig) -> None:
        assert config.generate_url
        self.url = config.generate_url.rstrip("/") + "/chat/completions"
        self.model = config.generate_model
        self.seed = config.seed
        key = os.environ.get(config.generate_key, "")
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    def ask(self, passage: str) -> str:
        """A query for the passage; empty where the model gave none that will do."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT.format(passage=passage)}],
            "max_tokens": 64,
            "temperature": 0.7,
            "seed": self.seed,
        }
        for left in reversed(range(_TRIES)):
            try:
                return _query(self._post(body))
            except urllib.error.HTTPError as error:
                if left and error.code in (408, 429, 500, 502, 503, 504):
                    time.sleep(_WAIT * 2 ** (_TRIES - 1 - left))
                    continue
                told = error.read(200).decode("utf-8", "replace").strip()
                raise UserError(
                    f"{self.url} refuses ({error.code} {error.reason}: {told}); check the address, the model's name "
                    "and the key. What it wrote so far is kept."
                ) from None
            except (OSError, ValueError) as error:
                if left:
                    time.sleep(_WAIT * 2 ** (_TRIES - 1 - left))
                    continue
                raise UserError(
                    f"{self.url} does not answer as OpenAI's protocol has it ({error}); is the server running? What it "
                    "wrote so far is kept."
                ) from None
        raise AssertionError

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self.url, json.dumps(body).encode(), self.headers)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)


def _query(answer: Any) -> str:
    """The query in an answer: its first line, without quotes, numbers and a heading."""
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("an answer without choices[0].message.content") from None
    text = re.sub(r"(?s)<think>.*?</think>", "", text or "").strip()
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = re.sub(r"^(?:\d+[.)]\s+|[-*•]\s+|(?:search )?query:\s*)", "", line, flags=re.I)
    line = line.strip().strip("\"'“”`").strip()
    return line if 3 <= len(line) <= _LONGEST else ""
