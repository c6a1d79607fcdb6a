from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.evaluation.answers import answer_accuracy, has_answer


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("new york", "He moved to New York in May.", True),
        ("New York", "a new, yorkish hat", False),
        ("york", "Yorkshire", False),
        ("Beyoncé", "BEYONCE\u0301 sang", True),  # composed against decomposed
        ("Beyonce", "Beyoncé sang", False),  # accents are kept
        ("U.S.", "the U.S. army", True),
        ("U.S.", "the U. S. army", True),  # punctuation is words of its own
        ("3.5 %", "about 3.5% more", True),
        ("rock 'n' roll", "Rock\u00a0'n'\nroll!", True),
        ("東京", "東京都", False),  # one run of letters
        ("snake_case", "snake _ case", True),
        ("", "anything", False),
        (" \u200b ", "anything", False),
    ],
)
def test_answer_strings(answer: str, text: str, found: bool) -> None:
    assert has_answer([answer], text) is found


def test_any_of_the_answers_will_do() -> None:
    assert has_answer(["moon", "sun"], "The sun rose.")
    assert not has_answer([], "The sun rose.")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["ab", "c", "d.e", "É"]), max_size=8), st.lists(st.sampled_from(["ab", "c"])))
def test_ascii_answers_equal_a_search_word_by_word(text: list[str], answer: list[str]) -> None:
    words = re.findall(r"\w+|[^\w\s]", " ".join(text))
    naive = any(words[i : i + len(answer)] == answer for i in range(len(words))) if answer else False
    assert has_answer([" ".join(answer)], " ".join(text)) is naive


def test_top_k_accuracy() -> None:
    run = Run.from_dict({"1": {"p1": 3.0, "p2": 2.0, "p3": 1.0}, "2": {"p1": 1.0}})
    texts = {"p1": "Nothing here.", "p2": "It was Ada Lovelace.", "p3": "ada"}
    answers = {"1": ["ada lovelace"], "2": ["Babbage"], "3": ["nobody"]}
    result = answer_accuracy(run, answers, texts, ks=(1, 2, 3), name="mine")
    assert [result[f"Accuracy@{k}"] for k in (1, 2, 3)] == pytest.approx([0, 1 / 3, 1 / 3])
    assert result.per_query["Accuracy@2"] == {"1": 1.0, "2": 0.0, "3": 0.0}
    assert result.missing == ["3"]


def test_bad_input_is_refused() -> None:
    run = Run.from_dict({"1": {"p1": 1.0}})
    with pytest.raises(UserError, match="'p1', whose text"):
        answer_accuracy(run, {"1": ["a"]}, {})
    with pytest.raises(UserError, match="no answer"):
        answer_accuracy(run, {}, {})
    with pytest.raises(UserError, match="each k"):
        answer_accuracy(run, {"1": ["a"]}, {"p1": "a"}, ks=())
