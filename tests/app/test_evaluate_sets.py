"""Conventions of public sets, seen through the command line; queries from files of several kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.command_line import CommandLine, write_lines, write_set
from retromae.app.queries import read_queries
from retromae.app.systems import System, parse
from retromae.core.errors import UserError
from retromae.core.ranking import read_trec
from retromae.evaluation.benchmarks import CQADUPSTACK


@pytest.fixture
def retromae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_the_average_says_over_how_many_sets(retromae: CommandLine, tmp_path: Path) -> None:
    sets = [write_set(tmp_path / name) for name in ("scifact", "fiqa")]
    words = [word for folder in sets for word in ("--beir", folder)]
    assert "on average over 2 of BEIR's 18 sets" in retromae.well("evaluate", "bm25", *words)
    other = write_set(tmp_path / "mine")
    assert "on average" not in retromae.well("evaluate", "bm25", *words, "--beir", other)


def test_cqadupstack_is_one_set_of_twelve(retromae: CommandLine, tmp_path: Path) -> None:
    whole = tmp_path / "cqadupstack"
    for forum in CQADUPSTACK:
        write_set(whole / forum, documents=6)
    scifact = write_set(tmp_path / "scifact")
    told = retromae.well("evaluate", "bm25", "--beir", whole, "--beir", scifact, "--metrics", "MAP")
    assert "cqadupstack/wordpress" in told and "average over 2 of BEIR's 18 sets" in told
    shutil.rmtree(whole / "gis")
    assert "No average: CQADupStack's average needs exactly its 12 forums" in retromae.well(
        "evaluate", "bm25", "--beir", whole
    )


def test_touche_names_its_version(retromae: CommandLine, tmp_path: Path) -> None:
    told = retromae.well("evaluate", "bm25", "--beir", write_set(tmp_path / "webis-touche2020"))
    assert "webis-touche2020: version unknown of the judgements and the corpus" in told


def test_a_query_that_is_a_document_does_not_find_itself(retromae: CommandLine, tmp_path: Path) -> None:
    figures = {}
    for name in ("arguana", "mine"):
        folder = write_set(tmp_path / name)
        documents = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
        write_lines(folder / "queries.jsonl", [{"_id": d["_id"], "text": d["text"]} for d in documents])
        (folder / "qrels" / "test.tsv").write_text("d000\td007\t1\n")
        told = retromae.well("evaluate", "bm25", "--beir", folder, "--form", "json", "--metrics", "MRR@10")
        figures[name] = json.loads(told)["tables"][0]["cells"]["bm25"][name]["mean"]
    assert figures == {"arguana": 1.0, "mine": 0.5}


def test_weighted_fusion_has_its_ends(retromae: CommandLine, tmp_path: Path) -> None:
    """All the weight on the model leaves its order; a run serves as the model."""
    folder, out = write_set(tmp_path / "toy"), tmp_path / "out"
    run = tmp_path / "model.trec"
    run.write_text("".join(f"q{n} Q0 d{m:03} 1 {-m} x\n" for n in range(0, 24, 3) for m in range(24)))
    retromae.well(
        *("evaluate", f"model={run}", "--beir", folder, "--against", "bm25", "--against", "fusion"),
        *("--fusion-weight", 1, "--output_dir", out),
    )
    fused, own = read_trec(out / "runs" / "toy" / "fusion.trec"), read_trec(run)
    assert all(fused[query].ids == own[query].ids for query in own)
    done = retromae("evaluate", f"model={run}", "--beir", folder, "--against", "fusion", "--fusion-weight", 2)
    assert done.code == 2 and "fusion_weight" in done.err


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("bm25", System("bm25", "bm25", "bm25")),
        ("lexical=bm25", System("lexical", "bm25", "bm25")),
        ("fusion", System("fusion", "fusion", "fusion")),
        ("runs/a/model/", System("runs/a/model", "encoder", "runs/a/model/")),
        ("own=out/{set}/own.trec", System("own", "run", "out/{set}/own.trec")),
    ],
)
def test_systems_by_what_is_typed(spec: str, expected: System) -> None:
    assert parse(spec) == expected


def test_queries_of_several_kinds(tmp_path: Path) -> None:
    lines, tabs, plain = tmp_path / "q.jsonl", tmp_path / "q.tsv", tmp_path / "q.txt"
    write_lines(lines, [{"_id": "a", "text": "first"}, {"id": 7, "text": "second"}])
    tabs.write_text("a\tfirst\n7\tsecond\n")
    plain.write_text("first\n\nsecond\n")
    assert read_queries(lines) == read_queries(tabs) == {"a": "first", "7": "second"}
    assert read_queries(plain) == {"1": "first", "3": "second"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("q.jsonl", '{"_id": "a", "text": " "}\n', "q.jsonl:1: the query has no text"),
        ("q.jsonl", '{"text": "x"}\n', "q.jsonl:1: the query has no id"),
        ("q.jsonl", "x\n", "q.jsonl:1: this is not a JSON object"),
        ("q.tsv", "a\tx\na\ty\n", "q.tsv:2: the query id 'a' occurs twice"),
        ("q.tsv", "ax\n", "q.tsv:1: there is no tab"),
        ("q.txt", "\n", "holds no query"),
    ],
)
def test_bad_queries(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_queries(tmp_path / name)
