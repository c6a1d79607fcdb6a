"""Collections in the hub's layout become BEIR folders with the same content."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from app.compare.hub_stand_ins import write_hub_collection, write_repository
from retromae.core.errors import UserError
from retromae.text.collections import Collection
from retromae.text.hub_collections import fetch
from retromae.text.pairs import Pairs
from training.finetuning import write_collection


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_what_is_fetched_is_the_collection(tmp_path: Path) -> None:
    plain = write_collection(tmp_path / "plain", passages=20)
    fetch(f"hub:{write_hub_collection(tmp_path / 'hub', plain)}", tmp_path / "fetched")
    for split in ("dev", "test"):
        mine, theirs = Collection.open(tmp_path / "fetched", split), Collection.open(plain, split)
        assert (mine.queries, mine.qrels) == (theirs.queries, theirs.qrels)
        texts = [
            [(document.id, document.title, document.text) for document in found.corpus()]
            for found in (mine, theirs)
        ]
        assert texts[0] == texts[1] and len(mine) == 20
    mined = [Pairs.open(tmp_path / name, "train", cache=tmp_path / "pairs") for name in ("fetched", "plain")]
    assert mined[0].fingerprint == mined[1].fingerprint


def test_other_names_of_the_same_parts(tmp_path: Path) -> None:
    """`query`, `qrels`, `id`, a split called validation."""
    hub = write_repository(
        tmp_path / "hub",
        {
            "qrels": {"validation": [{"query-id": "q", "corpus-id": "d", "score": 2}]},
            "corpus": {"train": [{"id": "d", "text": "a text"}]},
            "query": {"train": [{"id": "q", "text": "a question"}]},
        },
    )
    fetch(f"hub:{hub}", tmp_path / "fetched")
    found = Collection.open(tmp_path / "fetched", "dev")
    assert found.qrels == {"q": {"d": 2}} and found.queries == {"q": "a question"}


def test_what_is_no_collection_is_refused(tmp_path: Path) -> None:
    hub = write_repository(tmp_path / "hub", {"corpus": {"train": [{"id": "d", "text": "a text"}]}})
    with pytest.raises(UserError, match="no retrieval collection"):
        fetch(f"hub:{hub}", tmp_path / "fetched")
    with pytest.raises(UserError, match="cannot be read"):
        fetch(f"hub:{tmp_path / 'nowhere'}", tmp_path / "fetched")
    for name in ("somewhere", "hub:", "hub:name@test"):
        with pytest.raises(UserError, match="hub:NAME"):
            fetch(name, tmp_path / "fetched")
    broken = {
        "default": {"test": [{"query-id": "q", "score": 1}]},
        "corpus": {"corpus": [{"_id": "d", "text": "a text"}]},
        "queries": {"queries": [{"_id": "q", "text": "a question"}]},
    }
    with pytest.raises(UserError, match="a judgement has no"):
        fetch(f"hub:{write_repository(tmp_path / 'broken', broken)}", tmp_path / "fetched")
