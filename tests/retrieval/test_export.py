"""Export to Qdrant, on its local mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.corpora import brute_force, make_store, random_vectors
from retromae.core.errors import UserError
from retromae.retrieval.export import open_exportable, open_qdrant, sparse_query, to_qdrant
from retromae.retrieval.index import build_index


@pytest.fixture(autouse=True)
def qdrant_client() -> Any:
    """Imported when it is needed, for it takes seconds."""
    return pytest.importorskip("qdrant_client", reason="qdrant-client is not installed (extra `qdrant`)")


@pytest.fixture
def client(qdrant_client: Any) -> Any:
    return qdrant_client.QdrantClient(":memory:")


@pytest.mark.parametrize("kind", [None, "flat", "hnsw", "int8"])
def test_both_halves_score_as_the_definition(client: Any, tmp_path: Path, kind: str | None) -> None:
    """Of a folder of vectors, and of indexes of it."""
    documents = random_vectors(60, 8, 0, vocabulary=30, terms=6)
    queries = random_vectors(1, 8, 1, vocabulary=30, terms=30)
    store = make_store(tmp_path / "vectors", documents, shard_size=25)
    if kind is not None:
        build_index(store, tmp_path / "index", kind)
    source = open_exportable(tmp_path / "vectors" if kind is None else tmp_path / "index")
    assert to_qdrant(source, client, "notes", batch_size=7) == 60
    assert client.count("notes").count == 60
    total = np.zeros(60)
    for using, query in (("dense", queries.dense[0].tolist()), ("lexical", sparse_query(queries))):
        for point in client.query_points("notes", query=query, using=using, limit=60).points:
            total[point.id] += point.score
    np.testing.assert_allclose(total, brute_force(queries, documents)[0], atol=1e-4)
    payload = client.retrieve("notes", [26])[0].payload
    assert payload == {"id": "d0026", "title": "title of d0026", "text": "what d0026 says"}


def test_it_may_be_repeated_but_not_mixed(client: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "dense", random_vectors(30, 8, 0))
    for _ in range(2):
        assert to_qdrant(store, client, "notes") == 30
    assert client.count("notes").count == 30
    for name, vectors in (
        ("wide", random_vectors(5, 9, 0)),
        ("both", random_vectors(5, 8, 0, vocabulary=9, terms=2)),
        ("few", random_vectors(29, 8, 0)),
    ):
        with pytest.raises(UserError, match="holds other vectors"):
            to_qdrant(make_store(tmp_path / name, vectors), client, "notes")
    with pytest.raises(UserError, match="no lexical half"):
        sparse_query(random_vectors(1, 8, 0))


def test_an_index_without_whole_vectors_is_refused(tmp_path: Path) -> None:
    build_index(
        make_store(tmp_path / "vectors", random_vectors(60, 8, 0)), tmp_path / "index", "int8", rescore=0
    )
    with pytest.raises(UserError, match="keeps no whole vectors"):
        open_exportable(tmp_path / "index")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "vectors", random_vectors(5, 8, 0))
    with (
        pytest.raises(UserError, match=r"Qdrant at http://127\.0\.0\.1:9 failed"),
        open_qdrant(url="http://127.0.0.1:9") as client,
    ):
        to_qdrant(store, client, "notes")
    with (
        open_qdrant(tmp_path / "local"),
        pytest.raises(UserError, match=r"cannot open Qdrant at .*local"),
        open_qdrant(tmp_path / "local"),
    ):
        pass
