from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import naive_metrics as naive
from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.evaluation import metrics
from retromae.evaluation.metrics import Result, evaluate_run, metric_name

documents = st.sampled_from([f"d{i}" for i in range(14)])
queries = st.sampled_from(["q1", "q2", "q3", "q10"])
qrels = st.dictionaries(
    queries, st.dictionaries(documents, st.integers(-1, 3), min_size=1, max_size=8), min_size=1
)
# Few distinct scores: most rankings are full of ties.
runs = st.dictionaries(queries, st.dictionaries(documents, st.sampled_from([0.0, 0.5, 1.0]), max_size=12))

NAMES = ["nDCG@3", "nDCG@10", "RR@3", "RR@10", "R@5", "AP", "Success@1", "Success@5"]


@settings(max_examples=150, deadline=None)
@given(qrels, runs)
def test_metrics_equal_their_definitions(
    qrels: dict[str, dict[str, int]], found: dict[str, dict[str, float]]
) -> None:
    run = Run.from_dict(found)
    result = evaluate_run(qrels, run, NAMES)
    for query, grades in qrels.items():
        ids = run[query].ids if query in run else []
        wanted = {
            "nDCG@3": naive.ndcg(ids, grades, 3),
            "nDCG@10": naive.ndcg(ids, grades, 10),
            "RR@3": naive.reciprocal_rank(ids, grades, 3),
            "RR@10": naive.reciprocal_rank(ids, grades, 10),
            "R@5": naive.recall(ids, grades, 5),
            "AP": naive.average_precision(ids, grades),
            "Success@1": naive.success(ids, grades, 1),
            "Success@5": naive.success(ids, grades, 5),
        }
        assert {name: result.per_query[name][query] for name in NAMES} == pytest.approx(wanted)
    assert result.missing == [query for query in qrels if not found.get(query)]


@settings(max_examples=100, deadline=None)
@given(qrels, runs)
def test_metrics_equal_trec_eval(
    qrels: dict[str, dict[str, int]], found: dict[str, dict[str, float]]
) -> None:
    """trec_eval breaks ties by descending id; with ids that run backwards its order is ours."""
    backwards = {f"d{i}": f"{99 - int(rank):02d}" for rank, i in enumerate(sorted(range(14), key=str))}
    theirs = pytrec_eval.RelevanceEvaluator(
        {q: {backwards[d]: g for d, g in grades.items()} for q, grades in qrels.items()},
        {"ndcg_cut_10", "ndcg_cut_3", "map", "recall_5", "success_5", "recip_rank"},
    ).evaluate({q: {backwards[d]: s for d, s in ranked.items()} for q, ranked in found.items() if ranked})
    ours = evaluate_run(qrels, Run.from_dict(found), ["nDCG@10", "nDCG@3", "AP", "R@5", "Success@5", "RR"])
    for query, measured in theirs.items():
        mine = [ours.per_query[m][query] for m in ("nDCG@10", "nDCG@3", "AP", "R@5", "Success@5", "RR")]
        names = ("ndcg_cut_10", "ndcg_cut_3", "map", "recall_5", "success_5", "recip_rank")
        assert mine == pytest.approx([measured[name] for name in names])
    for query in qrels.keys() - theirs.keys():
        assert all(values[query] == 0 for values in ours.per_query.values())


def test_missing_queries_count_as_zero_and_strangers_not_at_all() -> None:
    judged = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}}
    run = Run.from_dict({"q1": {"a": 1.0}, "q3": {}, "unjudged": {"a": 1.0}})
    result = evaluate_run(judged, run, ["nDCG@10"])
    assert result["nDCG@10"] == pytest.approx(1 / 3)
    assert result.missing == ["q2", "q3"]
    assert result.queries == ["q1", "q2", "q3"]


def test_many_queries_go_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = {f"q{i}": {f"d{i}": 1} for i in range(25)}
    run = Run.from_dict({f"q{i}": {"x": 2.0, f"d{i}": 1.0 + i % 2 * 2} for i in range(25)})
    whole = evaluate_run(judged, run)
    monkeypatch.setattr(metrics, "_QUERIES_AT_ONCE", 4)
    assert evaluate_run(judged, run) == whole


def test_a_query_does_not_find_itself_where_it_must_not() -> None:
    judged = {"a1": {"a2": 1}}
    run = Run.from_dict({"a1": {"a1": 9.0, "a2": 1.0}})
    assert evaluate_run(judged, run, ["RR@10"])["RR@10"] == 0.5
    assert evaluate_run(judged, run, ["RR@10"], exclude_self=True)["RR@10"] == 1.0


def test_names_that_people_use() -> None:
    assert [metric_name(name) for name in ("MRR@10", "Recall@100", "MAP", "ndcg@10", "success@5")] == [
        *("RR@10", "R@100", "AP", "nDCG@10", "Success@5")
    ]
    result = evaluate_run({"q": {"d": 1}}, Run.from_dict({"q": {"d": 1.0}}), ["MRR@10"])
    assert result["mrr@10"] == result["RR@10"] == 1.0
    for bad in ("BLEU", "nDCG@0", "R", "RR@ten"):
        with pytest.raises(UserError, match="metric"):
            metric_name(bad)


def test_results_are_saved_whole(tmp_path: Path) -> None:
    judged = {"q1": {"a": 2, "b": 1}, "q2": {"c": 1}}
    result = evaluate_run(judged, Run.from_dict({"q1": {"b": 2.0, "a": 1.0}}), name="mine")
    low, high = result.metrics["nDCG@10"].low, result.metrics["nDCG@10"].high
    assert low <= result["nDCG@10"] <= high
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == result
    assert json.loads((tmp_path / "result.json").read_text())["missing"] == ["q2"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match="not a saved"):
        Result.load(tmp_path / "other.json")


def test_nothing_to_measure_against() -> None:
    with pytest.raises(UserError, match="no judgements"):
        evaluate_run({}, Run.from_dict({}))
