"""The kinds of dense index by name: their parameters, how faiss is set up for each, and how it is searched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from retromae.core.config import from_dict, setting
from retromae.core.errors import UserError
from retromae.retrieval import quantise

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Parts = Callable[[], Iterable[Floats]]  # the corpus' vectors, a piece at a time
Kind = Literal["flat", "hnsw", "ivfpq", "int8", "binary"]


@dataclass
class Flat:
    """Every vector is compared: exact."""


@dataclass
class HNSW:
    """A graph of near neighbours over the whole vectors."""

    links: int = setting(32, "neighbours of each vector (M)")
    build_effort: int = setting(128, "candidates looked at while building (efConstruction)")
    effort: int = setting(128, "candidates looked at while searching (efSearch)")


@dataclass
class IVFPQ:
    """Vectors in lists by their nearest centre, each kept in a few bytes."""

    lists: int = setting(0, "number of lists; 0 takes 4 √n")
    probes: int = setting(32, "lists looked at while searching")
    bytes: int = setting(0, "bytes per vector; 0 takes one for every 4 dimensions or so")
    rescore: int = setting(4, "candidates per result that are scored with the whole vector; 0 turns it off")


@dataclass
class Int8:
    """One byte per dimension."""

    rescore: int = setting(4, "candidates per result that are scored with the whole vector; 0 turns it off")


@dataclass
class Binary:
    """One bit per dimension."""

    rescore: int = setting(10, "candidates per result that are scored with the whole vector")


FEWEST = {"ivfpq": 256}  # vectors that a kind learns from
_faiss: Any = faiss  # its stubs lack what is made when it is loaded
Parameters = Flat | HNSW | IVFPQ | Int8 | Binary
KINDS: dict[str, type[Parameters]] = {
    "flat": Flat,
    "hnsw": HNSW,
    "ivfpq": IVFPQ,
    "int8": Int8,
    "binary": Binary,
}


def parameters_of(kind: str, values: Mapping[str, Any]) -> Parameters:
    if kind not in KINDS:
        raise UserError(f"there is no index of kind {kind!r}; choose one of {', '.join(KINDS)}.")
    chosen: Parameters = from_dict(KINDS[kind], values, f"index of kind {kind}")
    for name, value in vars(chosen).items():
        if value < (0 if name in ("lists", "bytes", "rescore") else 1):
            raise UserError(f"index of kind {kind}: {name} is {value}, which is too small.")
    return chosen


def build(parameters: Parameters, dimension: int, count: int, parts: Parts) -> Any:
    """A faiss index of all vectors. Only one part and the index itself are held."""
    match parameters:
        case Flat():
            index: Any = faiss.IndexFlatIP(dimension)
        case HNSW():
            index = faiss.IndexHNSWFlat(dimension, parameters.links, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = parameters.build_effort
        case IVFPQ():
            index = _trained_ivfpq(parameters, dimension, count, parts)
        case Int8() | Binary():
            return _quantised("int8" if isinstance(parameters, Int8) else "binary", dimension, parts)
    for part in parts():
        index.add(part)
    return index


def _quantised(kind: quantise.Quantised, dimension: int, parts: Parts) -> Any:
    ranges = quantise.ranges_of(parts()) if kind == "int8" else None
    index = quantise.new_index(kind, dimension, ranges)
    for part in parts():
        quantise.add(index, kind, quantise.codes_of(part, kind, ranges))
    return index


def _trained_ivfpq(parameters: IVFPQ, dimension: int, count: int, parts: Parts) -> Any:
    if count < FEWEST["ivfpq"]:
        raise UserError(
            f"an index of kind ivfpq needs at least {FEWEST['ivfpq']} vectors to learn from, got {count}; use flat."
        )
    lists = parameters.lists or max(1, min(int(4 * count**0.5), count // 39))  # faiss asks for 39 a list
    size = parameters.bytes or max(n for n in range(1, max(1, dimension // 4) + 1) if dimension % n == 0)
    if dimension % size or lists > count:
        raise UserError(
            f"an index of kind ivfpq cannot cut {dimension} dimensions into {size} bytes, or {count} vectors "
            f"into {lists} lists."
        )
    quantiser = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFPQ(quantiser, dimension, lists, size, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # what is too little was said above
    index.pq.cp.min_points_per_centroid = 1
    index.train(sample(parts(), count, max(256 * 64, 64 * lists)))
    return index


def sample(parts: Iterable[Floats], count: int, size: int) -> Floats:
    """`size` vectors, or all, spread evenly over the corpus."""
    wanted = np.unique(np.linspace(0, count - 1, min(size, count)).astype(np.int64))
    return np.concatenate(list(_picked(parts, wanted)))


def _picked(parts: Iterable[Floats], wanted: Integers) -> Iterator[Floats]:
    start = 0
    for part in parts:
        inside = wanted[(wanted >= start) & (wanted < start + len(part))]
        yield np.ascontiguousarray(part[inside - start])
        start += len(part)


def search(index: Any, parameters: Parameters, queries: Floats, fetch: int) -> tuple[Integers, Floats]:
    """Positions and scores (q, fetch), best first; position −1 where there is no more."""
    match parameters:
        case Int8():
            return quantise.search(index, "int8", queries, fetch)
        case Binary():
            return quantise.search(index, "binary", queries, fetch)
        case HNSW():
            how = _faiss.SearchParametersHNSW(efSearch=max(parameters.effort, fetch))
        case IVFPQ():
            how = _faiss.SearchParametersIVF(nprobe=parameters.probes)
        case Flat():
            how = None
    scores, places = index.search(queries, fetch, params=how)
    return places, scores


def whole_vectors(index: Any, parameters: Parameters) -> Floats | None:
    """(n, d), not copied, of an index that holds them."""
    if isinstance(parameters, HNSW):
        index = faiss.downcast_index(index.storage)
    elif not isinstance(parameters, Flat):
        return None
    flat: Floats = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return flat.reshape(index.ntotal, index.d)


def write(index: Any, path: str) -> None:
    (faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index)(index, path)


def read(path: str, parameters: Parameters) -> Any:
    """Whole vectors stay in the file, which is memory-mapped."""
    try:
        if isinstance(parameters, Binary):
            return faiss.read_index_binary(path)
        mapped = isinstance(parameters, Flat | HNSW)
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError:
        raise UserError(f"{path} is missing, truncated or damaged; build the index again.") from None
