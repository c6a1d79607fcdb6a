"""Whatever is wrong with the input is one sentence, exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.command_line import CommandLine, write_lines, write_set
from retrieval.corpora import make_store, random_vectors
from retromae.retrieval.shards import VectorStore
from tiny import SENTENCES

Folder = Callable[[str], Path]


def broken_set(folder: Path, what: str) -> Path:
    write_set(folder)
    corpus, qrels = folder / "corpus.jsonl", folder / "qrels" / "test.tsv"
    lines = corpus.read_text().splitlines(keepends=True)
    if what == "no id":
        corpus.write_text("".join([*lines[:3], '{"text": "nobody knows me"}\n']))
    elif what == "twice":
        corpus.write_text("".join([*lines, lines[4]]))
    elif what == "surrogate":
        corpus.write_text("".join([*lines, '{"_id": "x", "text": "half \\ud800 of it"}\n']))
    elif what == "unknown":
        qrels.write_text(qrels.read_text() + "q0\tnowhere\t1\n")
    elif what == "empty query":
        path = folder / "queries.jsonl"
        path.write_text(path.read_text().replace(json.loads(path.read_text().splitlines()[0])["text"], " "))
    return folder


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no id", "corpus.jsonl:4: there is no id"),
        ("twice", "holds the id 'd004' twice"),
        ("surrogate", "corpus.jsonl:25: the document holds half a surrogate pair"),
    ],
)
def test_a_bad_corpus_is_one_sentence(
    retromae: CommandLine, tiny_folder: Folder, tmp_path: Path, what: str, sentence: str
) -> None:
    folder = broken_set(tmp_path / "bad", what)
    for words in (
        ["encode", tiny_folder("bert"), "--corpus", folder],
        ["evaluate", "bm25", "--beir", folder],
    ):
        out = tmp_path / words[0]
        done = retromae(*words, *(("--out", out) if words[0] == "encode" else ("--output_dir", out)))
        assert done.code == 2 and done.err.count("Error:") == 1 and sentence in done.err
        assert "Traceback" not in done.err and not out.exists()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("unknown", "1 of 9 judged documents are not in the corpus"),
        ("empty query", "1 queries of split 'test'"),
    ],
)
def test_bad_judgements_are_refused_or_warned_of(
    retromae: CommandLine, tmp_path: Path, what: str, sentence: str
) -> None:
    folder = broken_set(tmp_path / "bad", what)
    done = retromae("evaluate", "bm25", "--beir", folder)
    assert done.code == 2 and sentence in done.err
    done = retromae("evaluate", "bm25", "--beir", folder, "--on-error", "warn")
    assert done.code == 0 and sentence in done.err


def test_a_plain_file_needs_ids_and_may_name_them(
    retromae: CommandLine, tiny_folder: Folder, tmp_path: Path
) -> None:
    file = write_lines(
        tmp_path / "notes.jsonl", [{"key": f"k{n}", "text": s} for n, s in enumerate(SENTENCES)]
    )
    words = ["encode", tiny_folder("bert"), "--corpus", file, "--out", tmp_path / "v", "--pooling", "cls"]
    done = retromae(*words)
    assert done.code == 2 and "notes.jsonl:1: the document has no id" in done.err and "--id_field" in done.err
    assert "24 passages" in retromae.well(*words, "--id_field", "key")
    assert VectorStore(tmp_path / "v").ids()[3] == "k3"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluate", "bm25"], "nothing to measure on"),
        (["evaluate", "bm25", "--beir", "SET", "--against", "bm25"], "two systems are called 'bm25'"),
        (["evaluate", "fusion", "--beir", "SET"], "name a model first"),
        (["evaluate", "bm25", "--beir", "SET", "--against", "fusion"], "which is BM25 itself"),
        (["evaluate", "bm25", "--beir", "SET", "--baseline", "x"], "the baseline 'x' is not among"),
        (["evaluate", "bm25", "--beir", "SET", "--metrics", "F1"], "metric 'F1' is not known"),
        (["evaluate", "bm25", "--beir", "SET", "--split", "dev"], "dev.tsv"),
        (["evaluate", "bm25", "--beir", "SET", "--beir", "SET"], "two sets are called 'toy'"),
        (["evaluate", "gone.trec", "--beir", "SET"], "cannot read gone.trec"),
        (["evaluate", "no/model", "--beir", "SET"], "no/model"),
        (["encode", "no/model"], "name a corpus with --corpus"),
        (["encode", "no/model", "--corpus", "nowhere"], "nowhere does not exist"),
        (["search", "INDEX"], "say what to look for"),
        (["search", "INDEX", " "], "the query is empty"),
        (["search", "INDEX", "a"], "is no index"),
        (["index", "SET"], "holds no vectors.json"),
        (["index", "VECTORS", "--compare", "--effort", "3"], "leave out --effort"),
        (["index", "VECTORS", "--kind", "flat", "--effort", "3"], "unknown setting 'effort'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    retromae: CommandLine, collection: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    make_store(tmp_path / "vectors", random_vectors(30, 8, 0))
    places = {"SET": collection, "INDEX": tmp_path, "VECTORS": tmp_path / "vectors"}
    done = retromae(
        *(places.get(word, word) for word in words),
        *(["--out", tmp_path / "new"] if words[0] == "index" else []),
    )
    assert done.code == 2 and sentence in done.err, done
    assert not (tmp_path / "new").exists()


def test_an_index_of_another_model_and_broken_shards(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    vectors, index = tmp_path / "v", tmp_path / "i"
    retromae.well("encode", tiny_folder("bert"), "--corpus", collection, "--out", vectors, "--pooling", "cls")
    retromae.well("index", vectors, "--out", index)
    done = retromae("search", index, "salt", "--model", tiny_folder("distilbert"))
    assert done.code == 2 and "was made by another model" in done.err
    dense = vectors / "shard-00000" / "dense.npy"
    whole = dense.read_bytes()
    broken = np.load(dense)
    broken[5, 3] = np.nan
    np.save(dense, broken)
    done = retromae("index", vectors, "--out", tmp_path / "new")
    assert done.code == 2 and "vector of document 'd005'" in done.err and "NaN" in done.err
    dense.write_bytes(whole[:-100])
    done = retromae("index", vectors, "--out", tmp_path / "new")
    assert done.code == 2 and "truncated or damaged" in done.err
    assert not (tmp_path / "new").exists()
