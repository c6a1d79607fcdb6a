"""Recall, latency and size of each kind of index against flat, on made-up clustered vectors or on a folder of yours.

    python benchmarks/index.py --documents 100000 --plot index.svg
    python benchmarks/index.py --vectors vectors/ --documents 0

Made-up vectors lie around random centres, as embeddings do; on unstructured noise every approximation looks bad.
Queries are documents with noise added. The largest memory of the process is printed at the end.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import common
from retromae.retrieval.kinds import KINDS
from retromae.retrieval.passages import Passage
from retromae.retrieval.shards import Manifest, VectorStore, write_shard
from retromae.retrieval.tradeoff import SWEEPS, draw, measure
from retromae.retrieval.vectors import Vectors

_SHARD = 16384


def made_up_store(folder: Path, documents: int, dimension: int, seed: int) -> VectorStore:
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
        write_shard(folder, shard, Vectors(points, None, "made up"), passages, "float32")
    Manifest("made up", dimension, None, "float32", documents, _SHARD).write(folder)
    return VectorStore(folder)


def near(store: VectorStore, count: int, seed: int) -> Vectors:
    """Queries: documents spread over the corpus, with noise of half their length added."""
    draws = np.random.default_rng([seed, 1])
    rows = []
    for shard in store.shards():
        dense = shard.dense
        wanted = draws.choice(
            len(dense), size=min(len(dense), -(-count // store.manifest.shards)), replace=False
        )
        rows.append(np.asarray(dense[np.sort(wanted)], dtype=np.float32))
    points = np.concatenate(rows)[:count]
    noise = draws.standard_normal(points.shape, dtype=np.float32)
    noise *= (
        0.5 * np.linalg.norm(points, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    )
    return Vectors(points + noise, None, store.manifest.fingerprint)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=Path, help="a folder of vectors instead of made-up ones")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help=".png, .svg or .pdf")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        if options.vectors:
            store = VectorStore(options.vectors)
        else:
            store = made_up_store(
                Path(temporary) / "vectors", options.documents, options.dimension, options.seed
            )
        sweeps = {kind: SWEEPS[kind] for kind in options.kinds}
        figures = measure(
            store, near(store, options.queries, options.seed), k=options.k, sweeps=sweeps, folder=temporary
        )
        title = f"{len(store):,} vectors of {store.manifest.dimension} dimensions"
    rows = [
        [
            " ".join([one.kind, *(f"{name}={value}" for name, value in one.parameters.items())]),
            f"{one.recall:.3f}",
            f"{one.p50:.2f}",
            f"{one.p99:.2f}",
            f"{one.bytes / 2**20:,.1f}",
            f"{one.build_seconds:.1f}",
        ]
        for one in figures
    ]
    columns = ["", f"recall@{options.k}", "p50 ms", "p99 ms", "MiB", "build s"]
    common.print_table(title, columns, rows)
    unit = 2**30 if sys.platform == "darwin" else 2**20
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GiB")
    if options.plot:
        draw(figures, options.plot, title=title)
    if options.json:
        common.write_json(options.json, {"corpus": title, "figures": figures}, seed=options.seed)


if __name__ == "__main__":
    main()
