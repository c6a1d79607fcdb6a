"""What is returned, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest

from retromae.app.adapt.judging import METRIC
from retromae.app.adapt.telling import sentence
from retromae.app.adapt.verdict import System, Verdict, _chosen, _comparable, _eligible
from retromae.core.ranking import Run
from retromae.evaluation.metrics import Result

QUERIES = [f"q{number}" for number in range(200)]


def system(name: str, dev: float, test: float, noise: float = 0.02) -> System:
    """A system of about these figures, each query's value a little off."""
    rng = np.random.default_rng(len(name))

    def result(mean: float) -> Result:
        values = dict(zip(QUERIES, (mean + noise * rng.standard_normal(len(QUERIES))).tolist()))
        return Result.of(name, {METRIC: values})

    kind = "bm25" if name == "bm25" else "fusion" if name.endswith("+bm25") else "dense"
    return System(name, kind, Run.from_dict({}), result(dev), result(test))  # type: ignore[arg-type]


def chosen(**dev: float) -> str:
    names = {name.replace("_", "+"): value for name, value in dev.items()}
    return _chosen([system(name, value, value) for name, value in names.items()]).name


@pytest.mark.parametrize(
    ("returned", "dev"),
    [
        ("contrastive", {"base": 0.4, "bm25": 0.3, "base_bm25": 0.45, "contrastive": 0.5}),
        ("base", {"base": 0.4, "bm25": 0.3, "base_bm25": 0.39, "contrastive": 0.35}),
        ("bm25", {"base": 0.4, "bm25": 0.6, "base_bm25": 0.5, "contrastive": 0.55}),
        ("base+bm25", {"base": 0.4, "bm25": 0.6, "base_bm25": 0.65, "contrastive_bm25": 0.65}),
        ("contrastive+bm25", {"base": 0.4, "bm25": 0.6, "base_bm25": 0.65, "contrastive_bm25": 0.7}),
        ("bm25", {"bm25": 0.6, "contrastive": 0.2}),  # from nothing: there is no base
    ],
)
def test_the_untouched_wins_ties(returned: str, dev: dict[str, float]) -> None:
    assert chosen(**dev) == returned


def test_made_up_queries_return_an_embedder_half_way_only() -> None:
    figures = {"base": 0.4, "bm25": 0.3, "contrastive": 0.6, "averaged": 0.5, "averaged+bm25": 0.45}
    systems = [system(name, value, value) for name, value in figures.items()]
    assert _chosen(_eligible(systems, own_queries=False)).name == "averaged"
    assert _chosen(_eligible(systems, own_queries=True)).name == "contrastive"
    without = [one for one in systems if one.stage != "averaged"]
    assert _chosen(_eligible(without, own_queries=False)).name == "contrastive"


def test_made_up_queries_do_not_weigh_words_against_vectors() -> None:
    """Whatever they say: where model and BM25 find about as much, only their fusion may be returned."""
    figures = {"base": 0.4, "bm25": 0.3, "averaged": 0.5, "base+bm25": 0.35, "averaged+bm25": 0.45}
    systems = [system(name, value, value) for name, value in figures.items()]
    for one in systems:
        one.by_rule = one.kind == "fusion"
    assert _chosen(_eligible(systems, own_queries=False)).name == "averaged+bm25"
    assert _chosen(_eligible(systems, own_queries=True)).name == "averaged"
    assert {one.name for one in _eligible(systems, own_queries=False)} == {
        "bm25",
        "base+bm25",
        "averaged+bm25",
    }


@pytest.mark.parametrize(("model", "words", "alike"), [(0.4, 0.3, True), (0.3, 0.4, True), (0.4, 0.2, False)])
def test_who_finds_less_than_two_thirds_is_not_comparable(model: float, words: float, alike: bool) -> None:
    quiet = (system("base", model, model, noise=0.0), system("bm25", words, words, noise=0.0))
    assert _comparable(*quiet) == _comparable(*reversed(quiet)) == alike


