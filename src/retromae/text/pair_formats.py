"""Where training pairs come from: which of the known layouts a source has, and what reads it.

| source | read as |
|---|---|
| folder with corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv | BEIR: a corpus and judgements by id |
| folder with collection.tsv, queries.SPLIT.tsv, qrels.SPLIT.tsv | MS MARCO: likewise |
| qidpidtriples.SPLIT.….tsv in an MS MARCO folder | triples by id: query, positive, negative |
| .jsonl .json .csv .tsv .parquet | one example per record, in the shapes that `pair_rows` describes |
| folder with SPLIT.jsonl (…) or SPLIT-00000-of-00004.parquet (…), there or in `data/` | likewise |
| hub:NAME, hub:NAME:CONFIG@SPLIT; folders of `datasets.save_to_disk` | likewise |

Text files may be packed (.gz). A single file is one split: the one that its name says, or else `train`; a file
whose records have a field `split` holds several.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from retromae.core.errors import UserError
from retromae.text.hub import HUB, hub_hash, hub_rows, saved_rows
from retromae.text.layouts import (
    corpus_reader,
    files_of,
    layout,
    need_file,
    numbered_lines,
    read_queries,
)
from retromae.text.pair_rows import Example, example_of
from retromae.text.problems import Problem
from retromae.text.sources import LINE_LIMIT, Document, is_saved_dataset
from retromae.text.tables import Fields, Record, json_records, parquet_records, table_records

_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_ONE_SPLIT = "train"  # what a file without any split is

Rows = Callable[[], Iterator[tuple[str, Mapping[str, Any]]]]  # (file:line, record)


class Parts(NamedTuple):
    """A corpus with ids; who answers whom is said by ids."""

    corpus: Iterator[Document]
    queries: dict[str, str]
    judgements: Iterator[tuple[str, str, int]]
    """(query, passage, grade)"""


@dataclass(frozen=True)
class Judged:
    """What has a corpus of its own."""

    place: str
    read: Callable[[], Parts]


@dataclass(frozen=True)
class Listed:
    """Examples one after the other, each with its texts."""

    place: str
    rows: Rows
    unread: set[str] = field(default_factory=set)
    """Fields that nobody reads, known after the reading."""

    def examples(self) -> Iterator[Example]:
        return (example_of(record, where, self.unread) for where, record in self.rows())


@dataclass(frozen=True)
class Source:
    name: str
    split: str
    content: Judged | Listed
    stamp: list[Any]
    """Tells whether the source changed: path, size and time of its files, or the revision on the hub."""


def find(source: str | Path, split: str) -> Source:
    """What the source is. Nothing of it is read yet."""
    if str(source).startswith(HUB):
        return _hub(str(source), split)
    path = Path(source)
    if path.is_file():
        triples = path.name.startswith("qidpidtriples.")
        return _triples(path, split) if triples else _file(path, split)
    if not path.is_dir():
        raise UserError(f"there is no {path}; name a file or folder of pairs (on the hub: hub:NAME).")
    if corpus_reader(path) is not None:
        return _collection(path, split)
    if is_saved_dataset(path) or (path / "dataset_dict.json").is_file():
        return _saved(path, split)
    return _split_files(path, split)


def _stamp(files: Iterable[Path]) -> list[Any]:
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


# Collections: ids and judgements


def _collection(folder: Path, split: str) -> Source:
    files = files_of(folder, split)
    if len(files) < 3:
        raise UserError(
            f"{folder} has answer strings and no judgements of passages; give pairs as Tevatron or "
            "FlagEmbedding jsonl instead."
        )
    content = Judged(str(folder), partial(_read_collection, folder, split))
    return Source(folder.resolve().name, split, content, _stamp(files))


def _read_collection(folder: Path, split: str) -> Parts:
    corpus, queries, qrels, _ = layout(folder)(folder, split)
    judgements = (
        (query, passage, grade) for query, grades in qrels.items() for passage, grade in grades.items()
    )
    return Parts(corpus(), queries, judgements)


def _triples(path: Path, split: str) -> Source:
    named = path.name.split(".")[1]
    if split != named:
        raise UserError(f"{path} holds triples of the split {named!r}, not {split!r}; name that split.")
    corpus, listing = need_file(path.parent, "collection.tsv"), need_file(path.parent, f"queries.{split}.tsv")
    content = Judged(str(path), partial(_read_triples, path, listing))
    return Source(path.resolve().parent.name, split, content, _stamp([corpus, listing, path]))


def _read_triples(path: Path, listing: Path) -> Parts:
    corpus = corpus_reader(path.parent)
    assert corpus is not None  # collection.tsv was there
    return Parts(corpus(), read_queries(listing), _triple_judgements(path))


def _triple_judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    for number, line in numbered_lines(path):
        columns = line.split()
        if len(columns) != 3:
            raise UserError(f"{path}:{number}: expected a query id, a positive and a negative passage id.")
        query, positive, negative = columns
        yield query, positive, 1
        yield query, negative, 0


# Examples: files, hub, folders of `datasets`


def _ending(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    packed = path.name.lower().endswith(".gz")
    found = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
    return None if packed and found == ".parquet" else found


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    records: Iterator[Record]
    ending = _ending(path)
    if ending == ".parquet":
        records = parquet_records(path, None, None)
    elif ending in (".csv", ".tsv"):
        records = table_records(path, LINE_LIMIT, None, Fields())
    else:
        records = json_records(path, LINE_LIMIT, None)
    for number, record in records:
        if isinstance(record, Problem):
            raise UserError(f"{record} Mend the file or leave the line out.")
        yield f"{path}:{number}", record


def _all_records(files: Iterable[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in files:
        yield from _records(file)


def _numbered(
    name: str, rows: Callable[[], Iterable[Mapping[str, Any]]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, record in enumerate(rows(), 1):
        yield f"{name}:{number}", record


def _of_split(name: str, split: str, rows: Rows) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of this split, where the rows say which they belong to; otherwise the name has to say it."""
    named = split == _ONE_SPLIT or re.search(rf"(^|[-_.]){re.escape(split)}([-_.]|$)", Path(name).name)
    seen: set[str] = set()
    for where, record in rows():
        own = record.get("split")
        if own is None and not named:
            raise UserError(
                f"{where}: nothing says that this is of the split {split!r}; give the rows a field `split`, or "
                "name the file after its split."
            )
        if own is not None:
            seen.add(str(own))
        if own in (None, split):
            yield where, record
    if seen and split not in seen:
        raise UserError(f"{name} has no row of the split {split!r} (there: {', '.join(sorted(seen))}).")


