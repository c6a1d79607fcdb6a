"""`retromae export` as people type it, to Qdrant's local mode."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.command_line import CommandLine
from retrieval.corpora import brute_force, make_store, random_vectors
from retromae.retrieval.export import open_qdrant, sparse_query
from retromae.retrieval.search import Searcher

Folder = Callable[[str], Path]


def test_from_a_corpus_to_qdrant(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    """Qdrant's two scores add up to the score that `search` gives, and the passages come along."""
    pytest.importorskip("qdrant_client")
    vectors, index, out = tmp_path / "vectors", tmp_path / "index", tmp_path / "qdrant"
    retromae.well(
        "encode", tiny_folder("bert"), "--corpus", collection, "--out", vectors, "--lexical_terms", 16
    )
    retromae.well("index", vectors, "--kind", "hnsw", "--out", index)
    told = retromae.well("export", index, "--to", "qdrant", "--out", out, "--collection", "toy")
    assert "24 points with vectors 'dense' and sparse vectors 'lexical' in the collection 'toy'" in told
    searcher = Searcher.open(index)
    query = searcher.encoder.encode_queries(["why does the bridge hum"])
    scores: dict[str, float] = {}
    with open_qdrant(out) as client:
        for using, part in (("dense", query.dense[0].tolist()), ("lexical", sparse_query(query))):
            for point in client.query_points("toy", query=part, using=using, limit=24).points:
                scores[point.payload["id"]] = scores.get(point.payload["id"], 0.0) + point.score
        assert "Part 3" in [point.payload["title"] for point in client.scroll("toy", limit=24)[0]]
    hits = searcher.search("why does the bridge hum", 24)
    assert len(hits) == len(scores) == 24
    for hit in hits:
        assert scores[hit.passage.id] == pytest.approx(hit.score, rel=1e-4)


def test_vectors_alone_and_again(retromae: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    documents = random_vectors(50, 8, 0)
    make_store(tmp_path / "notes", documents)
    for _ in range(2):
        told = retromae.well("export", tmp_path / "notes", "--out", tmp_path / "qdrant")
        assert "50 points with vectors 'dense' in the collection 'notes' of qdrant" in told
    queries = random_vectors(1, 8, 1)
    with open_qdrant(tmp_path / "qdrant") as client:
        found = client.query_points("notes", query=queries.dense[0].tolist(), using="dense", limit=50).points
    expected = brute_force(queries, documents)[0]
    assert [point.id for point in found] == np.argsort(-expected).tolist()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["VECTORS"], "say where to export to"),
        (["VECTORS", "--out", "OUT", "--url", "http://localhost:6333"], "say where to export to"),
        (["EMPTY", "--out", "OUT"], "is no index"),
    ],
)
def test_what_cannot_be_exported(
    retromae: CommandLine, tmp_path: Path, words: list[str], sentence: str
) -> None:
    make_store(tmp_path / "v", random_vectors(5, 8, 0))
    places = {"VECTORS": tmp_path / "v", "EMPTY": tmp_path, "OUT": tmp_path / "new"}
    done = retromae("export", *(places.get(word, word) for word in words))
    assert done.code == 2 and sentence in done.err, done
    assert not (tmp_path / "new").exists()


def test_without_qdrant_client(
    retromae: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "v", random_vectors(5, 8, 0))
    monkeypatch.setitem(sys.modules, "qdrant_client", None)  # what Python does where it is not installed
    done = retromae("export", tmp_path / "v", "--out", tmp_path / "new")
    assert done.code == 2 and "pip install 'retromae[qdrant]'" in done.err
    assert not (tmp_path / "new").exists()
