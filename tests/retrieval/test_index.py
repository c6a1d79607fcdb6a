"""Dense indexes of every kind against brute force, on disk and back."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval.corpora import brute_force, make_store, random_vectors
from retromae.core.errors import UserError
from retromae.core.ranking import top_k
from retromae.retrieval.index import VectorIndex, build_index
from retromae.retrieval.kinds import KINDS
from retromae.retrieval.shards import VectorStore
from retromae.retrieval.tradeoff import draw, measure, near

# How many of flat's ten results each kind must find on these.
RECALL = {"flat": 1.0, "hnsw": 0.95, "ivfpq": 0.7, "int8": 0.99, "binary": 0.6}
DOCUMENTS = random_vectors(1000, 32, 0)
QUERIES = random_vectors(40, 32, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return make_store(tmp_path_factory.mktemp("vectors") / "v", DOCUMENTS, shard_size=300)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_and_exact_scores(store: VectorStore, tmp_path: Path, kind: str) -> None:
    index = build_index(store, tmp_path / "index", kind)
    expected = brute_force(QUERIES, DOCUMENTS)
    truth, _ = top_k(expected, index.passages.ids, 10)
    found = index.search(QUERIES, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.places, truth)])
    assert recall >= RECALL[kind]
    exact = np.take_along_axis(expected, found.places, axis=1)
    np.testing.assert_allclose(found.scores, exact, rtol=1e-5, atol=1e-4)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    if kind == "flat":
        np.testing.assert_array_equal(found.places, truth)
    again = VectorIndex(tmp_path / "index").run([f"q{n}" for n in range(40)], QUERIES, 10)
    assert again["q3"].ids == [f"d{place:04d}" for place in found.places[3]]
    assert index.passages[7].text == "what d0007 says"
    assert len(index.search(QUERIES, 5000).places[0]) == 1000
    documents = index.document_vectors([5, 2])
    np.testing.assert_allclose(documents.dense, DOCUMENTS.dense[[5, 2]], atol=1e-6)


def test_the_size_follows_the_kind(store: VectorStore, tmp_path: Path) -> None:
    sizes = {kind: build_index(store, tmp_path / kind, kind).size for kind in ("flat", "int8", "binary")}
    assert sizes["flat"] / sizes["int8"] == pytest.approx(4, rel=0.05)
    assert sizes["flat"] / sizes["binary"] == pytest.approx(32, rel=0.1)


def test_search_parameters_trade_recall_for_speed(store: VectorStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index", "ivfpq", lists=20, bytes=8)
    truth, _ = top_k(brute_force(QUERIES, DOCUMENTS), [f"d{n:04d}" for n in range(1000)], 10)
    recall = []
    for parameters in ({"probes": 1}, {"probes": 20}, {"probes": 20, "rescore": 40}):
        found = VectorIndex(tmp_path / "index", **parameters).search(QUERIES, 10)
        recall.append(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found.places, truth)]))
    assert recall[0] < recall[1] < recall[2]


def test_few_results_of_few_lists(store: VectorStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index", "ivfpq", lists=25, bytes=8)
    run = VectorIndex(tmp_path / "index", probes=1).run(["q"], QUERIES.rows(slice(0, 1)), 900)
    assert 0 < len(run["q"].ids) < 900


@pytest.mark.parametrize("kind", ["flat", "int8"])
def test_ties_go_by_id_at_the_cut_too(tmp_path: Path, kind: str) -> None:
    """200 documents, all but ten of them the same: far more ties than results."""
    dense = np.repeat(random_vectors(1, 16, 0).dense, 200, axis=0)
    dense[::20] += 0.1
    ids = [f"d{n:03d}" for n in np.random.default_rng(0).permutation(200)]
    vectors = replace(random_vectors(200, 16, 0), dense=dense)
    index = build_index(make_store(tmp_path / "v", vectors, shard_size=33, ids=ids), tmp_path / "index", kind)
    queries = random_vectors(5, 16, 3)
    expected = brute_force(queries, vectors).astype(np.float32).astype(np.float64)
    for k in (1, 12, 150) if kind == "flat" else (200,):
        truth, _ = top_k(np.round(expected, 4), ids, k)
        np.testing.assert_array_equal(index.search(queries, k).places, truth)


def test_another_models_query_is_refused(store: VectorStore, tmp_path: Path) -> None:
    index = build_index(store, tmp_path / "index")
    with pytest.raises(UserError, match="made by another model"):
        index.search(replace(QUERIES, fingerprint="4567"), 10)
    broken = QUERIES.dense.copy()
    broken[3, 0] = np.nan
    with pytest.raises(UserError, match="query 4 holds NaN"):
        index.search(replace(QUERIES, dense=broken), 10)
    with pytest.raises(UserError, match="at least 1 result"):
        index.search(QUERIES, 0)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("annoy", {}, "no index of kind 'annoy'; choose one of flat, hnsw"),
        ("flat", {"probes": 3}, "unknown setting 'probes'"),
        ("hnsw", {"effort": 0}, "effort is 0"),
        ("ivfpq", {"bytes": 7}, "cannot cut 32 dimensions into 7 bytes"),
        ("ivfpq", {"lists": 2000}, "1000 vectors into 2000 lists"),
    ],
)
def test_bad_parameters(
    store: VectorStore, tmp_path: Path, kind: str, parameters: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_index(store, tmp_path / "index", kind, **parameters)
    assert not list(tmp_path.iterdir())


def test_bad_vectors(tmp_path: Path) -> None:
    few = make_store(tmp_path / "few", random_vectors(50, 8, 0))
    with pytest.raises(UserError, match="at least 256 vectors"):
        build_index(few, tmp_path / "index", "ivfpq")
    twice = make_store(tmp_path / "twice", random_vectors(50, 8, 0), ids=["a"] * 50)
    with pytest.raises(UserError, match="holds a document id twice"):
        build_index(twice, tmp_path / "index")
    dense = np.load(tmp_path / "few" / "shard-00001" / "dense.npy", mmap_mode="r+")
    dense[3, 2] = np.nan
    dense.flush()
    with pytest.raises(UserError, match=r"'d0043' .* holds NaN"):
        build_index(few, tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("name", ["dense.faiss", "passages.arrow", "ranks.npy", "vectors.npy", "index.json"])
def test_a_damaged_index_is_refused(store: VectorStore, tmp_path: Path, name: str) -> None:
    build_index(store, tmp_path / "index", "int8")
    os.truncate(tmp_path / "index" / name, 20)
    with pytest.raises(UserError, match="build the index again"):
        VectorIndex(tmp_path / "index")
    with pytest.raises(UserError, match="is no index"):
        VectorIndex(tmp_path)


def test_killed_at_random_and_built_again(store: VectorStore, tmp_path: Path) -> None:
    """Whenever the build dies, there is a whole index or none, and the next build leaves nothing else behind."""
    draw_delay = random.Random(0)
    folder = tmp_path / "index"
    for _ in range(8):
        child = os.fork()
        if not child:
            try:
                build_index(store, folder)  # flat: it starts no threads, which a fork does not have
            finally:
                os._exit(0)
        time.sleep(draw_delay.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if folder.exists():
            assert len(VectorIndex(folder)) == len(store)
    assert len(build_index(store, folder)) == len(store)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_killed_between_the_two_renames_of_a_rebuild(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old index has been set aside, the new one is not there yet: the old one is opened."""
    folder, rename = tmp_path / "index", os.replace
    build_index(store, folder, "hnsw")
    child = os.fork()
    if not child:

        def dying(source: Path, target: Path) -> None:
            rename(source, target)
            if source == folder:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(os, "replace", dying)
        try:
            build_index(store, folder)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL and not folder.exists()
    assert VectorIndex(folder).kind == "hnsw"
    assert build_index(store, folder).kind == "flat"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_the_trade_off_of_both_halves(tmp_path: Path) -> None:
    both = make_store(tmp_path / "v", random_vectors(300, 16, 0, vocabulary=50, terms=9), shard_size=110)
    queries = near(both, 20)
    assert queries.lexical is not None and queries.lexical.shape == (20, 50)
    sweeps = {"flat": [{}, {"depth": 15}, {"depth": 300}], "hnsw": [{"depth": 20, "effort": 300}]}
    figures = measure(both, queries, sweeps=sweeps, folder=tmp_path)  # type: ignore[arg-type]
    exact, few, all_, graph = (one.recall for one in figures)
    assert exact == all_ == 1.0 and few < 1.0 and graph > 0.5
    index = build_index(both, tmp_path / "index")
    assert figures[0].bytes > index.size + 300 * 9 * 16  # ids and weights, by document and by term


def test_the_trade_off_is_measured_and_drawn(store: VectorStore, tmp_path: Path) -> None:
    sweeps = {"flat": [{}], "ivfpq": [{"probes": 1}, {"probes": 50}]}
    figures = measure(
        store, QUERIES, sweeps=sweeps, build={"ivfpq": {"lists": 20, "bytes": 8}}, folder=tmp_path
    )  # type: ignore[arg-type]
    assert [(one.kind, one.parameters) for one in figures] == [
        ("flat", {}),
        ("ivfpq", {"probes": 1}),
        ("ivfpq", {"probes": 50}),
    ]
    assert figures[0].recall == 1.0
    assert figures[1].recall < figures[2].recall <= 1.0
    assert all(0 < one.p50 <= one.p99 for one in figures)
    assert figures[2].bytes < figures[0].bytes
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        draw(figures, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]
    with pytest.raises(UserError, match=r"must end in \.png"):
        draw(figures, tmp_path / "a.txt")
    json.dumps([vars(one) for one in figures])
