"""Queries from a file: whatever people have."""

from __future__ import annotations

import json
from pathlib import Path

from retromae.core.errors import UserError


def read_queries(path: str | Path) -> dict[str, str]:
    """Query id → text, from .jsonl (`_id` and `text`), .tsv (id, tab, text), or plain lines numbered from 1.

    A missing or repeated id and an empty query are refused.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the queries {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; convert it.") from None
    queries: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        query, text = _query(path, number, line)
        if not query or not text.strip():
            raise UserError(f"{path}:{number}: the query has no {'text' if query else 'id'}.")
        if query in queries:
            raise UserError(f"{path}:{number}: the query id {query!r} occurs twice; ids must be unique.")
        queries[query] = text
    if not queries:
        raise UserError(f"{path} holds no query.")
    return queries


def _query(path: Path, number: int, line: str) -> tuple[str, str]:
    if path.suffix == ".jsonl":
        try:
            row = json.loads(line)
            return str(row.get("_id", row.get("id", ""))), str(row.get("text") or "")
        except (ValueError, AttributeError):
            raise UserError(f"{path}:{number}: this is not a JSON object.") from None
    if path.suffix == ".tsv":
        query, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{path}:{number}: there is no tab; expected an id, a tab, and the text.")
        return query, text
    return str(number), line
