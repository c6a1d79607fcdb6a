"""Vectors of a corpus on disk, in shards that are whole or absent.

    vectors/vectors.json                  whose vectors, of how many documents, in which form
            shard-00000/dense.npy         (n, d) float32 or float16
                        starts.npy terms.npy weights.npy    the lexical half in rows, where there is one
                        passages.arrow    ids, titles, texts
                        shard.json        documents, those that were cut, digest of ids and texts, sizes of the files

A shard folder appears by renaming. Everything large is memory-mapped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json
from retromae.retrieval.vectors import Floats, Vectors
from retromae.text.store import Passage, Passages, write_passages

Precision = Literal["float32", "float16"]
MANIFEST = "vectors.json"
_PIECE = 1 << 22  # numbers of dense vectors that are held at once: 16 MiB


@dataclass(frozen=True)
class Manifest:
    """What a folder of vectors holds; known before the first vector is made."""

    fingerprint: str
    dimension: int
    vocabulary: int | None  # width of the lexical half
    dtype: Precision
    documents: int
    shard_size: int
    source: str = ""  # the encoder, and how to open it again
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shards(self) -> int:
        return -(-self.documents // self.shard_size)

    def size_of(self, shard: int) -> int:
        return min(self.shard_size, self.documents - shard * self.shard_size)

    @classmethod
    def read(cls, folder: Path) -> Self:
        try:
            return cls(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{folder} holds no {MANIFEST}; make it with `retromae encode`.") from None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder / MANIFEST} is damaged ({error}); encode the corpus again.") from None

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, dataclasses.asdict(self))


def shard_folder(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}"


def digest_of(documents: Sequence[Passage]) -> str:
    """Tells whether the documents of a shard are those that it was made of."""
    digest = hashlib.sha256()
    for document in documents:
        for part in document:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


def cut_of(vectors: Vectors) -> int:
    """How many of the texts were too long and cut, as far as anybody looked."""
    return 0 if vectors.cut is None else int(vectors.cut.sum())


def write_shard(
    folder: Path, shard: int, vectors: Vectors, documents: Sequence[Passage], dtype: Precision
) -> None:
    """Write one shard, whole or not at all. Vectors that are not finite, or not in `dtype`, are refused."""
    if len(vectors) != len(documents):
        raise ValueError(f"{len(vectors)} vectors for {len(documents)} documents")
    with np.errstate(over="ignore"):
        dense = vectors.dense.astype(dtype)
    finite = np.isfinite(dense).all(axis=1)
    if vectors.lexical is not None:
        broken = np.flatnonzero(~np.isfinite(vectors.lexical.data))
        finite[np.searchsorted(vectors.lexical.indptr, broken, side="right") - 1] = False
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        reason = (
            "NaN or infinity" if not np.isfinite(vectors.dense[row]).all() else f"a number beyond {dtype}"
        )
        advice = "look at the model's weights" if reason.startswith("NaN") else "choose float32"
        raise UserError(f"the vector of document {documents[row].id!r} holds {reason}; {advice}.")
    with replacing_folder(shard_folder(folder, shard)) as temporary:
        arrays = {"dense": dense}
        if vectors.lexical is not None:
            lexical = vectors.lexical
            arrays |= {"starts": lexical.indptr.astype(np.int64), "terms": lexical.indices.astype(np.int32)}
            arrays["weights"] = lexical.data.astype(np.float32)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        write_passages(temporary / "passages.arrow", [documents])
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        facts = {"documents": len(documents), "cut": cut_of(vectors), "digest": digest_of(documents)}
        facts["files"] = sizes
        write_json(temporary / "shard.json", facts)


@dataclass(frozen=True)
class Shard:
    """One finished shard, memory-mapped."""

    folder: Path
    first: int  # position of its first document in the corpus

    @cached_property
    def facts(self) -> dict[str, Any]:
        """shard.json, after a look at the size of every file."""
        try:
            facts: dict[str, Any] = json.loads((self.folder / "shard.json").read_text(encoding="utf-8"))
            whole = all(
                (self.folder / name).stat().st_size == size for name, size in dict(facts["files"]).items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise UserError(
                f"{self.folder} is truncated or damaged; delete it and encode again, which makes only what is missing."
            )
        return facts

    def __len__(self) -> int:
        return int(self.facts["documents"])

    @property
    def dense(self) -> npt.NDArray[Any]:
        """(n, d) in the type it was stored in."""
        return self._array("dense")

    def pieces(self) -> Iterator[Floats]:
        """The dense vectors in order, some at a time."""
        dense = self.dense
        step = max(1, _PIECE // dense.shape[1])
        for start in range(0, len(dense), step):
            yield np.ascontiguousarray(dense[start : start + step], dtype=np.float32)

    @property
    def has_lexical(self) -> bool:
        return "terms.npy" in self.facts["files"]

    @property
    def lexical_parts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """starts (n + 1), terms and weights: rows of the lexical half."""
        return self._array("starts"), self._array("terms"), self._array("weights")

    @property
    def passages(self) -> Passages:
        return Passages(self.folder / "passages.arrow")

    def _array(self, name: str) -> npt.NDArray[Any]:
        _ = self.facts
        array: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array


class VectorStore:
    """A finished folder of vectors. Opening it reads nothing but names and sizes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        missing = [
            n
            for n in range(self.manifest.shards)
            if not shard_folder(self.folder, n).joinpath("shard.json").is_file()
        ]
        if missing:
            raise UserError(
                f"{len(missing)} of {self.manifest.shards} shards in {self.folder} are not made yet; "
                "run the same `retromae encode` again to finish them."
            )
        for shard in self.shards():
            expected = self.manifest.size_of(shard.first // self.manifest.shard_size)
            if len(shard) != expected:
                raise UserError(
                    f"{shard.folder} holds {len(shard)} documents, not {expected}; delete it and encode again."
                )

    def __len__(self) -> int:
        return self.manifest.documents

    def shards(self) -> Iterator[Shard]:
        for number in range(self.manifest.shards):
            yield Shard(shard_folder(self.folder, number), number * self.manifest.shard_size)

    def ids(self) -> list[str]:
        return [text for shard in self.shards() for text in shard.passages.ids]

    def pieces(self) -> Iterator[Floats]:
        """All dense vectors in order, some at a time."""
        for shard in self.shards():
            yield from shard.pieces()

    def longest(self) -> float:
        """The length of the longest dense vector; one that is not finite is refused."""
        longest = 0.0
        for shard in self.shards():
            seen = 0
            for piece in shard.pieces():
                lengths = np.linalg.norm(piece.astype(np.float64), axis=1)
                if not np.isfinite(lengths).all():
                    document = shard.passages[seen + int(np.flatnonzero(~np.isfinite(lengths))[0])]
                    raise UserError(
                        f"the vector of document {document.id!r} in {shard.folder} holds NaN or infinity."
                    )
                longest, seen = max(longest, float(lengths.max())), seen + len(piece)
        return longest

    def copy_dense(self, path: Path) -> None:
        """All dense vectors as one file, (n, d) in the type that they are stored in."""
        shape = (len(self), self.manifest.dimension)
        whole = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(self.manifest.dtype), shape=shape)
        for shard in self.shards():
            whole[shard.first : shard.first + len(shard)] = shard.dense
        whole.flush()

    def lexical_of(self, shard: Shard) -> csr_array | None:
        """(n, V): the lexical half of one shard, where there is one."""
        if self.manifest.vocabulary is None:
            return None
        starts, terms, weights = shard.lexical_parts
        return csr_array((weights, terms, starts), shape=(len(shard), self.manifest.vocabulary))

    def vectors(self) -> Vectors:
        """Everything in memory: for small corpora."""
        dense = [np.asarray(shard.dense, dtype=np.float32) for shard in self.shards()]
        lexical = None
        if self.manifest.vocabulary is not None:
            lexical = vstack([self.lexical_of(shard) for shard in self.shards()], format="csr")
        joined = np.concatenate([*dense, np.empty((0, self.manifest.dimension), np.float32)])
        return Vectors(joined, lexical, self.manifest.fingerprint)
