"""The real command line, in this process, and small retrieval sets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from retromae import cli
from tiny import SENTENCES


class Done(NamedTuple):
    code: int
    out: str
    err: str


class CommandLine:
    """`retromae(…)` as a person types it: exit code and what was printed, wrapped nowhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["retromae", *map(str, words)])
        self.monkeypatch.setenv("COLUMNS", "200")
        self.capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = self.capsys.readouterr()
        return Done(int(code or 0), out, err)  # type: ignore[call-overload]

    def well(self, *words: object) -> str:
        done = self(*words)
        assert done.code == 0, done
        return done.out


def write_set(folder: Path, documents: int = 24, split: str = "test") -> Path:
    """A BEIR folder: sentences with titles as documents, and for every third a query of its own words."""
    corpus = [
        {
            "_id": f"d{n:03}",
            "title": f"Part {n}",
            "text": f"{SENTENCES[n % 24]} {SENTENCES[(5 * n + 7) % 24]} {n}",
        }
        for n in range(documents)
    ]
    queries = [
        {"_id": f"q{n}", "text": " ".join(SENTENCES[n % 24].split()[1:5])}
        for n in range(0, min(24, documents), 3)
    ]
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", queries)
    lines = [f"q{n}\td{n:03}\t1\n" for n in range(0, min(24, documents), 3)]
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
