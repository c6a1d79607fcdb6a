"""The sentence splitter: what it must always keep, and sentences in many scripts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.text.sentences import split_lines, split_sentences, splitter_named

PIECES = [
    ".",
    "!",
    "?",
    "…",
    "。",
    "！",
    "؟",
    "।",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "- ",
    "1. ",
    '"',
    "”",
    ")",
    "(",
    "「",
]
PIECES += [
    "」",
    "、",
    "Dr",
    "e.g",
    "U.S",
    "J",
    "No",
    "The",
    "the",
    "3",
    "14",
    "词",
    "كلمة",
    "शब्द",
    "é",
    "\u200b",
    "\x1f",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text())
def test_spans_are_ordered_and_lose_nothing(text: str) -> None:
    for splitter in (split_sentences, split_lines):
        spans = splitter(text)
        position = 0
        for start, end in spans:
            assert position <= start < end
            assert not text[position:start].strip()
            assert not text[start].isspace()
            assert not text[end - 1].isspace()
            position = end
        assert not text[position:].strip()


CASES = [
    # abbreviations, initials, numbers
    ["Dr. Ada Hill met Mr. Poe vs. the council.", "They spoke, e.g. of tea, i.e. leaves.", "Then they left."],
    ["It grew by 3.5 percent in 1990.", "Nobody cared.", "See Fig. 3 and No. 5 of vol. 2."],
    ["No.", "I will not."],
    ["J. K. Fenn and A. Moor wrote it.", "It sold well."],
    ["He lives in the U.S. Army base.", "She works for Finch Inc. in Leeds."],
    ["They left the U.S.", "The end came at 5 p.m.", "We slept."],
    ["Sie kommt z.B. aus Ulm bzw. Bonn.", "Er nicht."],
    # quotes, brackets, ellipses
    ['"Stop!" he said.', '"Go on."', "She went."],
    ["(It rained.)", "We stayed… and waited... until noon.", "“Really?”", "Yes."],
    ["What?!", "No!!!", "Fine."],
    # blank lines and lists
    [
        "A heading",
        "A paragraph\nthat is wrapped",
        "- first item",
        "- second item",
        "1. third item",
        "2. fourth",
    ],
    # scripts without spaces, and from right to left
    ["今天很好。", "我们走吧！", "你来吗？", "来。"],
    ["「行こう。」", "彼は言った、そして去った。"],
    ["यह पहला है।", "यह दूसरा है॥", "तीसरा?"],
    ["هل أنت بخير؟", "نعم، أنا بخير.", "شكرا!"],
    ["מה שלומך?", "טוב מאוד.", "תודה!"],
    ["این خوب است۔", "وہ نہیں۔"],
]


@pytest.mark.parametrize("sentences", CASES, ids=lambda sentences: sentences[0][:20])
def test_sentences(sentences: list[str]) -> None:
    joined = "\n\n".join(sentences) if "A heading" in sentences else None
    if joined is None:
        joined = ("" if "。" in sentences[0] else " ").join(sentences)
    assert [joined[start:end] for start, end in split_sentences(joined)] == sentences


def test_single_line_breaks_do_not_end_sentences_but_list_items_do() -> None:
    text = "one line\nand the next\n- an item\n* another\n12) a third"
    found = [text[start:end] for start, end in split_sentences(text)]
    assert found == ["one line\nand the next", "- an item", "* another", "12) a third"]


@pytest.mark.parametrize(
    "text", ["." * 10**6, ". (" * 10**5, "\n " * 10**5, "a. " * 10**5, "。" * 10**5, "x" * 10**6]
)
def test_hostile_text_stays_linear(text: str) -> None:
    began = time.process_time()
    split_sentences(text)
    assert time.process_time() - began < 5


def test_splitters_by_name() -> None:
    assert splitter_named("rules") is split_sentences
    assert splitter_named("retromae.text.sentences:split_lines") is split_lines
    for wrong in ("no_such", "no.such.module:f", "retromae.text.sentences:missing", ":"):
        with pytest.raises(UserError, match="splitter"):
            splitter_named(wrong)
