"""Queries of people over a part of a set's passages: what judging a retriever takes here in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from retromae.app.dev import DevSet, dev_set

METRIC = "nDCG@10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--passages", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)


def queries_of(folder: str | Path, options: argparse.Namespace, cache: str) -> DevSet:
    """Of a BEIR folder: so many queries, over all their answers, BM25's best and random passages."""
    queries, _ = dev_set(
        folder,
        options.split,
        train="train",
        queries=options.queries,
        passages=options.passages,
        metric=METRIC,
        cache=cache,
        seed=options.seed,
    )
    return queries