def test_the_fusion_by_rule_gives_way_to_bm25_only_where_that_is_clearly_better() -> None:
    for words, noise, name in ((0.46, 0.3, "base+bm25"), (0.6, 0.02, "bm25")):
        fused, alone = system("base+bm25", 0.45, 0.45, noise), system("bm25", words, words, noise)
        fused.by_rule = True
        assert _chosen([fused, alone]).name == name


def test_few_queries_cannot_tell_that_two_are_not_comparable() -> None:
    def of(name: str, *values: float) -> System:
        result = Result.of(name, {METRIC: dict(zip(QUERIES, values))})
        return System(name, "dense", Run.from_dict({}), result, result)

    assert _comparable(of("base", 1.0, 0.0, 0.5, 0.0), of("bm25", 1.0, 0.0, 0.0, 0.0))
    assert _comparable(of("base", 1.0), of("bm25", 0.0))
    assert not _comparable(of("base", 1.0, 0.9, 1.0, 0.9), of("bm25", 0.0, 0.1, 0.0, 0.3))


def test_a_gain_within_its_own_error_is_none() -> None:
    base, trained = system("base", 0.40, 0.40, noise=0.3), system("contrastive", 0.41, 0.41, noise=0.3)
    bm25 = system("bm25", 0.1, 0.1)
    gains = [trained.dev.per_query[METRIC][q] - base.dev.per_query[METRIC][q] for q in QUERIES]
    clear = np.mean(gains) > np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert _chosen([base, trained, bm25]).name == ("contrastive" if clear else "base")
    trained.dev.per_query[METRIC].update({q: base.dev.per_query[METRIC][q] + 0.001 for q in QUERIES})
    again = Result.of("contrastive", trained.dev.per_query)
    trained.dev = again
    assert _chosen([base, trained, bm25]).name == "contrastive", "small, but the same for every query"


@pytest.mark.parametrize(
    ("returned", "figures", "said"),
    [
        ("contrastive", {"base": 0.4, "bm25": 0.3, "contrastive": 0.5}, "Search on this text is better now"),
        ("base", {"base": 0.4, "bm25": 0.3, "contrastive": 0.3}, "the base is what this run returns"),
        ("bm25", {"base": 0.4, "bm25": 0.6, "contrastive": 0.5}, "BM25 wins"),
        (
            "base+bm25",
            {"base": 0.4, "bm25": 0.6, "base+bm25": 0.7},
            "fusing the untouched base with BM25 does",
        ),
        ("base+bm25", {"base": 0.7, "bm25": 0.6, "base+bm25": 0.7}, "its gain is not beyond doubt"),
        ("contrastive", {"base": 0.5, "bm25": 0.3, "contrastive": 0.5}, "not beyond doubt"),
        ("contrastive", {"bm25": 0.3, "contrastive": 0.5}, "Search on this text is better now"),
    ],
)
def test_the_sentence_says_who_won_and_by_how_much(
    returned: str, figures: dict[str, float], said: str
) -> None:
    systems = {name: system(name, value, value) for name, value in figures.items()}
    told = sentence(Verdict(list(systems.values()), systems[returned]))
    assert said in told and f"{systems[returned].test[METRIC]:.3f}" in told
    for other in {"base", "bm25"} & set(figures) - {returned}:
        assert f"({systems[other].test[METRIC]:.3f})" in told


def test_a_fusion_by_rule_is_not_said_to_have_won() -> None:
    names = {"base": 0.5, "bm25": 0.4, "base+bm25": 0.45, "averaged+bm25": 0.48}
    systems = {name: system(name, value, value) for name, value in names.items()}
    for name in ("base+bm25", "averaged+bm25"):
        systems[name].by_rule = True
        told = sentence(Verdict(list(systems.values()), systems[name]))
        assert "about half and half" in told and "--pairs" in told and "-0.0" in told
        assert ("did not clearly help" in told) == (name == "base+bm25")
