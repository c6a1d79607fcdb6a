"""Retrieval collections of the hub → BEIR folders, which everything here reads.

A repository holds a collection as the hub's own collections do (`mteb/scifact`, `mteb/msmarco`, …): configurations
`corpus` (`_id` or `id`, `title`, `text`), `queries` or `query` (`_id` or `id`, `text`), and judgements under
`default` or `qrels` (`query-id`, `corpus-id`, `score`) in splits such as train, dev, test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError
from retromae.core.files import replacing
from retromae.text.hub import HUB, hub_rows

_QUERIES, _JUDGEMENTS = ("queries", "query"), ("default", "qrels")
_SPLITS = {"validation": "dev"}  # what the hub calls it → what BEIR does


def fetch(source: str, folder: Path) -> None:
    """Write the collection `hub:NAME` as corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv into `folder`."""
    name = source.removeprefix(HUB)
    if name == source or "@" in name or not name:
        raise UserError(f"'{source}' names no collection of the hub; it is spelt hub:NAME.")
    parts = _configurations(name)
    queries = next((part for part in _QUERIES if part in parts), None)
    judgements = next((part for part in _JUDGEMENTS if part in parts), None)
    if "corpus" not in parts or queries is None or judgements is None:
        raise UserError(
            f"{source} is no retrieval collection: it needs the configurations corpus, queries, and default or qrels, "
            f"and has {', '.join(sorted(parts)) or 'none'}."
        )
    _write(folder / "corpus.jsonl", (_document(row, source) for row in _rows(name, "corpus")))
    _write(folder / "queries.jsonl", (_query(row, source) for row in _rows(name, queries)))
    for split in _splits(name, judgements):
        lines = (_judgement(row, source) for row in hub_rows(f"{HUB}{name}:{judgements}@{split}"))
        _write(folder / "qrels" / f"{_SPLITS.get(split, split)}.tsv", lines, "query-id\tcorpus-id\tscore")


def _configurations(name: str) -> list[str]:
    from datasets import get_dataset_config_names

    try:
        return list(get_dataset_config_names(name))
    except Exception as error:  # the hub client raises many kinds; each is the user's or the network's
        raise UserError(_unreadable(name, error)) from error


def _splits(name: str, configuration: str) -> list[str]:
    from datasets import get_dataset_split_names

    try:
        return list(get_dataset_split_names(name, configuration))
    except Exception as error:  # likewise
        raise UserError(_unreadable(name, error)) from error


def _unreadable(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"The data set {HUB}{name} cannot be read ({reason}); check its name and the connection."


def _rows(name: str, configuration: str) -> Iterator[dict[str, Any]]:
    """Of all splits; corpora and queries mostly have one, named like the configuration."""
    for split in _splits(name, configuration):
        yield from hub_rows(f"{HUB}{name}:{configuration}@{split}")


def _document(row: Mapping[str, Any], source: str) -> str:
    return _line({"_id": _id(row, source), "title": row.get("title") or "", "text": _text(row, source)})


def _query(row: Mapping[str, Any], source: str) -> str:
    return _line({"_id": _id(row, source), "text": _text(row, source)})


def _judgement(row: Mapping[str, Any], source: str) -> str:
    try:
        return f"{row['query-id']}\t{row['corpus-id']}\t{int(row['score'])}"
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{source}: a judgement has no query-id, corpus-id or whole score: {dict(row)}."
        ) from None


def _id(row: Mapping[str, Any], source: str) -> str:
    found = row.get("_id", row.get("id"))
    if found in (None, ""):
        raise UserError(f"{source}: a row has no id (_id or id); it has {', '.join(map(str, row))}.")
    return str(found)


def _text(row: Mapping[str, Any], source: str) -> str:
    if not isinstance(row.get("text"), str):
        raise UserError(f"{source}: a row has no text; it has {', '.join(map(str, row))}.")
    return str(row["text"])


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def _write(path: Path, lines: Iterable[str], head: str | None = None) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in ([head] if head else []))
        stream.writelines(f"{line}\n" for line in lines)
