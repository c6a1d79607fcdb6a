"""encode, index, search and evaluate as people type them, on tiny models and tiny sets."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from app.command_line import CommandLine, write_lines, write_set
from retrieval.corpora import make_store, random_vectors
from retromae.core.ranking import read_trec
from retromae.evaluation.metrics import Result, evaluate_run
from retromae.retrieval.shards import VectorStore
from retromae.text.collections import Collection
from tiny import SENTENCES
from training.finetuning import write_collection
from training.processes import Started
from training.runs import command, environment, prepare_rows, settings

Folder = Callable[[str], Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_a_corpus_to_figures(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    model, vectors, index = tiny_folder("bert"), tmp_path / "vectors", tmp_path / "index"
    told = retromae.well("encode", model, "--corpus", collection, "--out", vectors, "--pooling", "cls")
    assert "24 passages, 32 dimensions in float32, pooling cls, compared by dot" in told
    assert "24 passages, hnsw" in retromae.well(
        "index", vectors, "--kind", "hnsw", "--out", index, "--links", 8
    )
    shown = retromae.well("search", index, "the old bridge", "-k", 3, "--effort", 64)
    assert [line[:4] for line in shown.splitlines() if line[3:4] == "."] == ["  1.", "  2.", "  3."]
    assert "Part " in shown and "dense " in shown
    two = retromae.well("search", index, "the old bridge", "orange grove", "-k", 1)
    assert two.count("  1. ") == 2 and "“orange grove”" in two

    run = tmp_path / "own.trec"
    told = retromae.well("search", index, "--queries", collection / "queries.jsonl", "--out", run, "-k", 24)
    assert told.startswith("8 queries")
    out = tmp_path / "out"
    table = retromae.well(
        *("evaluate", f"tiny={model}", "--beir", collection, "--pooling", "cls", "--output-dir", out),
        *("--against", f"searched={run}", "--against", "bm25", "--against", "fusion", "--metrics", "nDCG@10"),
        *("--metrics", "MRR@10", "--metrics", "Recall@5", "--vectors", tmp_path / "kept"),
    )
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line[:1].isalpha()}
    assert lines["tiny"] == lines["searched"]  # the command line's search is evaluate's search
    assert "† differs from bm25" in table and "toy, nDCG@10: tiny − bm25 = -" in table
    assert VectorStore(tmp_path / "kept" / "toy" / "tiny").ids()[:2] == ["d000", "d001"]

    qrels = Collection.open(collection).qrels
    for name in ("tiny", "bm25", "fusion", "searched"):
        kept = Result.load(out / "per_query" / "toy" / f"{name}.json")
        again = evaluate_run(
            qrels, read_trec(out / "runs" / "toy" / f"{name}.trec"), list(kept.metrics), name=name
        )
        assert again == kept
    facts = json.loads((out / "results.json").read_text())
    assert facts["sets"]["toy"]["queries"] == 8 and facts["baseline"] == "bm25"
    assert facts["systems"][0]["fingerprint"] and facts["settings"]["pooling"] == "cls"
    pairs = json.loads((out / "comparisons.json").read_text())["toy"]
    assert len(pairs) == 9 and all(pair["adjusted"] >= pair["p"] for pair in pairs)
    assert (out / "table.md").read_text().startswith("| System |")
    assert "\\toprule" in (out / "table.tex").read_text()
    json.loads((out / "table.json").read_text())
    # a saved run evaluates to the same figures, its file found by the set's name
    again = retromae.well("evaluate", f"{out}/runs/{{set}}/tiny.trec", "--beir", collection, "--form", "json")
    cells = next(iter(json.loads(again)["tables"][0]["cells"].values()))
    assert f"{cells['toy nDCG@10']['mean']:.3f}" == lines["tiny"][0].strip("*†")


def test_the_lexical_half_explains_itself(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    vectors, index = tmp_path / "vectors", tmp_path / "index"
    retromae.well(
        *("encode", tiny_folder("bert"), "--corpus", collection, "--out", vectors, "--lexical_terms", 16),
        *("--max-passage-length", 40, "--query-prompt", "find: "),
    )
    retromae.well("index", vectors, "--out", index)
    shown = retromae.well("search", index, "why does the bridge hum", "-k", 2)
    assert shown.count("lexical ") == 2 and "matched on *" in shown
    told = retromae.well("index", vectors, "--compare", "--out", tmp_path / "compared", "--most-queries", 3)
    assert "flat depth=100" in told and "hnsw depth=1000" in told


def test_compare_prints_the_table_and_draws(retromae: CommandLine, tmp_path: Path) -> None:
    make_store(tmp_path / "vectors", random_vectors(400, 16, 0), shard_size=100)
    told = retromae.well(
        "index", tmp_path / "vectors", "--compare", "--out", tmp_path / "c", "--most-queries", 5
    )
    assert all(kind in told for kind in ("flat", "hnsw effort=16", "ivfpq probes=4", "int8", "binary"))
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "tradeoff.json",
        "tradeoff.png",
        "tradeoff.svg",
    }
    assert json.loads((tmp_path / "c" / "tradeoff.json").read_text())["figures"][0]["recall"] == 1.0


def test_compare_with_queries_of_the_user(retromae: CommandLine, tiny_folder: Folder, tmp_path: Path) -> None:
    collection = write_set(tmp_path / "toy", 300)
    retromae.well(
        "encode", tiny_folder("bert"), "--corpus", collection, "--out", tmp_path / "v", "--pooling", "mean"
    )
    told = retromae.well(
        *("index", tmp_path / "v", "--compare", "--out", tmp_path / "c"),
        *("--queries", collection / "queries.jsonl", "-k", 5),
    )
    assert "8 queries, recall@5" in told


def test_settings_from_a_file(
    retromae: CommandLine, tiny_folder: Folder, collection: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"beir": [str(collection)], "depth": 7, "max-query-length": 12}))
    shown = yaml.safe_load(
        retromae.well("evaluate", "bm25", "--settings", file, "--depth", 9, "--print-config")
    )
    assert shown["depth"] == 9 and shown["max_query_length"] == 12 and shown["beir"] == [str(collection)]
    shown = yaml.safe_load(retromae.well("encode", "m", "--corpus", "a", "--corpus", "b", "--print_config"))
    assert shown["corpus"] == ["a", "b"] and shown["dtype"] == "float32"
    file.write_text("dept: 3")
    done = retromae("evaluate", "bm25", "--settings", file)
    assert done.code == 2 and "unknown setting 'dept'; did you mean 'depth'?" in done.err


@pytest.mark.slow
def test_killed_and_gone_on_with(retromae: CommandLine, tiny_folder: Folder, tmp_path: Path) -> None:
    collection = write_set(tmp_path / "toy", 240)
    words = ["encode", tiny_folder("bert"), "--corpus", collection, "--pooling", "cls", "--shard-size", 2]
    retromae.well(*words, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    process = Started(["-m", "retromae", *map(str, words), "--out", str(killed)], environment())
    deadline = time.monotonic() + 60
    while len(list(killed.glob("shard-*"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 20 <= len(list(killed.glob("shard-*"))) < 120
    assert "not made yet" in retromae("index", killed, "--out", tmp_path / "index").err
    assert not (tmp_path / "index").exists()
    retromae.well(*words, "--out", killed)
    assert contents(killed) == contents(tmp_path / "whole")


def test_sentence_tasks(retromae: CommandLine, tiny_folder: Folder, tmp_path: Path) -> None:
    sts, classes = tmp_path / "pairs", tmp_path / "kinds"
    sts.mkdir(), classes.mkdir()
    rows = [f"test\tall\t{n % 6}\t{SENTENCES[n]}\t{SENTENCES[(n * 7 + 1) % 24]}" for n in range(24)]
    (sts / "sts.tsv").write_text("split\tsubset\tscore\tsentence1\tsentence2\n" + "\n".join(rows) + "\n")
    rows = [
        f"{'test' if n % 4 == 0 else 'train'}\t{'long' if len(s) > 60 else 'short'}\t{s}"
        for n, s in enumerate(SENTENCES * 3)
    ]
    (classes / "cls.tsv").write_text("split\tlabel\ttext\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    told = retromae.well(
        *(
            "evaluate",
            f"tiny={tiny_folder('bert')}",
            "--pooling",
            "mean",
            "--sts",
            sts,
            "--transfer",
            classes,
        ),
        *("--against", f"other={tiny_folder('distilbert')}", "--output_dir", out),
    )
    assert "pairs, Spearman" in told and "kinds, accuracy" in told
    facts = json.loads((out / "results.json").read_text())
    assert set(facts["sts"]["pairs"]) == {"tiny", "other"} == set(facts["transfer"]["kinds"])
    assert facts["transfer"]["kinds"]["tiny"]["examples"] == 18
    assert math.isfinite(facts["sts"]["pairs"]["tiny"]["all"])
    done = retromae("evaluate", "bm25", "--sts", sts)
    assert done.code == 2 and "bm25 has no vectors" in done.err


def test_a_model_that_has_seen_the_test_is_warned_of(
    retromae: CommandLine, tiny_folder: Folder, tmp_path: Path
) -> None:
    """A real run on a corpus; then a set made of that corpus, and one that is not."""
    rows = prepare_rows(tmp_path, tiny_folder("bert"))
    run = {**settings(rows, tiny_folder("bert"), tmp_path / "run"), "max_steps": 1, "probe_queries": 0}
    retromae.well(*command(run)[2:])
    seen, unseen = tmp_path / "seen", write_set(tmp_path / "unseen")
    (seen / "qrels").mkdir(parents=True)
    shutil.copy(tmp_path / "corpus.jsonl", seen)
    first = json.loads((seen / "corpus.jsonl").read_text().splitlines()[0])
    write_lines(seen / "queries.jsonl", [{"_id": "q", "text": first["text"].split(". ")[0]}])
    (seen / "qrels" / "test.tsv").write_text("q\td0\t1\n")
    words = ["evaluate", f"own={tmp_path / 'run' / 'model'}", "--beir", seen, "--beir", unseen]
    done = retromae(*words, "--output_dir", tmp_path / "out")
    assert done.code == 0
    assert "own was trained on text of seen: 1 of 1 queries and 1 of 1 relevant passages" in done.err
    assert "of unseen" not in done.err
    facts = json.loads((tmp_path / "out" / "results.json").read_text())["sets"]
    assert (
        facts["seen"]["leakage"][0]["passages"] == ["d0"] and facts["unseen"]["leakage"][0]["passages"] == []
    )
    assert "trained on" not in retromae(*words, "--no-leakage").err
    shutil.rmtree(rows)
    assert "is gone or has changed" in retromae(*words).err


def test_missing_queries_count_as_zero_and_are_told(
    retromae: CommandLine, collection: Path, tmp_path: Path
) -> None:
    run = tmp_path / "part.trec"
    run.write_text("q0 Q0 d000 1 1.0 x\n")
    told = retromae.well("evaluate", run, "--beir", collection, "--metrics", "nDCG@10")
    assert "*0.125" in told  # one of eight
    assert "no result for 7 of 8 queries of toy: they count as zero" in told


def test_answer_strings(retromae: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "nq-dpr"
    folder.mkdir()
    rows = [f"{n}\t{text}\tPart {n}" for n, text in enumerate(SENTENCES, 1)]
    (folder / "psgs_w100.tsv").write_text("id\ttext\ttitle\n" + "\n".join(rows) + "\n")
    (folder / "nq-test.qa.csv").write_text(
        "what keeps fish for months\t['salt']\nwho hunts by ear\t['Eagles']\n"
    )
    told = retromae.well("evaluate", "bm25", "--beir", folder, "--output_dir", tmp_path / "out")
    assert "Accuracy@20" in told and told.count("*0.500") == 4
    words = ("--metrics", "accuracy@10", "--metrics", "Accuracy@3")
    told = retromae.well("evaluate", "bm25", "--beir", folder, *words, "--output_dir", tmp_path / "again")
    assert told.count("*0.500") == 2 and "Accuracy@10" in told and "Accuracy@20" not in told
    judged = write_collection(tmp_path / "judged")
    done = retromae("evaluate", "bm25", "--beir", judged, *words, "--output_dir", tmp_path / "no")
    assert done.code == 2 and "Accuracy@k is measured by answer strings" in done.err
