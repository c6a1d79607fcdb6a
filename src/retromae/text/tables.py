"""Files with one document per record: JSON lines, CSV and TSV, parquet, and rows of a `datasets` set.

Every reader yields (line or row number, record | Problem), where a record is a mapping from field names to
values; `Fields` then picks the id, title and text out of it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retromae.text.lines import BROKEN_FILE, Meter, lines_of
from retromae.text.problems import Problem

Record = tuple[int, "Mapping[str, Any] | Problem"]

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Fields:
    """Names of the fields. None takes the first of the usual names that a record has; "" means none.

    In a CSV or TSV file without a header the columns are named by their numbers from 0.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None

    usual_ids = ("_id", "id", "docid", "doc_id", "pid")
    usual_titles = ("title",)
    usual_texts = ("text", "contents", "content", "body", "passage")

    @property
    def ids(self) -> tuple[str, ...]:
        return _names(self.id, self.usual_ids)

    @property
    def titles(self) -> tuple[str, ...]:
        return _names(self.title, self.usual_titles)

    @property
    def texts(self) -> tuple[str, ...]:
        return _names(self.text, self.usual_texts)

    @property
    def numbered(self) -> bool:
        """Whether every field named is a column number, so that a table has no header."""
        named = [name for name in (self.id, self.title, self.text) if name]
        return bool(self.text) and all(name.isdigit() for name in named)

    def pick(self, record: Mapping[str, Any], file: str, line: int) -> tuple[str, str, str] | Problem:
        """(id or "", title, text) of a record, or what is wrong with it."""
        name = next((name for name in self.texts if name in record), None)
        if name is None:
            there = ", ".join(map(str, list(record)[:12])) or "none"
            wanted = " or ".join(repr(name) for name in self.texts[:2])
            sentence = f"there is no field {wanted} (there: {there}); name it with --text-field."
            return Problem("missing_field", file, line, sentence)
        text = record[name]
        if text is None or text == "":
            return Problem("empty", file, line, f"the field {name!r} is empty.")
        if not isinstance(text, str):
            sentence = f"the field {name!r} is {type(text).__name__}, not text."
            return Problem("wrong_type", file, line, sentence)
        if not text.strip():
            return Problem("empty", file, line, f"the field {name!r} is empty.")
        if self.id and record.get(self.id) is None:
            return Problem(
                "missing_field", file, line, f"there is no field {self.id!r}; name the id with --id-field."
            )
        picked = _plain(record, self.ids), _plain(record, self.titles), text
        if any(_has_surrogates(part) for part in picked):
            return Problem(
                "wrong_encoding", file, line, "it holds half a surrogate pair, which is no character."
            )
        return picked


def _names(given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return usual if given is None else (given,) if given else ()


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _plain(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these fields that holds text or a number, as text."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str | int | float):
            return str(value)
    return ""


def json_records(path: Path, limit: int, meter: Meter | None) -> Iterator[Record]:
    for number, line in lines_of(path, limit, meter):
        if isinstance(line, Problem):
            yield number, line
        elif line.strip():
            yield number, _parse(line, str(path), number)


def _parse(line: str, file: str, number: int) -> Mapping[str, Any] | Problem:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Problem(
            "broken_json", file, number, f"the line is not valid JSON ({error.msg}, column {error.colno})."
        )
    except (RecursionError, ValueError) as error:
        return Problem("broken_json", file, number, f"the line is not valid JSON ({error}).")
    if not isinstance(value, dict):
        return Problem(
            "broken_json", file, number, f"the line is a JSON {type(value).__name__}, not an object."
        )
    return value


def table_records(path: Path, limit: int, meter: Meter | None, fields: Fields) -> Iterator[Record]:
    """CSV with quotes (RFC 4180), TSV without (a quote is a character like any other).

    The first row names the columns, unless the fields are given as numbers.
    """
    file = str(path)
    waiting: list[Problem] = []
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for number, line in lines_of(path, limit, meter):
            at = number
            if isinstance(line, Problem):
                waiting.append(line)
            elif line:
                yield line + "\n"

    csv.field_size_limit(limit)
    tabs = path.name.removesuffix(".gz").endswith(".tsv")
    source = lines()
    rows = (
        csv.reader(source, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.reader(source, strict=True)
    )
    names: list[str] | None = None
    while True:
        record: Mapping[str, Any] | Problem | None = None
        try:
            row = next(rows, None)
        except csv.Error as error:
            record = Problem("broken_row", file, at, f"the row cannot be read ({error}).")
            row = []
        yield from ((problem.line, problem) for problem in waiting)
        waiting.clear()
        if row is None:
            return
        if record is None and names is None and not fields.numbered:
            names = row
            continue
        yield at, record or _row_record(row, names, file, at)


def _row_record(row: list[str], names: list[str] | None, file: str, line: int) -> Mapping[str, Any] | Problem:
    if names is None:
        return {str(number): value for number, value in enumerate(row)}
    if len(row) != len(names):
        return Problem("broken_row", file, line, f"the row has {len(row)} columns, the header {len(names)}.")
    return dict(zip(names, row, strict=True))


def parquet_records(path: Path, meter: Meter | None, fields: Fields | None) -> Iterator[Record]:
    """Rows of a parquet file, a few hundred at a time; only the columns of the fields, or all for None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    base = meter.finished if meter is not None else 0
    try:
        with pq.ParquetFile(path) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            columns = file.schema_arrow.names
            if fields is not None:
                wanted = {*fields.ids, *fields.titles, *fields.texts}
                columns = [name for name in columns if name in wanted]
            if not columns:
                there = ", ".join(file.schema_arrow.names[:12])
                sentence = f"there is no text column (there: {there}); name it with --text-field."
                yield 0, Problem("missing_field", str(path), 0, sentence)
                return
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
                if meter is not None:
                    meter.finished = base + size * number // max(rows, 1)
    except (pa.ArrowException, *BROKEN_FILE) as error:
        sentence = f"the file breaks off or is damaged after row {number} ({str(error).splitlines()[0]})."
        yield number + 1, Problem("broken_file", str(path), number + 1, sentence)
    finally:
        if meter is not None:
            meter.finished = base
