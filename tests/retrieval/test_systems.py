"""Named systems from an index or a run: each ranks as its parts do, and says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retromae.core.errors import UserError
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.fusion import reciprocal_rank, weighted
from retromae.retrieval.index import build_index
from retromae.retrieval.lexical import BM25
from retromae.retrieval.search import Searcher
from retromae.retrieval.systems import Asked, Systems, open_systems
from retromae.text.store import Passage
from tiny import SENTENCES

Folder = Callable[[str], Path]
CORPUS = [Passage(f"p{n:02d}", "note", text) for n, text in enumerate(SENTENCES)]
QUERIES = ["bees in the groves", "glass carries the signal", "keeping fish on ice", "an owl"]
NAMED = {str(n): text for n, text in enumerate(QUERIES)}


def write_index(encoder: Encoder, folder: Path, kind: str = "flat") -> Path:
    store = embed_corpus(encoder, lambda: iter(CORPUS), folder.with_name(f"{folder.name}-vectors"))
    assert store is not None
    build_index(store, folder, kind)
    return folder


@pytest.fixture(scope="module")
def run(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `adapt` leaves it: a model with its index, and the base's."""
    folder = tmp_path_factory.mktemp("systems") / "run"
    shutil.copytree(tiny_folder("electra"), folder / "model")
    write_index(Encoder.open(folder / "model", pooling="cls"), folder / "index")
    write_index(Encoder.open(tiny_folder("bert"), pooling="mean"), folder / "base_index")
    return stated(folder, "fusion", 0.7, 12)


def stated(folder: Path, kind: str, weight: float | None = None, depth: int = 100) -> Path:
    (folder / "system.json").write_text(json.dumps({"kind": kind, "weight": weight, "depth": depth}))
    return folder


@pytest.fixture(scope="module")
def systems(run: Path) -> Systems:
    return open_systems(run)


def test_a_run_has_all_of_them(systems: Systems) -> None:
    assert list(systems) == ["dense", "bm25", "fused", "before"]
    assert systems.default == "fused"
    assert systems["dense"].encoder is systems["fused"].encoder is not systems["before"].encoder
    assert "70% dense" in systems["fused"].label


@pytest.mark.parametrize("k", [1, 5, 24])
def test_each_ranks_as_its_parts_do(systems: Systems, run: Path, k: int) -> None:
    searcher, base = Searcher.open(run / "index"), Searcher.open(run / "base_index")
    bm25 = BM25.build(CORPUS)
    depth = max(k, 12)
    both = [searcher.run(NAMED, depth), bm25.search(NAMED, depth)]
    expected = {
        "dense": searcher.run(NAMED, k),
        "before": base.run(NAMED, k),
        "bm25": bm25.search(NAMED, k),
        "fused": weighted(both, [0.7, 0.3], depth=k),
    }
    for name, wanted in expected.items():
        found = systems.search_many(QUERIES, k, system=name)
        for hits, ranking in zip(found, wanted.values(), strict=True):
            assert [hit.passage.id for hit in hits] == ranking.ids
            assert [hit.score for hit in hits] == pytest.approx(ranking.scores.tolist(), rel=1e-4, abs=1e-5)
            assert all(hit.passage in CORPUS for hit in hits)
            for hit in hits:
                assert hit.why.score == pytest.approx(hit.score, rel=1e-4, abs=1e-5)


def test_bm25_tells_the_words_as_they_were_asked(systems: Systems) -> None:
    (first, *_) = systems.search("Bees, bees in their groves!", system="bm25")
    assert first.passage.id == "p05"  # bees find the orange grove
    assert {word for word, _ in first.why.terms} == {"bees", "groves"}
    assert sum(share for _, share in first.why.terms) == pytest.approx(first.score, rel=1e-5)
    fused = {hit.passage.id: hit for hit in systems.search("Bees, bees in their groves!", k=24)}
    assert fused["p05"].why.terms == first.why.terms
    assert systems.search("zebra xylophone", system="bm25") == []
    assert len(systems.search("zebra xylophone", k=3)) == 3  # the dense half alone


