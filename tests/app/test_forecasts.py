"""Forecasts reckon with what was measured and counted, and say so where nothing was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.command_line import CommandLine
from retromae.app.forecasts import UNKNOWN, Need, Speeds, disk, finetuning, large
from retromae.core.errors import UserError
from retromae.training.finetune_settings import FinetuneConfig
from training.finetuning import write_collection

amounts = st.one_of(st.none(), st.integers(0, 10**12).map(float))
needs = st.builds(Need, amounts, amounts, amounts)


def test_a_speed_is_a_number_or_what_a_benchmark_wrote(tmp_path: Path) -> None:
    cases = {
        name: {"ours": {"loop_tokens_per_second": speed}} for name, speed in (("a: b", 10.0), ("c", 20.0))
    }
    several, one = tmp_path / "several.json", tmp_path / "one.json"
    several.write_text(json.dumps({"results": {"cases": cases}}))
    one.write_text(json.dumps({"results": {"cases": {"c": cases["c"]}}}))
    assert Speeds.read("1,500", "2e3") == Speeds(1500.0, 2000.0)
    assert Speeds.read(f"{several}:a: b", str(one)) == Speeds(10.0, 20.0)
    assert Speeds.read(None, None) == Speeds()
    for wrong in (
        str(several),
        f"{several}:d",
        "0",
        "-3",
        "quick",
        str(tmp_path / "nowhere.json"),
        "nan",
        "inf",
    ):
        with pytest.raises(UserError, match="--tokens_per_second"):
            Speeds.read(wrong, None)


@given(needs, needs, st.integers(1, 50))
def test_needs_add_up(first: Need, second: Need, number: int) -> None:
    assert first + second == second + first and first + Need() == first
    assert first.times(number) == sum((first for _ in range(number)), Need())
    assert first.times(0) == Need()
    both = first + second
    assert (both.trained is None) == (first.trained is None or second.trained is None)


def test_hours_are_reckoned_or_absent() -> None:
    need = Need(trained=7.2e6, encoded=3.6e6)
    assert need.hours(Speeds(1000, 500)) == "4.0 GPU hours"
    assert need.hours(Speeds(1000, None)) == "not measured"
    assert Need(trained=7.2e6).hours(Speeds(1000, None)) == "2.0 GPU hours"
    assert Need(trained=None).hours(Speeds(1000, 500)) == UNKNOWN == disk(Need(disk=None))
    assert (large(0), large(999), large(1500), large(2.5e12)) == ("0", "999", "1.5 k", "2.5 T")
    assert disk(Need(disk=4e9)) == "4 GB"


@given(st.integers(1, 500), st.integers(1, 9), st.integers(1, 4), st.integers(1, 60), st.booleans())
def test_refreshing_reads_all_passages_again_and_again(
    queries: int, batch: int, devices: int, every: int, mined_before: bool
) -> None:
    config = FinetuneConfig(
        per_device_train_batch_size=batch,
        num_train_epochs=2,
        refresh_every=every,
        negatives="folder" if mined_before else None,
    )
    steps = -(-2 * queries // (batch * devices))
    times = sum(step % every == 0 and (step > 0 or not mined_before) for step in range(steps))
    need = finetuning(config, queries, lambda: 1000.0, devices)
    texts = 1000 * config.passage_max_len + queries * config.query_max_len
    assert need.encoded == times * texts
    once = finetuning(replace(config, refresh_every=None, negatives="folder"), queries, lambda: None, devices)
    assert once.encoded == 0 and once.trained == need.trained
    assert finetuning(config, None, lambda: 1000.0, devices).encoded is None


def test_the_plan_of_a_pipeline(retromae: CommandLine, tmp_path: Path) -> None:
    """Stages, their data and needs; sizes that the file states stand in for data that are not here."""
    data = write_collection(tmp_path / "data")
    recipe = tmp_path / "two.yaml"
    recipe.write_text(
        f"""
output_dir: {tmp_path / "out"}
expected:
  parameters: 1000
  dimension: 10
  passage_tokens: 20
  rows: {{tokens: 3600000}}
stages:
  - {{name: rows, verb: prepare, sources: [hub:somebody/text], tokenizer: t}}
  - {{name: model, verb: pretrain, rows: "${{rows}}", model_name_or_path: m, num_train_epochs: 2}}
  - {{name: tuned, verb: finetune, model: "${{model}}", pairs: {data}, num_train_epochs: 1, query_max_len: 10,
     passage_max_len: 40, train_group_size: 3}}
  - {{name: measured, verb: evaluate, model: "a=${{tuned}}", against: [bm25, other], beir: {data}}}
"""
    )
    plan = retromae.well("pipeline", recipe, "--plan", "--tokens_per_second", "1000")
    assert "sources: hub:somebody/text (on the hub)" in plan and "rows: of rows" in plan
    assert "7.2 M tokens trained; 2.0 GPU hours; disk 44 KB" in plan  # 3 × 12 and 2 × 4 bytes a parameter
    assert "4.68 k tokens trained" in plan  # 36 queries of 10 and three passages of 40
    assert "2.4 k tokens encoded; not measured; disk 4.8 KB" in plan  # twice 60 passages of 20 tokens
    assert "not measured" in plan.splitlines()[-1]
    plan = retromae.well(
        "pipeline", recipe, "--plan", "--tokens_per_second", "1000", "--encoded_per_second", "5"
    )
    assert "2.1 GPU hours" in plan.splitlines()[-1]
    unknown = retromae.well("pipeline", recipe, "--plan", "--set", "expected=null")
    assert UNKNOWN in unknown.splitlines()[-1]
