"""Hand an index over to Qdrant, for serving at scale: dense and sparse named vectors, and the texts as payload.

    collection   vectors "dense" (dot product), sparse vectors "lexical" where there is a lexical half
    point        id = position in the index; payload {"id", "title", "text"}

Qdrant's score of "dense" plus its score of "lexical" is the score of our definition.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retromae.core.errors import UserError
from retromae.retrieval.embed import progress_of
from retromae.retrieval.index import VectorIndex
from retromae.retrieval.shards import MANIFEST, VectorStore
from retromae.retrieval.vectors import Vectors
from retromae.text.store import Passage

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import PointStruct, SparseVector

DENSE, LEXICAL = "dense", "lexical"
KEY = "QDRANT_API_KEY"  # the environment variable that a server's key is taken from


class Part(NamedTuple):
    """Some documents in a row; `first` is the position of the first one."""

    first: int
    vectors: Vectors
    passages: list[Passage]


def open_exportable(folder: str | Path) -> VectorIndex | VectorStore:
    """An index or a folder of vectors. An index that keeps its vectors in fewer bits alone is refused."""
    if (Path(folder) / MANIFEST).is_file():
        return VectorStore(folder)
    index = VectorIndex(folder)
    if not index.keeps_whole:
        raise UserError(
            f"{folder} is of kind {index.kind} and keeps no whole vectors; export the folder of vectors that it "
            "was made from."
        )
    return index


@contextmanager
def open_qdrant(folder: str | Path | None = None, url: str | None = None) -> Iterator[QdrantClient]:
    """Qdrant's local mode in a folder, or a server, whose key is taken from QDRANT_API_KEY."""
    if (folder is None) == (url is None):
        raise UserError("say where to export to: a folder (--out) or the address of a server (--url).")
    try:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ApiException
    except ImportError:
        raise UserError(
            "qdrant-client is not installed; install it with: pip install 'retromae[qdrant]'."
        ) from None
    try:
        if folder is not None:
            client = QdrantClient(path=str(folder))
        else:
            client = QdrantClient(url=url, api_key=os.environ.get(KEY), check_compatibility=False)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"cannot open Qdrant at {folder or url}: {_first_line(error)}") from None
    try:
        yield client
    except ApiException as error:
        raise UserError(f"Qdrant at {url} failed: {_first_line(error)}") from None
    finally:
        client.close()


def to_qdrant(
    source: VectorIndex | VectorStore,
    client: QdrantClient,
    collection: str,
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> int:
    """Write the vectors and passages of `source` to a new collection; returns the number of points.

    An interrupted export may be repeated: a collection of the same form is gone on with, its points are
    written over. One of another form, or with more points, is refused.
    """
    from qdrant_client import models

    dimension, lexical = _form_of(source)
    if client.collection_exists(collection):
        _refuse_other_form(client, collection, dimension, lexical, len(source))
    else:
        client.create_collection(
            collection,
            vectors_config={DENSE: models.VectorParams(size=dimension, distance=models.Distance.DOT)},
            sparse_vectors_config={LEXICAL: models.SparseVectorParams()} if lexical else None,
        )
    with progress_of("points", len(source), progress) as advance:
        for part in _parts(source, batch_size):
            client.upsert(collection, _points(part), wait=True)
            advance(len(part.passages))
    return len(source)


def sparse_query(vectors: Vectors, row: int = 0) -> SparseVector:
    """The lexical half of a query, as Qdrant takes it."""
    if vectors.lexical is None:
        raise UserError("these vectors have no lexical half; search with the dense one alone.")
    return _sparse(vectors, row)


def _sparse(vectors: Vectors, row: int) -> SparseVector:
    from qdrant_client import models

    assert vectors.lexical is not None
    found: Any = vectors.lexical[[row]]
    return models.SparseVector(indices=found.indices.tolist(), values=found.data.tolist())


def _form_of(source: VectorIndex | VectorStore) -> tuple[int, bool]:
    """The dimension of the dense half, and whether there is a lexical one."""
    if isinstance(source, VectorStore):
        return source.manifest.dimension, source.manifest.vocabulary is not None
    return source.dimension, source.lexical is not None


def _parts(source: VectorIndex | VectorStore, size: int) -> Iterator[Part]:
    if isinstance(source, VectorIndex):
        for start in range(0, len(source), size):
            places = range(start, min(start + size, len(source)))
            yield Part(start, source.document_vectors(places), [source.passages[place] for place in places])
        return
    for shard in source.shards():
        whole = Vectors(shard.dense, source.lexical_of(shard), source.manifest.fingerprint)
        passages = shard.passages
        for start in range(0, len(shard), size):
            places = range(start, min(start + size, len(shard)))
            rows = whole.rows(slice(places.start, places.stop))
            yield Part(shard.first + start, rows, [passages[place] for place in places])


def _points(part: Part) -> list[PointStruct]:
    from qdrant_client import models

    dense = np.asarray(part.vectors.dense, dtype=np.float32).tolist()
    points = []
    for row, passage in enumerate(part.passages):
        vector: dict[str, Any] = {DENSE: dense[row]}
        if part.vectors.lexical is not None:
            vector[LEXICAL] = _sparse(part.vectors, row)
        points.append(models.PointStruct(id=part.first + row, vector=vector, payload=passage._asdict()))
    return points


def _refuse_other_form(
    client: QdrantClient, collection: str, dimension: int, lexical: bool, points: int
) -> None:
    found = client.get_collection(collection).config.params
    vectors = found.vectors if isinstance(found.vectors, dict) else {}
    same = DENSE in vectors and vectors[DENSE].size == dimension
    if (
        not same
        or (LEXICAL in (found.sparse_vectors or {})) != lexical
        or client.count(collection).count > points
    ):
        raise UserError(
            f"the collection {collection!r} is there already and holds other vectors; choose another name or "
            "delete it."
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