def _file(path: Path, split: str) -> Source:
    if _ending(path) is None:
        raise UserError(f"{path} is of a kind that is not read; these are: {' '.join(_ENDINGS)} (.gz too).")
    rows = partial(_of_split, str(path), split, partial(_records, path))
    name = path.name.removesuffix(".gz").rpartition(".")[0]
    return Source(name, split, Listed(str(path), rows), _stamp([path]))


def _split_files(folder: Path, split: str) -> Source:
    whole = re.compile(re.escape(split) + r"(-\d+-of-\d+)?\.\w+(\.gz)?")
    for place in (folder, folder / "data"):
        files = sorted(file for file in place.glob("*") if whole.fullmatch(file.name) and _ending(file))
        alone = [file.name for file in files if "-of-" not in file.name]
        if len(files) > 1 and alone:
            raise UserError(
                f"{place} holds several files for {split!r} ({', '.join(alone)}); leave one there."
            )
        if files:
            content = Listed(str(folder), partial(_all_records, files))
            return Source(folder.resolve().name, split, content, _stamp(files))
    raise UserError(
        f"{folder} holds no pairs of the split {split!r}: expected a BEIR or MS MARCO folder, or {split}.jsonl "
        f"({', '.join(_ENDINGS[1:])}; plain or .gz)."
    )


def _saved(folder: Path, split: str) -> Source:
    place = folder
    if (folder / "dataset_dict.json").is_file():
        place = folder / split
        if not is_saved_dataset(place):
            there = sorted(part.name for part in folder.iterdir() if is_saved_dataset(part))
            raise UserError(f"{folder} has no split {split!r} (there: {', '.join(there) or 'none'}).")
    rows = partial(_of_split, str(place), split, partial(_numbered, str(place), partial(saved_rows, place)))
    files = sorted(file for file in place.iterdir() if file.is_file())
    return Source(folder.resolve().name, split, Listed(str(place), rows), _stamp(files))


def _hub(source: str, split: str) -> Source:
    """The split in the name (hub:NAME@SPLIT) stands; another one asked for in so many words is refused."""
    named = source.partition("@")[2]
    if named and split not in (_ONE_SPLIT, named):
        raise UserError(
            f"{source} names the split {named!r}, but {split!r} was asked for; leave @{named} out."
        )
    split = named or split
    place = source.partition("@")[0] + f"@{split}"
    name = os.path.basename(source.removeprefix(HUB).partition("@")[0].partition(":")[0].rstrip("/"))
    content = Listed(place, partial(_numbered, place, partial(hub_rows, place)))
    return Source(name, split, content, [place, hub_hash(place)])
