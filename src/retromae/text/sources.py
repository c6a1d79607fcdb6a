"""Documents from whatever people have: folders, files, tables, hub data sets.

    sources ── files in a fixed order ── items in a fixed order

An item is a `Document`, a `TextFile` (a document that has not been opened yet, so that a worker process can
do it) or a `Problem`. The order depends on nothing but the sources, and each item has a `Position`: that is
what makes a preparation resumable and independent of the number of workers.

| source | read as |
|---|---|
| folder | every file below it that can be read, sorted; the rest is counted |
| folder with corpus.jsonl | a BEIR data set: the corpus alone |
| .txt .md .html .htm .rst | one document each (or one per line of .txt) |
| .jsonl .jsonl.gz .csv .tsv (.gz) .parquet | one document per record |
| hub:name, hub:name:config@split | a data set on the hub or a local folder in its layout, streamed |
| folder of `datasets.save_to_disk` | one document per row |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retromae.core.errors import UserError
from retromae.text.formats import TEXT_SUFFIXES, Html, reader_of
from retromae.text.hub import HUB, hub_rows, saved_rows
from retromae.text.lines import Meter, lines_of, whole_text
from retromae.text.problems import OnError, Problem, Problems
from retromae.text.tables import Fields, Record, json_records, parquet_records, table_records

LINE_LIMIT = 64 << 20
_RECORD_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str
    source: str
    """The file (or hub data set) it comes from."""
    line: int = 0
    """Line or row number in that file from 1; 0 where the document is the whole file."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text document that has not been opened yet."""

    path: str
    id: str
    size: int


Item = Document | TextFile | Problem


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """How far the reading has come: this many items of the file with this number (from 0) have been taken."""

    file: int = 0
    items: int = 0


@dataclass(frozen=True)
class ReadOptions:
    fields: Fields = field(default_factory=Fields)
    html: Html = "builtin"
    txt: Literal["file", "lines"] = "file"
    line_limit: int = LINE_LIMIT


