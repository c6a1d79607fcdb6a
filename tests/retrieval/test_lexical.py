from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from retromae.core.errors import UserError
from retromae.evaluation.metrics import evaluate_run
from retromae.retrieval.lexical import BM25
from retromae.text.collections import Collection
from retromae.text.sources import Document


def document(identifier: str, title: str, text: str) -> Document:
    return Document(identifier, title, text, source="test")


DOCUMENTS = [
    document("b", "Volcanoes", "Lava flows from volcanoes."),
    document("c", "", "Glaciers carve valleys; a glacier is moving ice."),
    document("a", "", "Valleys flood when rivers rise."),
    document("e", "", ""),
]


@pytest.fixture(scope="module")
def index() -> BM25:
    return BM25.build(DOCUMENTS)


def test_scores_are_those_of_the_formula(index: BM25) -> None:
    """idf · tf / (tf + k1 (1 − b + b · length / mean length)), idf = ln(1 + (N − df + ½) / (df + ½))."""
    words = [
        ["volcano", "lava", "flow", "from", "volcano"],
        ["glacier", "carv", "valley", "glacier", "move", "ice"],
        ["valley", "flood", "when", "river", "rise"],
        [],
    ]
    mean = sum(map(len, words)) / len(words)

    def score(word: str, document: list[str]) -> float:
        df = sum(word in other for other in words)
        tf = document.count(word)
        norm = 1.5 * (1 - 0.75 + 0.75 * len(document) / mean)
        return math.log(1 + (len(words) - df + 0.5) / (df + 0.5)) * tf / (tf + norm)

    ranking = index.search({"q": "The glacier's valley"})["q"]
    assert ranking.ids == ["c", "a"]
    wanted = [score("glacier", words[1]) + score("valley", words[1]), score("valley", words[2])]
    assert ranking.scores.tolist() == pytest.approx(wanted, rel=1e-5)


def test_titles_are_searched_and_only_matches_are_results(index: BM25) -> None:
    run = index.search({"q1": "volcano", "q2": "spaceship", "q3": "the of and"}, k=10)
    assert run["q1"].ids == ["b"]
    assert run["q2"].ids == run["q3"].ids == []


def test_ties_are_broken_by_id_at_the_cut_too() -> None:
    same = [document(name, "", "identical words here") for name in ("d9", "d10", "d2", "d1")]
    assert BM25.build(same).search({"q": "identical"}, k=3)["q"].ids == ["d1", "d10", "d2"]


def test_a_saved_index_finds_the_same(index: BM25, tmp_path: Path) -> None:
    index.save(tmp_path / "bm25")
    queries = {"q1": "moving rivers of ice", "q2": "flood"}
    assert BM25.load(tmp_path / "bm25").search(queries) == index.search(queries)
    assert BM25.load(tmp_path / "bm25").language == "english"


def test_other_languages() -> None:
    documents = [document("x", "", "Die Häuser am Fluss"), document("y", "", "Der Wald im Winter")]
    german = BM25.build(documents, language="german")
    assert german.search({"q": "ein Haus"})["q"].ids == ["x"]
    assert german.search({"q": "die der im"})["q"].ids == []
    plain = BM25.build(documents, language="none")
    assert plain.search({"q": "ein Haus"})["q"].ids == []
    assert plain.search({"q": "der"})["q"].ids == ["y"]


def test_bad_input_is_refused(index: BM25, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'q' is empty"):
        index.search({"q": " "})
    with pytest.raises(UserError, match="k must"):
        index.search({"q": "ice"}, k=0)
    with pytest.raises(UserError, match="no word"):
        BM25.build([document("a", "", "of the")])
    with pytest.raises(UserError, match="twice"):
        BM25.build([DOCUMENTS[0], DOCUMENTS[0]])
    with pytest.raises(UserError, match="'klingon'"):
        BM25.build(DOCUMENTS, language="klingon")
    with pytest.raises(UserError, match="not a BM25 index"):
        BM25.load(tmp_path)


def test_a_damaged_index_is_refused(index: BM25, tmp_path: Path) -> None:
    index.save(tmp_path / "bm25")
    postings = next((tmp_path / "bm25").glob("data.*"))
    postings.write_bytes(postings.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        BM25.load(tmp_path / "bm25")


def real_data(name: str) -> Path:
    root = Path(os.environ.get("RETROMAE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / name / "bm25.json").is_file():
        pytest.skip(f"no {name} under {root}; set RETROMAE_DATA to the folder that holds the retrieval sets")
    return root / name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scifact", "fever_mini", "squad_wiki", "openstax_terms"])
def test_figures_agree_with_those_that_came_with_the_data(name: str) -> None:
    folder = real_data(name)
    collection = Collection.open(folder, "test")
    run = BM25.build(collection.corpus()).search(collection.queries, k=100)
    wanted = json.loads((folder / "bm25.json").read_text())
    wanted.pop("bm25")
    result = evaluate_run(collection.qrels, run, list(wanted))
    assert {metric: result[metric] for metric in wanted} == pytest.approx(wanted, abs=0.005)
