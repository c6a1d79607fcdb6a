"""What an index gives up for speed and size: recall against exact search, latency, bytes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import vstack

from retromae.core.errors import UserError
from retromae.core.files import replacing
from retromae.retrieval.index import VectorIndex, build_index
from retromae.retrieval.kinds import FEWEST, Kind
from retromae.retrieval.shards import VectorStore
from retromae.retrieval.vectors import Vectors

# For each kind, the search parameters that are gone through with one built index.
SWEEPS: dict[Kind, list[dict[str, int]]] = {
    "flat": [{}],
    "hnsw": [{"effort": effort} for effort in (16, 32, 64, 128, 256)],
    "ivfpq": [{"probes": probes} for probes in (4, 16, 64)],
    "int8": [{"rescore": 0}, {"rescore": 4}],
    "binary": [{"rescore": times} for times in (1, 4, 10, 40)],
}

# With a lexical half the score is the sum of both: exact, or of so many candidates of each half.
HYBRID_SWEEPS: dict[Kind, list[dict[str, int]]] = {
    "flat": [{}, {"depth": 100}, {"depth": 1000}],
    "hnsw": [{"depth": 100}, {"depth": 1000}],
    "ivfpq": [{"depth": 1000, "probes": probes} for probes in (16, 64)],
    "int8": [{"depth": 100}, {"depth": 1000}],
}
COLUMNS = ("kind", "recall", "p50 ms", "p99 ms", "MiB", "build s")


@dataclass(frozen=True)
class Figures:
    """One kind of index with one set of search parameters, on one corpus and one set of queries."""

    kind: str
    parameters: dict[str, int]
    recall: float  # share of the exact first k that are found
    p50: float  # milliseconds of one query
    p99: float
    bytes: int  # of the index, both halves, without whole vectors that candidates are scored again with
    build_seconds: float


def near(store: VectorStore, count: int, seed: int = 0) -> Vectors:
    """Stand-ins for queries: documents spread over the corpus, with noise of half their length added.

    A lexical half is the document's own, its weights changed by the same amount.
    """
    draws = np.random.default_rng([seed, 1])
    rows, lexical = [], []
    for shard in store.shards():
        dense = shard.dense
        wanted = draws.choice(
            len(dense), size=min(len(dense), -(-count // store.manifest.shards)), replace=False
        )
        rows.append(np.asarray(dense[np.sort(wanted)], dtype=np.float32))
        if (terms := store.lexical_of(shard)) is not None:
            lexical.append(terms[np.sort(wanted)])
    points = np.concatenate(rows)[:count]
    noise = draws.standard_normal(points.shape, dtype=np.float32)
    noise *= (
        0.5 * np.linalg.norm(points, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    )
    terms = vstack(lexical, format="csr")[:count] if lexical else None
    if terms is not None:
        terms.data = terms.data * (1 + 0.5 * draws.standard_normal(len(terms.data), dtype=np.float32))
    return Vectors(points + noise, terms, store.manifest.fingerprint)


def rows_of(figures: Sequence[Figures]) -> list[list[str]]:
    """The figures as cells of a table, under `COLUMNS`."""
    return [
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


def measure(
    store: VectorStore,
    queries: Vectors,
    *,
    k: int = 10,
    sweeps: Mapping[Kind, Sequence[Mapping[str, int]]] | None = None,
    build: Mapping[Kind, Mapping[str, Any]] | None = None,
    folder: str | Path | None = None,
) -> list[Figures]:
    """Build each kind over the vectors of `store`, search it query by query, and compare with exact search.

    `sweeps` holds the search parameters of each kind, and for a store with a lexical half `depth`; `build` holds
    parameters of the kinds' construction. Indexes are written below `folder`, or a temporary one.
    """
    if not len(queries):
        raise UserError("there is no query to measure with.")
    chosen = sweeps or sweeps_of(store)
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        flat, flat_seconds = _built(store, Path(temporary) / "flat", "flat", {})
        truth = flat.search(queries, k).places
        for kind, settings in chosen.items():
            index, seconds = flat, flat_seconds
            if kind != "flat":
                path = Path(temporary) / "index"  # one after another in the same place
                index, seconds = _built(store, path, kind, (build or {}).get(kind, {}))
            for parameters in settings:
                figures.append(_measured(index.folder, parameters, queries, truth, seconds))
    return figures


def sweeps_of(store: VectorStore) -> dict[Kind, list[dict[str, int]]]:
    """What is gone through for this store; a small one is no ground for every kind."""
    every = SWEEPS if store.manifest.vocabulary is None else HYBRID_SWEEPS
    return {kind: values for kind, values in every.items() if len(store) >= FEWEST.get(kind, 1)}


def _built(
    store: VectorStore, path: Path, kind: str, parameters: Mapping[str, Any]
) -> tuple[VectorIndex, float]:
    """The index and the seconds that it took."""
    start = time.perf_counter()
    return build_index(store, path, kind, **parameters), time.perf_counter() - start


def _measured(
    folder: Path, parameters: Mapping[str, int], queries: Vectors, truth: Any, seconds: float
) -> Figures:
    k, depth = truth.shape[1], parameters.get("depth")
    index = VectorIndex(folder, **{name: value for name, value in parameters.items() if name != "depth"})
    index.search(queries.rows(slice(0, 1)), k, depth=depth)  # pages are read, threads are started
    times, hits = [], 0
    for row in range(len(queries)):
        query = queries.rows(slice(row, row + 1))
        start = time.perf_counter()
        found = index.search(query, k, depth=depth)
        times.append(1e3 * (time.perf_counter() - start))
        hits += len(np.intersect1d(found.places[0], truth[row]))
    p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
    size = index.size + (index.lexical.size if index.lexical is not None else 0)
    return Figures(index.kind, dict(parameters), hits / truth.size, p50, p99, size, seconds)


def draw(figures: Sequence[Figures], path: str | Path, *, title: str = "") -> None:
    """Recall against latency, one line per kind, the size in the legend; PNG, SVG or PDF by the file's ending."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path} must end in .png, .svg or .pdf.")
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for kind in dict.fromkeys(one.kind for one in figures):
        line = sorted((one for one in figures if one.kind == kind), key=lambda one: one.p50)
        label = f"{kind}, {line[0].bytes / 2**20:,.1f} MiB"
        axes.plot([one.p50 for one in line], [one.recall for one in line], marker="o", label=label)
    axes.set(
        xscale="log", xlabel="milliseconds per query (median)", ylabel="recall against flat", title=title
    )
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}")  # 0.2 rather than 2 × 10⁻¹
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
    pyplot.close(figure)
