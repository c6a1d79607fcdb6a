"""The lexical half and hybrid search against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from retrieval.corpora import brute_force, make_store, random_vectors
from retromae.core.errors import UserError
from retromae.core.ranking import top_k
from retromae.retrieval import inverted
from retromae.retrieval.index import build_index
from retromae.retrieval.inverted import InvertedIndex, build_inverted


def made(folder: Path, rows: csr_array, cut: int) -> InvertedIndex:
    parts = [rows[:cut], rows[cut:]]
    build_inverted(folder, lambda: ((p.indptr, p.indices, p.data) for p in parts), rows.shape[1])
    return InvertedIndex(folder)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_way_to_score_equals_the_definition(tmp_path: Path, data: st.DataObject) -> None:
    n, vocabulary = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 25))
    seed = data.draw(st.integers(0, 10_000))
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal((n, vocabulary)) * (draw.random((n, vocabulary)) < 0.3)
    index = made(tmp_path / f"{seed}-{n}-{vocabulary}", csr_array(dense.astype(np.float32)), n // 2)
    queries = draw.standard_normal((3, vocabulary)).astype(np.float32)
    expected = queries.astype(np.float64) @ dense.astype(np.float32).T
    np.testing.assert_allclose(np.stack([index.scores(query) for query in queries]), expected, atol=1e-5)
    places = draw.integers(-1, n, size=(3, 6))
    found = index.candidate_scores(queries, places)
    np.testing.assert_allclose(
        found, np.where(places < 0, 0, np.take_along_axis(expected, np.maximum(places, 0), axis=1)), atol=1e-5
    )
    np.testing.assert_array_equal(index.row(n - 1).toarray()[0], dense[-1].astype(np.float32))


def test_postings_are_added_up_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_vectors(50, 4, 0, vocabulary=30, terms=8).lexical
    index, query = (
        made(tmp_path / "index", rows, 20),
        np.random.default_rng(1).standard_normal(30).astype(np.float32),
    )
    whole = index.scores(query)
    monkeypatch.setattr(inverted, "_POSTINGS", 7)
    np.testing.assert_allclose(index.scores(query), whole, atol=1e-6)


def test_the_largest_terms_alone_are_an_approximation(tmp_path: Path) -> None:
    rows = random_vectors(50, 4, 0, vocabulary=30, terms=8).lexical
    index, query = (
        made(tmp_path / "index", rows, 20),
        np.random.default_rng(1).standard_normal(30).astype(np.float32),
    )
    kept = np.where(query >= np.sort(query)[-5], query, 0).astype(np.float32)
    np.testing.assert_array_equal(index.scores(query, 5), index.scores(kept))


@pytest.mark.parametrize("kind", ["flat", "hnsw", "int8"])
def test_hybrid_search_equals_brute_force(tmp_path: Path, kind: str) -> None:
    documents = random_vectors(300, 16, 0, vocabulary=60, terms=9)
    queries = random_vectors(70, 16, 1, vocabulary=60, terms=60)
    index = build_index(make_store(tmp_path / "vectors", documents, shard_size=77), tmp_path / "index", kind)
    expected = brute_force(queries, documents)
    places, _ = top_k(expected, index.passages.ids, 10)
    found = index.search(queries, 10)
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(expected, places, axis=1), rtol=1e-5, atol=1e-4
    )
    # With every document a candidate the approximation is exact; with few it finds most of what is best.
    np.testing.assert_array_equal(index.search(queries, 10, depth=300).places, places)
    some = index.search(queries, 10, depth=60)
    shared = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(some.places, places)])
    assert 0.6 < shared <= 1
    exact = np.take_along_axis(expected, some.places, axis=1)
    np.testing.assert_allclose(some.scores, exact, rtol=1e-5, atol=1e-4)


def test_equal_documents_are_ordered_by_id(tmp_path: Path) -> None:
    one = random_vectors(1, 8, 0, vocabulary=20, terms=5)
    same = one.rows(np.zeros(300, dtype=np.int64))  # more than the first candidates
    ids = [f"d{n}" for n in np.random.default_rng(0).permutation(300)]
    index = build_index(make_store(tmp_path / "vectors", same, shard_size=70, ids=ids), tmp_path / "index")
    for depth in (None, 300):
        run = index.run(["q"], random_vectors(1, 8, 1, vocabulary=20, terms=20), 12, depth=depth)
        assert run["q"].ids == sorted(ids)[:12]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing or truncated"):
        InvertedIndex(tmp_path)
    rows = random_vectors(5, 4, 0, vocabulary=30, terms=8).lexical
    with pytest.raises(UserError, match="of a vocabulary of 4"):
        build_inverted(tmp_path / "index", lambda: [(rows.indptr, rows.indices, rows.data)], 4)
    store = make_store(tmp_path / "vectors", random_vectors(300, 16, 0, vocabulary=60, terms=9))
    with pytest.raises(UserError, match="leave rescore above 0"):
        build_index(store, tmp_path / "no", "int8", rescore=0)
    index = build_index(store, tmp_path / "yes")
    with pytest.raises(UserError, match="at least 1 result and 1 candidate"):
        index.search(random_vectors(1, 16, 0, vocabulary=60, terms=60), 3, depth=0)
