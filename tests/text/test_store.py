"""Texts by number: the same whatever parts they are cut into, and ids found whatever their hashes."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.text.numbering import Numbering, digest
from retromae.text.store import IdTable, Passage, Passages, PassageWriter, joined, write_passages

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


def stored(path: Path, passages: list[Passage], cuts: list[int]) -> Passages:
    """The passages, cut into parts at these places; some parts may be empty."""
    edges = [0, *sorted(min(cut, len(passages)) for cut in cuts), len(passages)]
    write_passages(path, [passages[start:stop] for start, stop in pairwise(edges)])
    return Passages(path)


@given(
    st.lists(st.builds(Passage, TEXT, TEXT, TEXT), min_size=1, max_size=12, unique_by=lambda p: p.id),
    st.lists(st.integers(0, 12), max_size=4),
    st.data(),
)
@settings(max_examples=25, deadline=None)
def test_columns_are_gathered_in_the_order_asked_for(
    passages: list[Passage], cuts: list[int], data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(passages) - 1), max_size=20))
    with TemporaryDirectory() as folder:
        store = stored(Path(folder, "some.arrow"), passages, cuts)
        assert [store[place] for place in numbers] == [passages[place] for place in numbers]
        assert store.texts(numbers) == [joined(passages[n].title, passages[n].text) for n in numbers]
        assert store.ids_of(np.array(numbers, dtype=np.int32)) == [passages[n].id for n in numbers]
        assert store.digest() == stored(Path(folder, "whole.arrow"), passages, []).digest()
        for key in (hash, len, lambda _: 7):  # a hash, and two under which ids collide
            table = IdTable(store, key)
            assert table.numbers_of([passages[n].id for n in numbers]).tolist() == numbers
            assert table.numbers_of(["not there", "nor this"]).tolist() == [-1, -1]
            assert table.used_twice() is None


@pytest.mark.parametrize("key", [hash, len])
def test_an_id_used_twice_is_found(tmp_path: Path, key: object) -> None:
    passages = [Passage(name, "", "x") for name in ("ab", "cd", "ef", "cd")]
    assert IdTable(stored(tmp_path / "some.arrow", passages, [2]), key).used_twice() == "cd"  # type: ignore[arg-type]


def test_an_empty_file(tmp_path: Path) -> None:
    store = stored(tmp_path / "none.arrow", [], [])
    assert (len(store), store.texts([]), store.ids, store.id_used_twice()) == (0, [], [], None)
    assert store.numbers_of(["a"]).tolist() == [-1]


def test_the_digest_tells_any_change(tmp_path: Path) -> None:
    variants = [
        [("a", "", "bc")],
        [("a", "b", "c")],
        [("ab", "", "c")],
        [("a", "", "b"), ("", "", "c")],
        [],
    ]
    stores = [
        stored(tmp_path / f"{number}.arrow", [Passage(*row) for row in rows], [])
        for number, rows in enumerate(variants)
    ]
    assert len({store.digest() for store in stores}) == len(variants)


def test_numbers_outside_are_an_index_error(tmp_path: Path) -> None:
    store = stored(tmp_path / "some.arrow", [Passage("a", "", "b")], [])
    for wrong in (-1, 1):
        with pytest.raises(IndexError, match="1 documents"):
            store.texts([0, wrong])


def test_a_writer_holds_little_and_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retromae.text.store._PART_ROWS", 4)
    monkeypatch.setattr("retromae.text.store._PART_CHARACTERS", 50)
    passages = [Passage(f"p{number}", "", "w" * (number % 3 * 30)) for number in range(11)]
    with PassageWriter(tmp_path / "some.arrow") as writer:
        writer.extend(passages[:3])
        writer.extend(passages[3:])
    store = Passages(tmp_path / "some.arrow")
    assert [store[place] for place in range(len(store))] == passages
    assert max(batch.num_rows for batch in store.batches) <= 4 and len(store.batches) > 3


def test_another_process_gets_the_path_and_not_the_texts(tmp_path: Path) -> None:
    store = stored(tmp_path / "some.arrow", [Passage("a", "", "long " * 1000)], [])
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert pickle.loads(packed)[0] == store[0]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing or damaged"):
        Passages(tmp_path / "none.arrow")


@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=30), max_size=12))
@settings(max_examples=25, deadline=None)
def test_numbers_count_up_in_the_order_of_first_occurrence(batches: list[list[int]]) -> None:
    numbering, known = Numbering(), dict[int, int]()
    for batch in batches:
        numbers, new = numbering.number([digest(str(value)) for value in batch])
        fresh = [
            place for place, value in enumerate(batch) if value not in known and value not in batch[:place]
        ]
        for value in batch:
            known.setdefault(value, len(known))
        assert numbers.tolist() == [known[value] for value in batch]
        assert new == fresh
        assert len(numbering) == len(known)


def test_digests_know_where_a_text_ends() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("", "abc")}) == 4
