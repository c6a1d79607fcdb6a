"""Corpora to shards: the same result after a kill, by one process or two, and nothing accepted that is broken."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from retrieval.corpora import make_store, random_vectors
from retromae.core.errors import UserError
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.shards import VectorStore, shard_folder
from retromae.text.store import Passage
from tiny import SENTENCES

Folder = Callable[[str], Path]
CORPUS = [Passage(f"p{n}", f"part {n}" if n % 3 else "", SENTENCES[n % 24][: 20 + n]) for n in range(41)]


def corpus() -> Iterator[Passage]:
    return iter(CORPUS)


@pytest.fixture(scope="module")
def encoder(tiny_folder: Folder) -> Encoder:
    return Encoder.open(tiny_folder("bert"), lexical_terms=6)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_shards_hold_what_the_encoder_gives(encoder: Encoder, tmp_path: Path) -> None:
    store = embed_corpus(encoder, corpus, tmp_path / "vectors", shard_size=10)
    assert store is not None
    assert (len(store), store.manifest.shards, store.manifest.dtype) == (41, 5, "float32")
    assert store.ids() == [passage.id for passage in CORPUS]
    expected = encoder.encode_passages([p.text for p in CORPUS], [p.title for p in CORPUS])
    found = store.vectors()
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-5)
    np.testing.assert_allclose(found.lexical.toarray(), expected.lexical.toarray(), atol=1e-4)
    assert found.fingerprint == encoder.fingerprint
    assert [
        store_passage
        for shard in store.shards()
        for store_passage in map(shard.passages.__getitem__, range(len(shard)))
    ] == CORPUS
    halves = embed_corpus(encoder, corpus, tmp_path / "half", dtype="float16", shard_size=50)
    assert halves is not None
    assert next(halves.shards()).dense.dtype == np.float16
    np.testing.assert_allclose(halves.vectors().dense, expected.dense, atol=5e-3)


def test_two_processes_make_the_same_files_as_one(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_corpus(encoder, corpus, tmp_path / "one", shard_size=7)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert embed_corpus(encoder, corpus, tmp_path / "two", shard_size=7) is None
    with pytest.raises(UserError, match=r"3 of 6 shards .* are not made yet"):
        VectorStore(tmp_path / "two")
    monkeypatch.setenv("RANK", "0")
    assert embed_corpus(encoder, corpus, tmp_path / "two", shard_size=7) is not None
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_long_documents_are_told_of(tiny_folder: Folder, tmp_path: Path) -> None:
    """Once, with the share so far; also of shards that are there already; not of a text that just fits."""
    documents = [Passage(f"p{n}", "", text) for n, text in enumerate(SENTENCES)]
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert"))
    lengths = [len(tokenizer(text).input_ids) for text in SENTENCES]
    longest = sorted(lengths)[-4]
    cut = sum(length > longest for length in lengths)
    assert 2 <= cut < sum(length >= longest for length in lengths)
    encoder = Encoder.open(tiny_folder("bert"), pooling="cls", max_passage_length=longest)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=rf"^{cut} of the 24 documents so far .* than {longest} tokens"
        ) as told:
            embed_corpus(encoder, lambda: iter(documents), tmp_path / "vectors")
        assert len(told) == 1


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_and_gone_on_with(encoder: Encoder, tmp_path: Path, seed: int) -> None:
    embed_corpus(encoder, corpus, tmp_path / "whole", shard_size=2)
    killed = tmp_path / "killed"
    child = os.fork()
    if not child:
        try:
            embed_corpus(encoder, corpus, killed, shard_size=2)
        finally:
            os._exit(0)
    wanted = random.Random(seed).randrange(1, 18)
    deadline = time.monotonic() + 20
    while not shard_folder(killed, wanted).exists() and time.monotonic() < deadline:
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    made = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*")}
    assert len(made) > wanted
    assert embed_corpus(encoder, corpus, killed, shard_size=2) is not None
    assert contents(killed) == contents(tmp_path / "whole")
    assert all((killed / name).stat().st_mtime_ns == when for name, when in made.items())


def test_another_model_setting_or_corpus_is_refused(
    encoder: Encoder, tiny_folder: Folder, tmp_path: Path
) -> None:
    folder = tmp_path / "vectors"
    embed_corpus(encoder, corpus, folder, shard_size=10)
    before = contents(folder)
    other = Encoder.open(tiny_folder("bert"), pooling="mean")
    with pytest.raises(UserError, match="differ in fingerprint, vocabulary, settings"):
        embed_corpus(other, corpus, folder, shard_size=10)
    with pytest.raises(UserError, match="differ in dtype, shard_size"):
        embed_corpus(encoder, corpus, folder, dtype="float16")
    changed = [*CORPUS[:30], CORPUS[30]._replace(text="new"), *CORPUS[31:]]
    with pytest.raises(UserError, match="shard-00003 was made of other documents"):
        embed_corpus(encoder, lambda: iter(changed), folder, shard_size=10)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "holds no document"),
        ([Passage("", "", "a")], "document 1 of the corpus has no id"),
        ([Passage("a", "", "x"), Passage("b", "", "y"), Passage("a", "", "z")], "the id 'a' twice"),
    ],
)
def test_a_bad_corpus_leaves_nothing_behind(
    encoder: Encoder, tmp_path: Path, documents: list[Passage], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        embed_corpus(encoder, lambda: iter(documents), tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_vectors_that_are_not_finite_are_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    broken = Encoder.open(tiny_folder("bert"), pooling="cls")
    with torch.no_grad():
        broken.model[0].model.encoder.layer[1].output.LayerNorm.weight[0] = float("nan")
    with pytest.raises(UserError, match="vector of document 'p0' holds NaN"):
        embed_corpus(broken, corpus, tmp_path / "nan")
    assert not list((tmp_path / "nan").glob("*shard*"))
    with torch.no_grad():
        broken.model[0].model.encoder.layer[1].output.LayerNorm.weight[0] = 1e6
    with pytest.raises(UserError, match="beyond float16; choose float32"):
        embed_corpus(broken, corpus, tmp_path / "large", dtype="float16")


@pytest.mark.parametrize("name", ["dense.npy", "passages.arrow", "weights.npy", "shard.json"])
def test_a_truncated_shard_is_refused(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path / "vectors", random_vectors(90, 8, 0, vocabulary=20, terms=3))
    path = shard_folder(store.folder, 1) / name
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match="shard-00001 is truncated or damaged"):
        VectorStore(store.folder)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no vectors\.json"):
        VectorStore(tmp_path)
    (tmp_path / "vectors.json").write_text('{"documents": 3}')
    with pytest.raises(UserError, match="damaged"):
        VectorStore(tmp_path)
