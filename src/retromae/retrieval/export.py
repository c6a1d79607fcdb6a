"""Hand an index over to Qdrant, for serving at scale: dense and sparse named vectors, and the texts as payload.

    collection   vectors "dense" (dot product), sparse vectors "lexical" where there is a lexical half
    point        id = position in the index; payload {"id", "title", "text"}

Qdrant's score of "dense" plus its score of "lexical" is the score of our definition.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retromae.core.errors import UserError
from retromae.retrieval.shards import Shard, VectorStore
from retromae.retrieval.vectors import Vectors

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import PointStruct, SparseVector

DENSE, LEXICAL = "dense", "lexical"


def to_qdrant(store: VectorStore, client: QdrantClient, collection: str, *, batch_size: int = 256) -> int:
    """Write the vectors and passages of `store` to a new collection; returns the number of points.

    An interrupted export may be repeated: a collection of the same form is gone on with, its points are
    written over. One of another form is refused.
    """
    from qdrant_client import models

    manifest = store.manifest
    if client.collection_exists(collection):
        _refuse_other_form(client, collection, manifest.dimension, manifest.vocabulary is not None)
    else:
        sparse = {LEXICAL: models.SparseVectorParams()} if manifest.vocabulary is not None else None
        client.create_collection(
            collection,
            vectors_config={
                DENSE: models.VectorParams(size=manifest.dimension, distance=models.Distance.DOT)
            },
            sparse_vectors_config=sparse,
        )
    points = itertools.chain.from_iterable(_points(shard) for shard in store.shards())
    while part := list(itertools.islice(points, batch_size)):
        client.upsert(collection, part, wait=True)
    return len(store)


def sparse_query(vectors: Vectors, row: int = 0) -> SparseVector:
    """The lexical half of a query, as Qdrant takes it."""
    from qdrant_client import models

    if vectors.lexical is None:
        raise UserError("these vectors have no lexical half; search with the dense one alone.")
    found = vectors.lexical[[row]]
    return models.SparseVector(indices=found.indices.tolist(), values=found.data.tolist())


def _points(shard: Shard) -> Iterator[PointStruct]:
    from qdrant_client import models

    dense, passages = shard.dense, shard.passages
    lexical = shard.lexical_parts if shard.has_lexical else None
    for row in range(len(shard)):
        vector: dict[str, Any] = {DENSE: dense[row].tolist()}
        if lexical is not None:
            starts, terms, weights = lexical
            part = slice(int(starts[row]), int(starts[row + 1]))
            vector[LEXICAL] = models.SparseVector(indices=terms[part].tolist(), values=weights[part].tolist())
        yield models.PointStruct(id=shard.first + row, vector=vector, payload=passages[row]._asdict())


def _refuse_other_form(client: QdrantClient, collection: str, dimension: int, lexical: bool) -> None:
    found = client.get_collection(collection).config.params
    vectors = found.vectors if isinstance(found.vectors, dict) else {}
    same = DENSE in vectors and vectors[DENSE].size == dimension
    if not same or (LEXICAL in (found.sparse_vectors or {})) != lexical:
        raise UserError(
            f"the collection {collection!r} is there already and holds other vectors; choose another name or "
            "delete it."
        )
