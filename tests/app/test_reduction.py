"""`--dense_dimension`: DupMAE's dense half reduced by PCA, against transformers and numpy alone."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from app.command_line import CommandLine, write_lines, write_set
from retromae.core.ranking import read_trec
from retromae.retrieval import reduction
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.reduction import reduce_dense
from retromae.retrieval.shards import VectorStore
from retromae.text.collections import Collection

Folder = Callable[[str], Path]
DIMENSION, TERMS = 6, 9


def states_and_terms(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) [CLS] states and (n, V) maxima of the ordinary tokens' logits, one text at a time."""
    model, tokenizer = (
        AutoModelForMaskedLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    states, terms = [], []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            out = model(**tokens, output_hidden_states=True)
        special = tokenizer.get_special_tokens_mask(
            tokens["input_ids"][0].tolist(), already_has_special_tokens=True
        )
        states.append(out.hidden_states[-1][0, 0].numpy())
        terms.append(out.logits[0][torch.tensor(special) == 0].max(dim=0).values.numpy())
    return np.stack(states).astype(np.float64), np.stack(terms).astype(np.float64)


def expected_scores(folder: Path, queries: list[str], documents: list[str]) -> np.ndarray:
    """(q, n): main axes about the documents' mean by a singular value decomposition, and the best terms."""
    states, weights = states_and_terms(folder, documents)
    asked, all_terms = states_and_terms(folder, queries)
    mean = states.mean(axis=0)
    axes = np.linalg.svd(states - mean, full_matrices=False)[2][:DIMENSION]
    kept = np.where(weights >= np.sort(weights, axis=1)[:, [-TERMS]], weights, 0.0)
    return (asked - mean) @ axes.T @ ((states - mean) @ axes.T).T + all_terms @ kept.T


def words(model: Path, collection: Path, out: Path) -> list[object]:
    halves = ["--lexical_terms", TERMS, "--dense_dimension", DIMENSION]
    return ["encode", model, "--corpus", collection, "--out", out, *halves]


def test_encode_index_search_and_evaluate_give_the_scores_of_the_definition(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    vectors, index, run = tmp_path / "vectors", tmp_path / "index", tmp_path / "own.trec"
    told = retromae.well(*words(tiny_folder("bert"), collection, vectors))
    assert f"24 passages, {DIMENSION} dimensions and {TERMS} terms in float32" in told
    retromae.well("index", vectors, "--out", index)
    retromae.well("search", index, "--queries", collection / "queries.jsonl", "--out", run, "-k", 24)
    opened = Collection.open(collection)
    documents = list(opened.corpus())
    texts = [f"{one.title} {one.text}" for one in documents]
    expected = expected_scores(tiny_folder("bert"), list(opened.queries.values()), texts)
    found = read_trec(run)
    for row, query in enumerate(opened.queries):
        scores = dict(zip(found[query].ids, found[query].scores))
        assert len(scores) == 24
        mine = [scores[document.id] for document in documents]
        np.testing.assert_allclose(mine, expected[row], rtol=1e-4, atol=1e-3)
    # evaluate makes the same reduction, and takes one that is there; the reduced model is a model by itself
    halves = ["--lexical_terms", TERMS, "--dense_dimension", DIMENSION]
    shutil.copytree(vectors, tmp_path / "kept" / "toy" / "m")
    for given in (
        [tiny_folder("bert"), *halves],
        [tiny_folder("bert"), *halves, "--vectors", tmp_path / "kept"],
        [vectors / "encoder"],
    ):
        out = tmp_path / "out"
        model = f"m={given[0]}"
        retromae.well("evaluate", model, *given[1:], "--beir", collection, "--depth", 24, "--output_dir", out)
        again = read_trec(out / "runs" / "toy" / "m.trec")
        assert all(again[query].ids == found[query].ids for query in opened.queries)
        shutil.rmtree(out)


def test_again_and_with_other_settings(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    vectors = tmp_path / "vectors"
    given = words(tiny_folder("bert"), collection, vectors)
    retromae.well(*given)
    model = vectors / "encoder"
    before = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}
    retromae.well(*given)
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir()} == before
    for other in (["--dense_dimension", 5], ["--query_prompt", "find: "], ["--max_passage_length", 20]):
        done = retromae(*given, *other)
        assert (
            done.code == 2 and "was fitted to another model, other settings or another dimension" in done.err
        )
    done = retromae(*given[:-2])
    assert done.code == 2 and "holds vectors that differ in fingerprint, dimension" in done.err
    plain = tmp_path / "plain"
    retromae.well(*words(tiny_folder("bert"), collection, plain)[:-2])
    done = retromae(*words(tiny_folder("bert"), collection, plain))
    assert done.code == 2 and "holds vectors that were not reduced" in done.err
    assert not (plain / "encoder").exists()
    retromae.well("index", vectors, "--out", tmp_path / "index")
    assert "dense " in retromae.well("search", tmp_path / "index", "the old bridge", "-k", 1)
    done = retromae("search", tmp_path / "index", "the old bridge", "--model", tiny_folder("bert"))
    assert done.code == 2 and "was made by another model" in done.err  # not through the same map


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--dense_dimension", 6], "is opened without a lexical half; add --lexical_terms 384"),
        (["--lexical_terms", 9, "--dense_dimension", 33], "32 dimensions cannot be reduced to 33"),
        (["--lexical_terms", 9, "--dense_dimension", 0], "cannot be reduced to 0"),
        (["--lexical_terms", 9, "--dense_dimension", 30], "needs more than 24 vectors"),
    ],
)
def test_what_cannot_be_reduced(
    retromae: CommandLine,
    tiny_folder: Folder,
    collection: Path,
    tmp_path: Path,
    given: list[object],
    sentence: str,
) -> None:
    for verb, out in ((["encode", "--corpus"], "--out"), (["evaluate", "--beir"], "--output_dir")):
        done = retromae(verb[0], tiny_folder("bert"), verb[1], collection, out, tmp_path / "new", *given)
        assert done.code == 2 and sentence in done.err, done
        assert not list((tmp_path / "new").rglob("shard-*")) and not list((tmp_path / "new").rglob("encoder"))


