"""Recall, latency and size of each kind of index against flat, on made-up clustered vectors or on a folder of yours.

    python -m benchmarks.index --documents 100000 --plot index.svg
    python -m benchmarks.index --vectors vectors/
    python -m benchmarks.index --terms 384 --queries 20          dense and lexical halves together

Made-up vectors lie around random centres, as embeddings do; on unstructured noise every approximation looks bad.
Made-up lexical halves hold `--terms` terms drawn evenly from the vocabulary, with weights that fall off quickly.
Queries are documents with noise added. The largest memory of the process is printed at the end; it counts the
pages of mapped files, which the system may take back.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from benchmarks import common
from retromae.retrieval.kinds import KINDS
from retromae.retrieval.shards import Manifest, VectorStore, write_shard
from retromae.retrieval.tradeoff import COLUMNS, draw, measure, near, rows_of, sweeps_of
from retromae.retrieval.vectors import Vectors
from retromae.text.store import Passage

_SHARD = 16384


def made_up_store(
    folder: Path, documents: int, dimension: int, seed: int, terms: int = 0, vocabulary: int = 30522
) -> VectorStore:
    """Unit vectors around one centre for every hundred documents, written shard by shard."""
    centres = np.random.default_rng(seed).standard_normal(
        (max(1, documents // 100), dimension), dtype=np.float32
    )
    for shard, start in enumerate(range(0, documents, _SHARD)):
        draws = np.random.default_rng([seed, shard])
        size = min(_SHARD, documents - start)
        points = centres[draws.integers(0, len(centres), size)]
        points = points + draws.standard_normal((size, dimension), dtype=np.float32)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        passages = [Passage(str(number), "", "") for number in range(start, start + size)]
        lexical = made_up_terms(draws, size, terms, vocabulary) if terms else None
        write_shard(folder, shard, Vectors(points, lexical, "made up"), passages, "float32")
    Manifest("made up", dimension, vocabulary if terms else None, "float32", documents, _SHARD).write(folder)
    return VectorStore(folder)


def made_up_terms(draws: np.random.Generator, documents: int, terms: int, vocabulary: int) -> csr_array:
    """(documents, vocabulary): in every row one term out of each of `terms` stretches of the vocabulary."""
    bounds = np.linspace(0, vocabulary, terms + 1).astype(np.int64)
    chosen = draws.integers(bounds[:-1], bounds[1:], size=(documents, terms))
    weights = draws.exponential(0.1, size=chosen.size).astype(np.float32)
    starts = np.arange(documents + 1) * terms
    return csr_array((weights, chosen.ravel().astype(np.int32), starts), shape=(documents, vocabulary))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=Path, help="a folder of vectors instead of made-up ones")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--terms", type=int, default=0, help="terms of each made-up document's lexical half")
    parser.add_argument("--vocabulary", type=int, default=30522, help="of the made-up lexical half")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="default: all that can be measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help=".png, .svg or .pdf")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        if options.vectors:
            store = VectorStore(options.vectors)
        else:
            store = made_up_store(
                Path(temporary) / "vectors",
                options.documents,
                options.dimension,
                options.seed,
                options.terms,
                options.vocabulary,
            )
        possible = sweeps_of(store)
        strangers = sorted({*(options.kinds or possible)} - possible.keys())
        if strangers:
            parser.error(f"of these vectors, {', '.join(possible)} are measured, not {', '.join(strangers)}")
        sweeps = {kind: possible[kind] for kind in options.kinds or possible}
        figures = measure(
            store, near(store, options.queries, options.seed), k=options.k, sweeps=sweeps, folder=temporary
        )
        lexical = " and a lexical half" if store.manifest.vocabulary is not None else ""
        title = f"{len(store):,} vectors of {store.manifest.dimension} dimensions{lexical}"
    common.print_table(f"{title}, recall@{options.k}", list(COLUMNS), rows_of(figures))
    unit = 2**30 if sys.platform == "darwin" else 2**20
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GiB")
    if options.plot:
        draw(figures, options.plot, title=title)
    if options.json:
        common.write_json(options.json, {"corpus": title, "figures": figures}, seed=options.seed)


if __name__ == "__main__":
    common.script(main)
