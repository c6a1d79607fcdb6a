"""A BEIR folder while it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO


@dataclass
class Query:
    """One query and the passages that answer it."""

    id: str
    text: str
    answers: list[str]


@dataclass
class Folder:
    """A BEIR folder that is being written."""

    path: Path
    passages: int = 0
    queries: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.path / "qrels").mkdir(parents=True, exist_ok=True)
        self._files: dict[str, TextIO] = {}

    def passage(self, identifier: str, title: str, text: str, file: str = "corpus.jsonl") -> None:
        self._line(file, json.dumps({"_id": identifier, "title": title, "text": text}, ensure_ascii=False))
        self.passages += file == "corpus.jsonl"

    def query(self, query: Query, *splits: str) -> None:
        self._line("queries.jsonl", json.dumps({"_id": query.id, "text": query.text}, ensure_ascii=False))
        for split in splits:
            self.queries[split] = self.queries.get(split, 0) + 1
            for answer in query.answers:
                self._line(f"qrels/{split}.tsv", f"{query.id}\t{answer}\t1")

    def _line(self, name: str, line: str) -> None:
        if name not in self._files:
            self._files[name] = (self.path / name).open("w", encoding="utf-8")
            if name.endswith(".tsv"):
                self._files[name].write("query-id\tcorpus-id\tscore\n")
        self._files[name].write(line + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