def test_a_reduced_model_and_sentence_tasks_are_refused(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    retromae.well(*words(tiny_folder("bert"), collection, tmp_path / "v"))
    done = retromae(*words(tmp_path / "v" / "encoder", collection, tmp_path / "w"))
    assert done.code == 2 and f"has a map of [CLS] to {DIMENSION} dimensions already" in done.err
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "sts.tsv").write_text(
        "split\tsubset\tscore\tsentence1\tsentence2\ntest\ta\t1\tb\tc\n"
    )
    done = retromae(
        *("evaluate", tiny_folder("bert"), "--lexical_terms", 9, "--dense_dimension", 6),
        *("--sts", tmp_path / "sts"),
    )
    assert done.code == 2 and "sentence tasks have none" in done.err


def test_the_sample_is_drawn_by_id_and_rounding_comes_after_the_fit(
    retromae: CommandLine, tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "SAMPLE", 15)
    one, other = write_set(tmp_path / "one"), write_set(tmp_path / "other")
    lines = [json.loads(line) for line in (one / "corpus.jsonl").read_text().splitlines()]
    write_lines(other / "corpus.jsonl", lines[::-1])
    made = {}
    for name, folder, more in (("a", one, []), ("b", other, []), ("c", one, ["--precision", "bfloat16"])):
        retromae.well(*words(tiny_folder("bert"), folder, tmp_path / name), *more)
        made[name] = Encoder.open(tmp_path / name / "encoder")
    weights = {name: encoder.model[0].linear.weight.detach().numpy() for name, encoder in made.items()}
    np.testing.assert_allclose(weights["a"], weights["b"], atol=1e-5)  # batches differ by rounding
    assert made["a"].fingerprint == made["c"].fingerprint == VectorStore(tmp_path / "c").manifest.fingerprint
    monkeypatch.setattr(reduction, "SAMPLE", 24)
    retromae.well(*words(tiny_folder("bert"), one, tmp_path / "d"))
    whole = Encoder.open(tmp_path / "d" / "encoder").model[0].linear.weight.detach().numpy()
    assert np.abs(whole - weights["a"]).max() > 1e-3


def test_other_processes_wait_for_the_first(
    tiny_folder: Folder, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Collection.open(collection).corpus
    first, second = (Encoder.open(tiny_folder("bert"), lexical_terms=TERMS) for _ in range(2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    found: list[Path] = []
    waiting = threading.Thread(
        target=lambda: found.append(reduce_dense(second, corpus, tmp_path / "v", DIMENSION)), daemon=True
    )
    waiting.start()
    time.sleep(0.5)
    assert not found and not (tmp_path / "v").exists()
    monkeypatch.setenv("RANK", "0")
    assert reduce_dense(first, corpus, tmp_path / "v", DIMENSION) == tmp_path / "v" / "encoder"
    waiting.join(10)
    assert found == [tmp_path / "v" / "encoder"]
