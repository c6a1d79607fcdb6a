"""Grades that people give results: a log that only grows, and beside it a BEIR folder that is always up to date.

    FOLDER/judgements.jsonl    every grade as it was given, with the texts; the source of the others
           queries.jsonl       )
           corpus.jsonl        ) for `retromae finetune --pairs FOLDER`: the last grade of each query and passage
           qrels/train.tsv     )

Grades go from 0 (wrong) to 3 (just right). A query is trained on once one of its passages is graded above 0; until
then it waits in the log. Nothing is written before the first grade.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO

from retromae.core.errors import UserError
from retromae.core.files import write_text
from retromae.text.store import Passage

LOG = "judgements.jsonl"
BEIR = ("queries.jsonl", "corpus.jsonl", "qrels/train.tsv")
GRADES = (0, 1, 2, 3)


class Judgements:
    """The grades in one folder. May be called from several threads, by one process at a time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._grades: dict[str, dict[str, int]] = {}  # query → passage id → grade, in the order of judging
        self._passages: dict[str, Passage] = {}
        self._log: TextIO | None = None
        self._read()

    def judge(
        self,
        query: str,
        passage: Passage,
        grade: int | None,
        *,
        system: str | None = None,
        rank: int | None = None,
    ) -> int:
        """Keep a grade; None takes it back. Once it is on the disk: how many grades there are."""
        query = normal(query)
        record = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "query": query,
            "passage": passage._asdict(),
            "grade": grade,
            "system": system,
            "rank": rank,
        }
        with self._lock:
            self._append(json.dumps(record, ensure_ascii=False))
            self._take(query, passage, grade)
            self._write_beir()
            return sum(map(len, self._grades.values()))

    def grades(self, query: str) -> dict[str, int]:
        """Passage id → grade of one query."""
        with self._lock:
            return dict(self._grades.get(normal(query), {}))

    def summary(self) -> dict[str, Any]:
        """What there is, newest query first."""
        with self._lock:
            counts = Counter(grade for grades in self._grades.values() for grade in grades.values())
            return {
                "folder": str(self.folder),
                "judgements": counts.total(),
                "grades": [counts[grade] for grade in GRADES],
                "trainable": len(self._answered()),
                "queries": [
                    {"query": query, "judged": len(grades), "best": max(grades.values())}
                    for query, grades in reversed(self._grades.items())
                ],
            }

    def export(self) -> bytes:
        """The BEIR folder and the log as a zip file."""
        with self._lock:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in (*BEIR, LOG):
                    if (self.folder / name).is_file():
                        archive.write(self.folder / name, name)
            return packed.getvalue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    # State

    def _take(self, query: str, passage: Passage, grade: int | None) -> None:
        grades = self._grades.pop(query, {})  # and to the end: it is the newest
        if grade is None:
            grades.pop(passage.id, None)
        else:
            grades[passage.id] = grade
            self._passages[passage.id] = passage
        if grades:
            self._grades[query] = grades

    def _answered(self) -> list[str]:
        return [query for query, grades in self._grades.items() if max(grades.values()) > 0]

    # Disk

    def _read(self) -> None:
        path = self.folder / LOG
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read the judgements {path}: {error.strerror}.") from None
        whole = data[: data.rfind(b"\n") + 1]  # a line that was cut off was never confirmed
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                passage = Passage(**record["passage"])
                grade = record["grade"]
                if not (grade is None or grade in GRADES) or not isinstance(record["query"], str):
                    raise ValueError("unknown grade or query")
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number} is damaged ({error}); mend or remove the line, or name another folder with "
                    "--judgements."
                ) from None
            self._take(record["query"], passage, grade)
        try:
            if len(whole) < len(data):
                os.truncate(path, len(whole))
            self._write_beir()
        except OSError as error:
            raise UserError(
                f"cannot write to the judgements in {self.folder} ({error.strerror}); name another folder with "
                "--judgements."
            ) from None

    def _append(self, line: str) -> None:
        if self._log is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._log = (self.folder / LOG).open("a", encoding="utf-8")
        self._log.write(line + "\n")
        self._log.flush()
        os.fsync(self._log.fileno())

    def _write_beir(self) -> None:
        """Texts first: judgements never name what is not there."""
        answered = self._answered()
        judged = dict.fromkeys(name for query in answered for name in self._grades[query])
        rows: list[dict[str, str]] = [
            {"_id": _corpus_id(name), "title": passage.title, "text": passage.text}
            for name in judged
            if (passage := self._passages[name])
        ]
        queries, corpus, qrels = (self.folder / name for name in BEIR)
        write_text(corpus, _lines(rows))
        write_text(queries, _lines([{"_id": _query_id(query), "text": query} for query in answered]))
        lines = [
            f"{_query_id(query)}\t{_corpus_id(name)}\t{grade}\n"
            for query in answered
            for name, grade in self._grades[query].items()
        ]
        write_text(qrels, "query-id\tcorpus-id\tscore\n" + "".join(lines))


def normal(query: str) -> str:
    """The same question however it is spaced."""
    return " ".join(query.split())


def _query_id(query: str) -> str:
    return "q" + hashlib.blake2b(query.encode(), digest_size=8).hexdigest()


def _corpus_id(name: str) -> str:
    """The passage's id, as one column of a table can hold it."""
    if name.split("\t") == name.splitlines() == [name]:
        return name
    return "p" + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
