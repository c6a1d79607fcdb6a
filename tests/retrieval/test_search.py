"""From a corpus to passages with reasons, and back from disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retromae.core.errors import UserError
from retromae.retrieval import search
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import VectorIndex, build_index
from retromae.retrieval.search import Searcher
from retromae.text.store import Passage
from tiny import SENTENCES

Folder = Callable[[str], Path]
CORPUS = [Passage(f"p{n:02d}", "note", text) for n, text in enumerate(SENTENCES)]
QUERIES = {
    f"q{n}": text for n, text in enumerate(["bees and the grove", "copper wire", "ice keeps fish", "an owl"])
}


@pytest.fixture(scope="module")
def indexes(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two indexes: `dense` and `both`."""
    folder = tmp_path_factory.mktemp("indexes")
    encoders = {
        "dense": Encoder.open(tiny_folder("bert"), pooling="mean", query_prompt="ask: ", max_query_length=12),
        "both": Encoder.open(tiny_folder("bert"), lexical_terms=40),
    }
    for name, encoder in encoders.items():
        store = embed_corpus(encoder, lambda: iter(CORPUS), folder / f"{name}-vectors", shard_size=9)
        assert store is not None
        build_index(store, folder / name)
    return folder


@pytest.mark.parametrize("name", ["dense", "both"])
def test_results_are_those_of_scoring_every_passage(indexes: Path, name: str) -> None:
    searcher = Searcher.open(indexes / name)
    assert searcher.encoder.query_prompt == ("ask: " if name == "dense" else "")
    hits = searcher.search(QUERIES["q1"], k=24)
    reasons = {p.id: searcher.encoder.explain(QUERIES["q1"], p.text, p.title) for p in CORPUS}
    for hit in hits:
        why = reasons[hit.passage.id]
        assert hit.score == pytest.approx(why.score, rel=1e-4, abs=1e-4)
        assert (hit.why.dense, hit.why.lexical) == pytest.approx((why.dense, why.lexical), rel=1e-3, abs=1e-3)
        assert [term for term, _ in hit.why.terms[:3]] == [term for term, _ in why.terms[:3]]
        assert hit.passage in CORPUS
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert (hits[0].why.terms == []) == (name == "dense")
    assert [hit.passage for hit in searcher.search(QUERIES["q1"], k=5)] == [hit.passage for hit in hits[:5]]


def test_a_run_of_many_queries(indexes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = Searcher.open(indexes / "both")
    run = searcher.run(QUERIES, k=6)
    assert list(run) == list(QUERIES)
    for query, text in QUERIES.items():
        hits = searcher.search(text, k=6)
        assert run[query].ids == [hit.passage.id for hit in hits]
        np.testing.assert_allclose(run[query].scores, [hit.score for hit in hits], rtol=1e-5)
    monkeypatch.setattr(search, "_QUERIES", 3)
    pieces = searcher.run(QUERIES, k=6)
    assert [pieces[query].ids for query in QUERIES] == [run[query].ids for query in QUERIES]


def test_bad_input(indexes: Path, tiny_folder: Folder, tmp_path: Path) -> None:
    searcher = Searcher.open(indexes / "both")
    with pytest.raises(UserError, match="query 1 of 1 is empty"):
        searcher.search("  ")
    with pytest.raises(UserError, match="query 'b' is empty"):
        searcher.run({"a": "x", "b": ""})
    with pytest.raises(UserError, match="made by another model"):
        Searcher(VectorIndex(indexes / "dense"), searcher.encoder)
    with pytest.raises(UserError, match="made by another model"):
        Searcher.open(indexes / "dense", tiny_folder("electra"))
    moved = shutil.copytree(tiny_folder("bert"), tmp_path / "moved")
    assert len(Searcher.open(indexes / "dense", moved).search("salt", k=3)) == 3
