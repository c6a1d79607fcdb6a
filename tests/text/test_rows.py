"""Reading rows: fast ways against obvious ones, and folders that are refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.core.errors import UserError
from retromae.text.rows import PrepareConfig, Rows, prepare


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(
            f"The {name} tower leans. " + "Stone by stone it was carried off. " * 30
        )
    config = PrepareConfig(
        [str(folder)], str(folder / "rows"), train_tokenizer=60, max_tokens=24, dedupe=False, workers=1
    )
    prepare(config, progress=False)
    return folder / "rows"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    draw = np.random.default_rng(3)
    lists = [draw.integers(0, 1000, size=n).tolist() for n in draw.integers(0, 30, size=500)]
    folder = tmp_path_factory.mktemp("foreign") / "set"
    made = datasets.Dataset.from_dict({"token_ids": lists, "document": [f"d{i // 3}" for i in range(500)]})
    made.save_to_disk(folder, num_shards=4)
    return folder, lists


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 499), max_size=60))
def test_take_equals_naive_indexing(foreign: tuple[Path, list[list[int]]], indices: list[int]) -> None:
    folder, lists = foreign
    flat, lengths = Rows.open(folder).take(np.array(indices, dtype=np.int64))
    assert flat.dtype == lengths.dtype == np.int32
    assert lengths.tolist() == [len(lists[i]) for i in indices]
    assert flat.tolist() == [token for i in indices for token in lists[i]]


def test_own_rows_equal_what_datasets_reads(own: Path) -> None:
    rows, table = Rows.open(own), datasets.load_from_disk(own)
    flat, lengths = rows.take(np.arange(len(rows)))
    assert flat.tolist() == [token for row in table for token in row["token_ids"]]
    assert lengths.tolist() == rows.lengths.tolist() == [len(row["token_ids"]) for row in table]
    keys = dict(zip(table["document"], rows.document_keys.tolist(), strict=True))
    assert len(keys) == len(set(keys.values())) == 3
    assert [keys[d] for d in table["document"]] == rows.document_keys.tolist()


def test_a_foreign_folder(foreign: tuple[Path, list[list[int]]]) -> None:
    folder, lists = foreign
    rows = Rows.open(folder)
    assert rows.lengths.tolist() == [len(tokens) for tokens in lists]
    assert rows.info is None
    assert rows.tokenizer_path is None
    assert rows.id(7) is None
    assert rows.sentence_starts(7).tolist() == []
    assert rows.title_lengths.tolist() == [0] * 500
    keys = rows.document_keys
    assert len(set(keys.tolist())) == len(range(0, 500, 3))
    assert keys[0] == keys[2] != keys[3]


def test_without_documents_every_row_is_its_own(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"token_ids": [[1], [2, 3]]}).save_to_disk(tmp_path / "set")
    assert Rows.open(tmp_path / "set").document_keys.tolist() == [0, 1]


def test_pickle_opens_by_path(own: Path) -> None:
    rows = Rows.open(own)
    data = pickle.dumps(rows)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again.fingerprint == rows.fingerprint
    assert again.take(np.array([1]))[0].tolist() == rows.take(np.array([1]))[0].tolist()


def test_fingerprint_follows_the_content(
    own: Path, foreign: tuple[Path, list[list[int]]], tmp_path: Path
) -> None:
    shutil.copytree(own, tmp_path / "copy")
    assert Rows.open(tmp_path / "copy").fingerprint == Rows.open(own).fingerprint
    datasets.Dataset.from_dict({"token_ids": foreign[1]}).save_to_disk(tmp_path / "a")
    datasets.Dataset.from_dict({"token_ids": [*foreign[1][:-1], [5]]}).save_to_disk(tmp_path / "b")
    assert Rows.open(tmp_path / "a").fingerprint != Rows.open(tmp_path / "b").fingerprint


def test_rows_outside_are_refused(own: Path) -> None:
    rows = Rows.open(own)
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows.take(np.array([index]))
        with pytest.raises(IndexError):
            rows.id(index)
    assert rows.take(np.array([], dtype=np.int64))[0].shape == (0,)


def test_folders_that_are_no_rows(own: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(own, cut)
    shard = next(cut.glob("rows-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(UserError, match="cut short"):
        Rows.open(cut)
    (cut / "rows.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Rows.open(cut)
    with pytest.raises(UserError, match="no folder"):
        Rows.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither"):
        Rows.open(tmp_path / "empty")


def test_foreign_folders_that_cannot_be_rows(tmp_path: Path) -> None:
    made = {
        "text": ({"text": ["words"]}, "no column token_ids"),
        "strings": ({"token_ids": [["a"]]}, "whole numbers"),
        "gaps": ({"token_ids": [[1], None]}, "whole numbers"),
        "holes": ({"token_ids": [[1, None]]}, "without gaps"),
        "none": ({"token_ids": pa.array([], pa.list_(pa.int32())).to_pylist()}, "token_ids|no rows"),
    }
    for name, (columns, said) in made.items():
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
        with pytest.raises(UserError, match=said):
            Rows.open(tmp_path / name)
    split = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"token_ids": [[1]]})})
    split.save_to_disk(tmp_path / "dict")
    with pytest.raises(UserError, match="splits"):
        Rows.open(tmp_path / "dict")
    assert len(Rows.open(tmp_path / "dict" / "train")) == 1
    shard = next((tmp_path / "dict" / "train").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        Rows.open(tmp_path / "dict" / "train")
