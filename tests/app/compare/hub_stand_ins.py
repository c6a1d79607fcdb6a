"""Tiny data sets in the layouts of the hub's real ones, under their real names, and recipes scaled down to them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.finetuning import write_collection

# Numbers of a published recipe → what tiny data and a model with 64 positions can do. Names are all that is changed.
SCALE: dict[str, Any] = {
    **{"max_seq_length": 48, "max_tokens": 40, "query_max_len": 12, "passage_max_len": 40},
    **{
        "per_device_train_batch_size": 6,
        "batch_size": 6,
        "queries": 6,
        "train_group_size": 2,
        "group_size": 2,
    },
    **{"num_train_epochs": 1, "epochs": 1, "tuning_epochs": 1, "teacher_epochs": 1, "budget": "1-epochs"},
    **{"refresh_every": 3, "refresh_depth": 8, "depth": 8, "save_steps": 100, "bf16": False},
    **{"precision": "float32", "lexical_terms": 8, "dense_dimension": 8},
}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_repository(folder: Path, configurations: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Path:
    """A repository of the hub: configuration → split → rows, as JSON lines, named in README.md."""
    named = []
    for name, splits in configurations.items():
        named.append(f"- config_name: {name}\n  data_files:\n")
        for split, rows in splits.items():
            write_lines(folder / name / f"{split}.jsonl", rows)
            named.append(f"  - split: {split}\n    path: {name}/{split}.jsonl\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(named)}---\n", encoding="utf-8")
    return folder


def write_hub_collection(folder: Path, plain: Path) -> Path:
    """The BEIR folder `plain` as the hub lays collections out (`mteb/…`)."""

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (plain / name).read_text(encoding="utf-8").splitlines()]

    judgements = {}
    for split in ("train", "dev", "test"):
        rows = [line.split("\t") for line in (plain / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]]
        judgements[split] = [{"query-id": q, "corpus-id": d, "score": float(s)} for q, d, s in rows]
    return write_repository(
        folder,
        {
            "default": judgements,
            "corpus": {"corpus": lines("corpus.jsonl")},
            "queries": {"queries": lines("queries.jsonl")},
        },
    )


def write_stand_ins(folder: Path) -> Path:
    """The hub, as far as the published recipes read it: `folder/hub/NAME`; and DPR's files in `folder`."""
    plain = write_collection(folder / "plain", passages=40)
    corpus = [json.loads(line) for line in (plain / "corpus.jsonl").read_text().splitlines()]
    hub = folder / "hub"
    articles = [{"id": row["_id"], "url": "", "title": row["title"], "text": row["text"]} for row in corpus]
    write_repository(hub / "wikimedia/wikipedia", {"20231101.en": {"train": articles}})
    books = [{"text": f"{row['text']} And so on."} for row in corpus[:10]]
    write_repository(hub / "bookcorpus/bookcorpus", {"default": {"train": books}})
    triples = [
        {"anchor": a["text"], "positive": b["text"], "negative": c["text"]}
        for a, b, c in zip(corpus, corpus[10:], corpus[20:])
    ]
    splits = {"train": triples, "dev": triples[:4], "test": triples[4:8]}
    write_repository(hub / "sentence-transformers/all-nli", {"triplet": splits})
    _write_dpr(folder, corpus)
    _write_negatives(folder, plain)
    return folder


def _write_negatives(folder: Path, plain: Path) -> None:
    """As published for MS MARCO's queries, of two retrievers."""
    judged = [line.split("\t") for line in (plain / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    rows = [
        {
            "qid": query,
            "pos": [{"pid": passage, "ce-score": 8.5}],
            "neg": {
                name: [
                    {"pid": f"d{(int(passage[1:]) + step) % 40}", "ce-score": 9.5 - step}
                    for step in range(1, 9)
                ]
                for name in ("bm25", "msmarco-distilbert-base-tas-b")
            },
        }
        for query, passage, _ in judged
    ]
    with gzip.open(folder / "msmarco-hard-negatives.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def collection(folder: Path, name: str) -> None:
    """The collection hub:NAME, on demand: there are many, and all are alike."""
    if not (folder / "hub" / name).is_dir():
        write_hub_collection(folder / "hub" / name, folder / "plain")


def _write_dpr(folder: Path, corpus: list[dict[str, Any]]) -> None:
    nq = folder / "nq-dpr"
    nq.mkdir(parents=True)
    passages = [f'{row["_id"]}\t"{row["text"]}"\t{row["title"]}' for row in corpus]
    (nq / "psgs_w100.tsv").write_text("\n".join(["id\ttext\ttitle", *passages]) + "\n", encoding="utf-8")
    asked = [f"what is in {row['title']}\t['{row['title'].split()[0]}']" for row in corpus[:8]]
    (nq / "nq-test.qa.csv").write_text("\n".join(asked) + "\n", encoding="utf-8")

    def passage(row: dict[str, Any]) -> dict[str, Any]:
        return {"docid": row["_id"], "title": row["title"], "text": row["text"]}

    write_lines(
        folder / "nq-dpr-train.jsonl",
        [
            {
                "query_id": str(number),
                "query": f"what is in {row['title']}",
                "positive_passages": [passage(row)],
                "negative_passages": [passage(corpus[number - 5])],
            }
            for number, row in enumerate(corpus)
        ],
    )


def scaled(value: Any, folder: Path, models: Mapping[str, Path], key: str = "") -> Any:
    """A recipe with its numbers made small and its names led to the stand-ins; everything else stays."""
    if isinstance(value, dict):
        return {name: scaled(inner, folder, models, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [scaled(inner, folder, models) for inner in value]
    if key in SCALE and value is not None and not str(value).startswith("${"):
        return SCALE[key]
    if not isinstance(value, str):
        return value
    if value in models:
        return str(models[value])
    if value.startswith("hub:mteb/"):
        collection(folder, value.removeprefix("hub:"))
    for prefix, place in (
        ("hub:", f"hub:{folder}/hub/"),
        ("runs/", f"{folder}/runs/"),
        ("data/", f"{folder}/"),
    ):
        if value.startswith(prefix):
            return place + value.removeprefix(prefix)
    return value
