"""Queries that a text answers itself: what asks is taken out of what answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from retromae.text.inner_pairs import Inner, Titles, inner_passages, words_in
from retromae.text.passages import PassageRules
from retromae.text.sources import Document
from tiny import SENTENCES

RULES = PassageRules(40, min_tokens=8)


def words_tokenizer() -> Tokenizer:
    """One token a word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


TOKENIZER = words_tokenizer()


def made(documents: list[Document], **more: object) -> list[Inner]:
    return list(inner_passages(documents, Titles.of(documents), TOKENIZER, RULES, **more))  # type: ignore[arg-type]


def document(number: int, sentences: list[str], title: str = "") -> Document:
    return Document(f"d{number}", title, " ".join(sentences), "")


texts = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=12, unique=True)


@given(
    st.lists(
        st.tuples(texts, st.sampled_from(["", "Bricks", "Bees and owls", "Rain"])), min_size=1, max_size=6
    )
)
@settings(max_examples=60, deadline=None)
def test_nothing_that_asks_stands_in_what_answers(rows: list[tuple[list[str], str]]) -> None:
    documents = [document(number, *row) for number, row in enumerate(rows)]
    titles = [row[1] for row in rows]
    found = made(documents)
    assert len({inner.id for inner in found}) == len(found)
    for inner in found:
        for kind, query in inner.asks:
            if kind == "title":
                assert inner.title == "" and titles.count(query) == 1
            else:
                assert query in inner.whole.text and query not in inner.text
                assert inner.text.split() == inner.whole.text.replace(query, " ", 1).split()
                assert 4 <= words_in(query) <= 48 and words_in(inner.text) >= 12
        if not any(kind == "title" for kind, _ in inner.asks):
            assert inner.title == documents[int(inner.document[1:])].title
        if not any(kind == "sentence" for kind, _ in inner.asks):
            assert inner.text == inner.whole.text


def test_the_same_text_and_seed_ask_the_same_and_another_seed_asks_otherwise() -> None:
    documents = [document(n, SENTENCES[n : n + 5]) for n in range(12)]
    first, again, other = (made(documents, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [inner.asks for inner in first] != [inner.asks for inner in other]


def test_a_title_that_two_documents_have_asks_nothing_and_stays() -> None:
    documents = [
        document(0, SENTENCES[:3], "Introduction"),
        document(1, SENTENCES[3:6], "  introduction"),
        document(2, SENTENCES[6:9], "On glaciers"),
    ]
    found = made(documents, kinds=["title"])
    assert [inner.asks for inner in found] == [(), (), (("title", "On glaciers"),)]
    assert [inner.title for inner in found] == ["Introduction", "  introduction", ""]
    assert [inner.whole.title for inner in found][2] == "On glaciers"


def test_repeated_passages_come_once_and_repeated_ids_are_told_apart() -> None:
    same = document(0, SENTENCES[:3])
    documents = [same, same, Document("d0", "", " ".join(SENTENCES[4:7]), "")]
    assert [inner.id for inner in made(documents)] == ["d0", "d0~3"]


def test_neighbours_are_those_of_the_document() -> None:
    documents = [document(0, SENTENCES[:12]), document(1, SENTENCES[12:14])]
    found = made(documents, kinds=["sentence", "span"])
    first = [inner for inner in found if inner.document == "d0"]
    assert len(first) > 2 and found[-1].beside == ()
    assert first[0].beside == (first[1].id,) and first[-1].beside == (first[-2].id,)
    assert first[1].beside == (first[0].id, first[2].id)
    assert all(inner.beside == () for inner in made(documents))


@pytest.mark.parametrize(("folders", "group"), [(30, "f3"), (3, "f0/d3.txt")])
def test_whole_folders_are_held_out_where_there_are_many(folders: int, group: str) -> None:
    documents = [Document(f"f{n % folders}/d{n}.txt", "", "some text", "") for n in range(60)]
    titles = Titles.of(documents)
    assert titles.documents == 60 and titles.group("f3/d3.txt" if folders == 30 else "f0/d3.txt") == group


def test_scripts_without_spaces_have_words_too(tmp_path: Path) -> None:
    assert words_in("灯台守は夜ごとに霧の中で船の数を数え、朝になるとそれを帳面に書きつける。") >= 3
    assert words_in("") == 0
