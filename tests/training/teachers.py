"""Tiny pairs with a corpus, and candidates for them, for the tests of cross-encoders."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from training.runs import NOUNS, VERBS


def write_pairs(folder: Path, queries: int = 24, split: str = "train", first: int = 0) -> Path:
    """A BEIR folder: a query names two things, its answer is the passage about them, and many are about one."""
    rng = random.Random(first)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qrels").mkdir(exist_ok=True)
    texts = {}
    for number, (one, other) in enumerate((a, b) for a in NOUNS for b in NOUNS if a < b):
        sentence = f"The {one} {rng.choice(VERBS)} the {other}"
        texts[f"p{number}"] = (
            one if number % 3 else "",
            f"{sentence} near a {rng.choice(NOUNS)}." * (1 + number % 4),
        )
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in texts.items()]
    _write(folder / "corpus.jsonl", corpus)
    asked = [
        {"_id": f"q{number}", "text": f"what about {texts[f'p{number}'][1].split(' near')[0][4:]}?"}
        for number in range(len(texts))
    ]
    _write(folder / "queries.jsonl", asked)
    judged = [f"q{number}\tp{number}\t1" for number in range(first, first + queries)]
    judged += [f"q{first}\tp{first + 1}\t1"]  # two answers
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")
    return folder


def _write(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def open_pairs(folder: Path, split: str = "train") -> Pairs:
    return Pairs.open(folder, split, cache=folder.parent / "cache")


def some_candidates(pairs: Pairs, depth: int = 9, seed: int = 0) -> Candidates:
    """Random passages for every query but the last, which has none; now and then an answer is among them."""
    rng = np.random.default_rng(seed)
    lists = [rng.choice(len(pairs.passages), depth, replace=False).tolist() for _ in range(len(pairs) - 1)]
    scores = np.tile(np.linspace(1, 0, depth, dtype=np.float32), len(lists))
    return Candidates(Lists.from_lists([*lists, []]), scores, {"source": "random"})


def spread(model: CrossEncoder, factor: float = 1000.0) -> CrossEncoder:
    """Make the logits of a fresh head differ enough for a wrong one to be seen."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and weight.shape[0] == 1:
                weight.mul_(factor)
    return model
