"""Smaller sets and models for experiments that must fit into an hour of two cores. Part of a set is a set of its own:
its queries are those that its passages answer completely.

python -m benchmarks.smaller set data/squad_wiki runs/half --every 2              # every second title
python -m benchmarks.smaller set data/openstax_terms runs/three --of anatomy-physiology,chemistry,psychology
python -m benchmarks.smaller set data/scifact runs/part --passages 2500      # answers of test queries, and others
python -m benchmarks.smaller model path/to/embedder runs/three-layers --layers 0,2,5 --max-length 64
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from benchmarks import common
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder

SPLITS = ("train", "dev", "test")
Row = Mapping[str, Any]


def every(documents: list[Row], step: int) -> set[str]:
    """Passages under every so-manieth title."""
    titles = set(sorted({row["title"] for row in documents})[::step])
    return {row["_id"] for row in documents if row["title"] in titles}


def of(documents: list[Row], names: Collection[str]) -> set[str]:
    """Passages whose id begins with one of the names and a slash."""
    return {row["_id"] for row in documents if row["_id"].split("/")[0] in names}


def some(documents: list[Row], wanted: int, answers: Collection[str], seed: int) -> set[str]:
    """The answers and random others, `wanted` in all."""
    rest = [row["_id"] for row in documents if row["_id"] not in answers]
    random.Random(seed).shuffle(rest)
    return set(answers) | set(rest[: wanted - len(answers)])


def cut_set(source: Path, out: Path, choose: Callable[[list[Row], set[str]], set[str]]) -> str:
    """Write the part of a BEIR folder that `choose` takes, given the documents and the answers of the test queries."""
    documents = [json.loads(line) for line in _lines(source / "corpus.jsonl")]
    judged = {split: _judgements(source / "qrels" / f"{split}.tsv") for split in SPLITS}
    kept = choose(documents, {answer for _, answer, _ in judged["test"]})
    used: set[str] = set()
    sizes = {}
    with replacing_folder(out) as folder:
        (folder / "qrels").mkdir()
        _write(
            folder / "corpus.jsonl",
            [json.dumps(row, ensure_ascii=False) for row in documents if row["_id"] in kept],
        )
        for split, rows in judged.items():
            lacking = {query for query, answer, _ in rows if answer not in kept}
            whole = [row for row in rows if row[0] not in lacking]
            used |= {row[0] for row in whole}
            sizes[split] = len({row[0] for row in whole})
            header = "query-id\tcorpus-id\tscore"
            _write(folder / "qrels" / f"{split}.tsv", [header, *("\t".join(row) for row in whole)])
        _write(
            folder / "queries.jsonl",
            [line for line in _lines(source / "queries.jsonl") if json.loads(line)["_id"] in used],
        )
    return f"{out}: {len(kept):,} passages, queries: " + ", ".join(f"{k} {v:,}" for k, v in sizes.items())


def cut_model(source: str, out: Path, layers: list[int], max_length: int) -> str:
    """An embedder of some of another one's layers, for texts of so many tokens."""
    model = SentenceTransformer(source, device="cpu")
    encoder: Any = model[0]
    whole = encoder.auto_model.encoder.layer
    if not all(0 <= layer < len(whole) for layer in layers):
        raise UserError(f"{source} has layers 0 to {len(whole) - 1}; --layers names others.")
    encoder.auto_model.encoder.layer = torch.nn.ModuleList(whole[layer] for layer in layers)
    encoder.auto_model.config.num_hidden_layers = len(layers)
    model.max_seq_length = max_length
    with replacing_folder(out) as folder:
        model.save_pretrained(str(folder))
    return f"{out}: layers {layers} of {source}, {max_length} tokens"


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"there is no {path}; name a folder in BEIR's form.")
    return path.read_text(encoding="utf-8").splitlines()


def _judgements(path: Path) -> list[tuple[str, str, str]]:
    rows = [line.split("\t") for line in _lines(path)[1:]] if path.is_file() else []
    return [(query, answer, grade) for query, answer, grade in rows]


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(required=True, dest="kind")
    sets = kinds.add_parser("set")
    sets.add_argument("source", type=Path)
    sets.add_argument("out", type=Path)
    how = sets.add_mutually_exclusive_group(required=True)
    how.add_argument("--every", type=int)
    how.add_argument("--of", type=lambda names: names.split(","))
    how.add_argument("--passages", type=int)
    sets.add_argument("--seed", type=int, default=1)
    models = kinds.add_parser("model")
    models.add_argument("source")
    models.add_argument("out", type=Path)
    models.add_argument("--layers", type=lambda numbers: [int(n) for n in numbers.split(",")], required=True)
    models.add_argument("--max-length", type=int, default=64)
    options = parser.parse_args()
    if options.kind == "model":
        print(cut_model(options.source, options.out, options.layers, options.max_length))
        return

    def choose(documents: list[Row], answers: set[str]) -> set[str]:
        if options.every:
            return every(documents, options.every)
        if options.of:
            return of(documents, options.of)
        return some(documents, options.passages, answers, options.seed)

    print(cut_set(options.source, options.out, choose))


if __name__ == "__main__":
    common.script(main)
