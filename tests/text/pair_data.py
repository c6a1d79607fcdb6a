"""Small sources of training pairs, written as their publishers ship them."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retromae.text.pairs import Lists, Pairs

CORPUS = [
    {"_id": "d1", "title": "Tides", "text": "The moon pulls the sea."},
    {"_id": "d2", "text": "Bread rises because yeast makes gas."},
    {"_id": "d3", "title": "", "text": "Iron rusts in damp air."},
    {"_id": "d4", "text": "Owls fly without a sound."},
]
QUERIES = [
    {"_id": "q1", "text": "why are there tides"},
    {"_id": "q2", "text": "what makes dough rise"},
    {"_id": "q3", "text": "a question of another split"},
]
JUDGED = "q2\td2\t1\nq1\td1\t2\nq1\td3\t0\nq1\td2\t1\nq1\td4\t-1\n"

TRIPLES = [
    ("why are there tides", "The moon pulls the sea.", "Iron rusts in damp air."),
    ("what makes dough rise", "Yeast makes gas.", "The moon pulls the sea."),
    ("why are there tides", "The sun pulls too.", 'Yeast, makes "gas".'),
]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """CSV with quotes, TSV without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        if path.suffix == ".tsv":
            stream.writelines("\t".join(row) + "\n" for row in ([*rows[0]], *(row.values() for row in rows)))
        else:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_beir(folder: Path, judged: str = JUDGED, split: str = "train", packed: bool = False) -> Path:
    ending = ".gz" if packed else ""
    write_lines(folder / f"corpus.jsonl{ending}", CORPUS)
    write_lines(folder / f"queries.jsonl{ending}", QUERIES)
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def write_marco(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "collection.tsv").write_text("".join(f"{row['_id']}\t{row['text']}\n" for row in CORPUS))
    (folder / "queries.train.tsv").write_text("".join(f"{row['_id']}\t{row['text']}\n" for row in QUERIES))
    (folder / "qrels.train.tsv").write_text("q1\t0\td1\t1\nq2\t0\td2\t1\n")
    return folder


def texts_of(pairs: Pairs, lists: Lists | None) -> dict[str, list[str]]:
    """Query text → texts of its list."""
    assert lists is not None
    return {
        query: pairs.passages.texts(members)
        for query, members in zip(pairs.queries.texts(range(len(pairs))), lists, strict=True)
    }


def ids_of(pairs: Pairs, lists: Lists | None) -> dict[str, list[str]]:
    """Query id → ids of its list."""
    assert lists is not None
    return {
        query: pairs.passages.ids_of(members) for query, members in zip(pairs.queries.ids, lists, strict=True)
    }
