"""Vectors of a corpus on disk, in shards that are whole or absent.

    vectors/vectors.json                  whose vectors, of how many documents, in which form
            shard-00000/dense.npy         (n, d) float32 or float16
                        starts.npy terms.npy weights.npy    the lexical half in rows, where there is one
                        passages.arrow    ids, titles, texts
                        shard.json        documents, digest of their ids and texts, sizes of the files

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
from retromae.retrieval.vectors import Vectors
from retromae.text.store import Passage, Passages, write_passages

Precision = Literal["float32", "float16"]
MANIFEST = "vectors.json"


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
        facts = {"documents": len(documents), "digest": digest_of(documents), "files": sizes}
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

    def vectors(self) -> Vectors:
        """Everything in memory: for small corpora."""
        dense = [np.asarray(shard.dense, dtype=np.float32) for shard in self.shards()]
        lexical = None
        if self.manifest.vocabulary is not None:
            rows = [
                csr_array((weights, terms, starts), shape=(len(starts) - 1, self.manifest.vocabulary))
                for starts, terms, weights in (shard.lexical_parts for shard in self.shards())
            ]
            lexical = vstack(rows, format="csr")
        joined = np.concatenate([*dense, np.empty((0, self.manifest.dimension), np.float32)])
        return Vectors(joined, lexical, self.manifest.fingerprint)