def test_without_a_weight_ranks_are_fused(systems: Systems, run: Path, tmp_path: Path) -> None:
    plain = open_systems(run / "index", against=run / "base_index")
    assert list(plain) == ["dense", "bm25", "fused", "before"] and plain.default == "dense"
    searcher, bm25 = Searcher.open(run / "index"), BM25.build(CORPUS)
    wanted = reciprocal_rank([searcher.run(NAMED, 100), bm25.search(NAMED, 100)], depth=6)
    for hits, ranking in zip(plain.search_many(QUERIES, 6, system="fused"), wanted.values(), strict=True):
        assert [hit.passage.id for hit in hits] == ranking.ids
        assert [hit.why.score for hit in hits] == pytest.approx(ranking.scores.tolist())


def test_mixed_questions_are_answered_in_order_and_in_one_pass(
    systems: Systems, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[str]] = []
    encode = Encoder.encode_queries
    monkeypatch.setattr(
        Encoder, "encode_queries", lambda self, texts: passes.append(list(texts)) or encode(self, texts)
    )
    asked = [
        Asked("fused", QUERIES[0], 3),
        Asked("bm25", QUERIES[1], 2),
        Asked("dense", QUERIES[0], 4),
        Asked("dense", QUERIES[2], 3),
        Asked("fused", QUERIES[0], 3),
    ]
    answers = systems.answer(asked)
    assert passes == [[QUERIES[0], QUERIES[2]]]
    for one, answer in zip(asked, answers, strict=True):
        alone = systems.search(one.query, one.k, system=one.system)
        assert [hit.passage for hit in answer.hits] == [hit.passage for hit in alone]
        assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in alone], rel=1e-5)
    assert answers[1].encoding == 0 and answers[0].encoding > 0 and answers[1].searching > 0


def test_the_lexical_half_explains(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = write_index(Encoder.open(tiny_folder("bert"), lexical_terms=40), tmp_path / "both")
    systems = open_systems(folder)
    hits = systems.search(QUERIES[1], 6)
    expected = Searcher.open(folder).search(QUERIES[1], 6)
    assert [hit.passage for hit in hits] == [hit.passage for hit in expected]
    assert hits[0].why.terms == expected[0].why.terms != []
    assert "lexical" in systems["dense"].label


def test_signs_alone_can_be_searched(tiny_folder: Folder, tmp_path: Path) -> None:
    store = embed_corpus(
        Encoder.open(tiny_folder("bert"), pooling="cls"), lambda: iter(CORPUS), tmp_path / "v"
    )
    assert store is not None
    build_index(store, tmp_path / "index", "binary", rescore=0)
    assert len(open_systems(tmp_path / "index").search("owl", 4)) == 4


@pytest.mark.parametrize(("kind", "default"), [("dense", "dense"), ("bm25", "bm25"), ("fusion", "fused")])
def test_what_the_run_returned_is_the_default(run: Path, tmp_path: Path, kind: str, default: str) -> None:
    folder = stated(shutil.copytree(run, tmp_path / "moved"), kind)
    assert open_systems(folder).default == default


def test_a_passage_by_its_id(systems: Systems) -> None:
    assert systems.passage("p07") == CORPUS[7]
    assert systems.passage("../p07") is None


def test_bad_input(systems: Systems, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no system 'denes'; these are: dense, bm25, fused, before"):
        systems.search("owl", system="denes")
    with pytest.raises(UserError, match="is empty"):
        systems.search(" ")
    with pytest.raises(UserError, match="no run of `retromae adapt` and no index"):
        open_systems(tmp_path)
    (tmp_path / "adapt.json").write_text("{}")
    with pytest.raises(UserError, match="has no index yet"):
        open_systems(tmp_path)
    broken = shutil.copytree(run, tmp_path / "broken")
    for text, message in [
        ("{", "is damaged"),
        ('{"kind": "oracle", "weight": null, "depth": 9}', "this version"),
        ('{"kind": "fusion", "weight": 7, "depth": 9}', "this version"),
        ('{"kind": "fusion"}', "is damaged"),
    ]:
        (broken / "system.json").write_text(text)
        with pytest.raises(UserError, match=message):
            open_systems(broken)


def test_a_base_that_is_gone_is_left_out(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "base_index" / "dense.faiss").unlink()
    with pytest.warns(UserWarning, match=r"the base is left out: .*missing or truncated"):
        assert list(open_systems(folder)) == ["dense", "bm25", "fused"]
    with pytest.raises(UserError, match="missing or truncated"):
        open_systems(folder / "index", against=folder / "base_index")