Kind = Literal["text", "txt_lines", "json", "table", "parquet", "hub", "saved", "unreadable"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One thing to read: a file, a data set, or a file that is not read (kind "unreadable")."""

    name: str
    kind: Kind
    id: str
    size: int = 0


def _kind(path: Path, options: ReadOptions) -> Kind:
    name = path.name.lower()
    ending = next((suffix for suffix in _RECORD_SUFFIXES if name.endswith(suffix)), path.suffix.lower())
    if ending in TEXT_SUFFIXES:
        return "txt_lines" if options.txt == "lines" and ending == ".txt" else "text"
    if ending == ".parquet":
        return "parquet"
    if ending.startswith(".jsonl"):
        return "json"
    return "table" if ending in _RECORD_SUFFIXES else "unreadable"


def _source_file(path: Path, identifier: str, options: ReadOptions) -> SourceFile:
    size = path.stat().st_size if path.exists() else 0  # a dangling link is reported when it is opened
    return SourceFile(str(path), _kind(path, options), identifier, size)


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def is_tokenised(path: str | Path) -> bool:
    """Whether this is a `datasets` folder with a `token_ids` column: rows already, not documents."""
    path = Path(path)
    if not is_saved_dataset(path):
        return False
    try:
        info = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return "token_ids" in (info.get("features") or {})


def list_files(sources: Sequence[str], options: ReadOptions) -> list[SourceFile]:
    """Everything the sources consist of, in the order in which it is read."""
    if not sources:
        raise UserError("There is nothing to read: name at least one file, folder or hub data set.")
    return [file for source in sources for file in _files_of(source, options)]


def _files_of(source: str, options: ReadOptions) -> list[SourceFile]:
    if source.startswith(HUB):
        return [SourceFile(source, "hub", source)]
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source} does not exist (a data set on the hub is spelt hub:NAME).")
    if path.is_file():
        found = _source_file(path, path.name, options)
        if found.kind == "unreadable":
            known = " ".join(sorted({*TEXT_SUFFIXES, *_RECORD_SUFFIXES}))
            raise UserError(f"{source} is of a kind that is not read; these are: {known}.")
        return [found]
    if is_tokenised(path):
        raise UserError(
            f"{source} is tokenised already: give it to pretrain as --rows, there is nothing to prepare."
        )
    if is_saved_dataset(path):
        return [SourceFile(source, "saved", path.name, sum(f.stat().st_size for f in path.glob("*.arrow")))]
    if (path / "corpus.jsonl").is_file():
        return [_source_file(path / "corpus.jsonl", "corpus.jsonl", options)]
    return [_source_file(file, file.relative_to(path).as_posix(), options) for file in _walk(path)]


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted; what is hidden (.git, .cache) is left alone."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


class Reader:
    """The items of the sources from a position on. `position` is that after the item yielded last."""

    def __init__(
        self, files: Sequence[SourceFile], options: ReadOptions, start: Position = Position()
    ) -> None:
        self.files = files
        self.options = options
        self.position = start
        self._start = start
        self._meter = Meter(finished=sum(file.size for file in files[: start.file]))

    @property
    def bytes_read(self) -> int:
        return self._meter.bytes_read

    def __iter__(self) -> Iterator[Item]:
        for number in range(self._start.file, len(self.files)):
            file = self.files[number]
            skipped = self._start.items if number == self._start.file else 0
            before = self._meter.finished
            for count, item in enumerate(self._items(file), 1):
                if count > skipped:
                    self.position = Position(number, count)
                    yield item
            self._meter.finished = before + file.size

    def _items(self, file: SourceFile) -> Iterator[Item]:
        if file.kind == "text":
            yield TextFile(file.name, file.id, file.size)
            return
        if file.kind == "unreadable":
            ending = Path(file.name).suffix or "without an ending"
            yield Problem("not_read", file.name, 0, f"files {ending} are not read.", harmless=True)
            return
        empty = True
        for line, record in self._records(file):
            empty = False
            yield self._document(file, line, record)
        if empty:
            yield Problem("empty", file.name, 0, "there is nothing in it.")

    def _records(self, file: SourceFile) -> Iterator[Record]:
        limit, fields = self.options.line_limit, self.options.fields
        path = Path(file.name)
        if file.kind == "json":
            return json_records(path, limit, self._meter)
        if file.kind == "table":
            return table_records(path, limit, self._meter, fields)
        if file.kind == "parquet":
            return parquet_records(path, self._meter, fields)
        if file.kind == "txt_lines":
            return _line_records(path, limit, self._meter, fields)
        return enumerate(saved_rows(path) if file.kind == "saved" else hub_rows(file.name), 1)

    def _document(self, file: SourceFile, line: int, record: Any) -> Item:
        if isinstance(record, Problem):
            return record
        picked = self.options.fields.pick(record, file.name, line)
        if isinstance(picked, Problem):
            return picked
        identifier, title, text = picked
        return Document(identifier or f"{file.id}:{line}", title.strip(), text, file.name, line)


def _line_records(path: Path, limit: int, meter: Meter, fields: Fields) -> Iterator[Record]:
    name = (*fields.texts, "text")[0]
    for number, line in lines_of(path, limit, meter):
        if isinstance(line, Problem):
            yield number, line
        elif line.strip():
            yield number, {name: line}


def read_item(item: Item, options: ReadOptions) -> Document | Problem:
    """Open a `TextFile`; what is a document or a problem already is given back as it is."""
    if not isinstance(item, TextFile):
        return item
    path = Path(item.path)
    source = whole_text(path, options.line_limit)
    if isinstance(source, Problem):
        return source
    title, text = reader_of(path.suffix.lower(), options.html)(source)
    if not text.strip():
        return Problem("empty", item.path, 0, "there is no text in the file.")
    return Document(item.id, title, text, item.path)


def read_documents(
    sources: Sequence[str],
    options: ReadOptions | None = None,
    on_error: OnError = "skip",
    problems: Problems | None = None,
) -> Iterator[Document]:
    """All documents of the sources. Pass a `Problems` to learn what was skipped."""
    options = options or ReadOptions()
    problems = problems if problems is not None else Problems(on_error)
    for item in Reader(list_files(sources, options), options):
        document = read_item(item, options)
        if isinstance(document, Problem):
            problems.add(document)
        else:
            yield document
