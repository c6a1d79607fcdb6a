"""Comparisons from end to end, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from app.command_line import CommandLine
from app.compare import tiny_comparisons
from retromae.app.compare.reading import read_comparison
from retromae.app.compare.results import ArmFindings, collect
from retromae.app.forecasts import large
from retromae.core.locks import claim
from retromae.core.runs import RunFolder
from retromae.core.statistics import bootstrap_interval
from retromae.evaluation.metrics import Result
from training.finetuning import retromae as run_retromae
from training.finetuning import started
from training.runs import identical, kill_at, weights


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROMAE_CACHE", str(tmp_path / "cache"))


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out" / "results.json").read_text()))


def figures(folder: Path) -> dict[str, Any]:
    """All that was found, without what differs from run to run: times."""
    found = results(folder)
    spent = {
        (arm, seed): stages["pretrained"]["steps"]
        for arm, facts in found["arms"].items()
        for seed, stages in facts["spent"].items()
    }
    return {"figures": found["figures"], "spent": spent}


def test_from_a_file_to_a_report(retromae: CommandLine, tmp_path: Path) -> None:
    """Two objectives, two seeds: figures, tests, forms of the report; then nothing is left to do."""
    recipe = tiny_comparisons.write(tmp_path, published={"mlm": {"somebody's MRR@10": 0.317}})
    reports = [tmp_path / name for name in ("r.md", "r.tex", "r.json", "r.png", "r.txt")]
    said = retromae.well("compare", recipe, *(word for path in reports for word in ("--report", path)))
    assert "data nDCG@10" in said and "Written" in said
    _check_figures(tmp_path)
    _check_reports(tmp_path)
    before = figures(tmp_path)
    again = retromae.well("compare", recipe)
    assert again.count("finished before") == 4 and figures(tmp_path) == before
    _check_changes(retromae, tmp_path, recipe)


def _check_figures(folder: Path) -> None:
    """The means are those of every query's mean over the seeds; both arms took the same steps."""
    found = results(folder)
    assert set(found["figures"]) == {"data nDCG@10", "data RR@10", "other nDCG@10"}
    for arm in ("mlm", "basic"):
        each = [
            Result.load(folder / "out" / "arms" / arm / f"seed-{seed}" / "tests" / "data" / "0.json")
            for seed in (1, 2)
        ]
        values = np.mean([list(result.per_query["nDCG@10"].values()) for result in each], axis=0)
        stated = found["figures"]["data nDCG@10"]["means"][arm]
        assert stated["mean"] == pytest.approx(values.mean())
        assert (stated["low"], stated["high"]) == pytest.approx(bootstrap_interval(values))
        by_seed = found["figures"]["data nDCG@10"]["by seed"][arm]
        assert by_seed == {str(s): pytest.approx(r["nDCG@10"]) for s, r in zip((1, 2), each)}
        assert not RunFolder(folder / "out" / "arms" / arm / "seed-1" / "pretrained").checkpoints()
    (pair,) = found["figures"]["data nDCG@10"]["comparisons"]
    assert {pair["system"], pair["baseline"]} == {"mlm", "basic"} and 0 < pair["p"] <= pair["adjusted"] <= 1
    spent = [found["arms"][arm]["spent"]["1"]["pretrained"] for arm in ("mlm", "basic")]
    assert spent[0]["steps"] == spent[1]["steps"] == 6
    assert spent[0]["tokens"] == spent[1]["tokens"] > 0 and spent[1]["flops"] > spent[0]["flops"] > 0
    curve = found["arms"]["basic"]["curves"]["1"]
    assert [point["step"] for point in curve] == [0, 3, 6] and "cls_use" in curve[0]


def _check_reports(folder: Path) -> None:
    page = (folder / "r.md").read_text()
    assert "![" in page and "(r.svg)" in page and (folder / "r.svg").read_text().startswith("<?xml")
    assert "somebody's MRR@10" in page and "0.317" in page
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 5
    for table in tables:  # every row has as many cells as its head
        assert len({line.count("|") for line in table.splitlines()}) == 1
    latex = (folder / "r.tex").read_text()
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") >= 5
    assert latex.count("\\toprule") == latex.count("\\bottomrule")
    assert json.loads((folder / "r.json").read_text())["figures"] == results(folder)["figures"]
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG") and "mlm" in (folder / "r.txt").read_text()


def _check_changes(retromae: CommandLine, folder: Path, recipe: Path) -> None:
    """What is changed is refused, or made again where that is said; what is new is added."""
    refused = retromae("compare", recipe, "--set", "pretrain.learning_rate=5e-4")
    assert refused.code == 2 and "learning_rate was 0.001" in refused.err and "--restart" in refused.err
    tests = yaml.safe_load(recipe.read_text())["tests"]
    tests[1]["metrics"] = ["R@100"]
    added = retromae.well(
        "compare", recipe, "--objectives", "basic,none", "--seeds", "1", "--set", f"tests={tests}"
    )
    assert "basic, seed 1: test other" in added and "basic, seed 1: test data" not in added
    assert "none, seed 1: finetuned" in added and "none, seed 1: pretrained" not in added
    marker = folder / "out" / "arms" / "mlm" / "seed-1" / "pretrained" / "model"
    stamp, kept = (
        marker.stat().st_mtime_ns,
        folder / "out" / "arms" / "none" / "seed-1" / "finetuned" / "model",
    )
    kept_stamp = kept.stat().st_mtime_ns
    change = ("--objectives", "mlm,none", "--seeds", "1", "--set", "pretrain.learning_rate=5e-4")
    again = retromae.well("compare", recipe, *change, "--restart")
    assert "mlm, seed 1: pretrained" in again and "mlm, seed 1: finetuned" in again
    assert marker.stat().st_mtime_ns != stamp and kept.stat().st_mtime_ns == kept_stamp


def test_only_and_part_leave_the_rest(retromae: CommandLine, tmp_path: Path) -> None:
    recipe = tiny_comparisons.write(
        tmp_path, seeds=1, finetune=None, tests=[{"beir": str(tmp_path / "other")}]
    )
    done = retromae("compare", recipe, "--report_only")
    assert done.code == 2 and "holds no comparison to report on" in done.err
    said = retromae.well("compare", recipe, "--part", "1/2")
    assert "basic: 0 of 1 seeds are finished" in said and "basic, seed 1" not in said
    refused = retromae("compare", recipe, "--report_only", "--restart")
    assert refused.code == 2 and "--restart means nothing beside it" in refused.err
    said = retromae.well("compare", recipe, "--report_only", "--report", tmp_path / "so-far.json")
    assert "basic: 0 of 1 seeds are finished" in said and not (tmp_path / "out" / "arms" / "basic").exists()
    assert set(json.loads((tmp_path / "so-far.json").read_text())["figures"]["other nDCG@10"]["means"]) == {
        "mlm"
    }
    with claim(tmp_path / "out" / "arms" / "basic" / "seed-1") as mine:
        assert mine
        said = retromae.well("compare", recipe, "--only", "basic")
        assert "another process is at work" in said
    said = retromae.well("compare", recipe, "--only", "basic")
    assert "basic, seed 1: pretrained" in said and "seeds are finished" not in said
    assert set(results(tmp_path)["figures"]["other nDCG@10"]["means"]) == {"mlm", "basic"}
    # Where rows and start are given, nothing has to be made first, and it goes on all the same.
    ready = {
        "prepare": None,
        "rows": str(tmp_path / "out" / "rows"),
        "start": {
            "model_name_or_path": str(tmp_path / "out" / "arms" / "mlm" / "seed-1" / "pretrained" / "model")
        },
        "tests": [{"beir": str(tmp_path / "other")}],
        "budget": "3e7-flops",
    }
    recipe = tiny_comparisons.write(tmp_path / "ready", seeds=1, finetune=None, **ready)
    plan = retromae.well("compare", recipe, "--plan")
    assert "not known" not in plan  # the text that so many operations are worth is counted on what is there
    retromae.well("compare", recipe, "--only", "basic")
    assert "seeds are finished" not in retromae.well("compare", recipe)
    arms = results(tmp_path / "ready")["arms"].values()
    tokens = sum(arm["spent"]["1"]["pretrained"]["tokens"] for arm in arms)
    assert f"pre-training of 2        {large(tokens)} tokens trained" in plan


def test_arms_that_differ_in_fine_tuning_share_their_pre_training(
    retromae: CommandLine, tmp_path: Path
) -> None:
    basic = {"objective": "retromae", "decoder": "basic"}
    hot = {"name": "hot", **basic, "finetune": {"learning_rate": 3e-3}}
    arms = [{"name": "basic", **basic}, hot, {"name": "other", **basic, "learning_rate": 2e-3}]
    recipe = tiny_comparisons.write(tmp_path, seeds=1, objectives=arms)
    plan = retromae.well("compare", recipe, "--plan")
    assert "pre-training of 2" in plan and "fine-tuning of 3" in plan
    assert "pre-trained as" not in retromae.well("compare", recipe, "--only", "other")
    folders = {name: tmp_path / "out" / "arms" / name / "seed-1" for name in ("basic", "hot", "other")}
    with claim(folders["basic"]) as mine:  # somebody is at work on it, and comes to the other one later
        assert mine
        said = retromae.well("compare", recipe, "--only", "basic", "--only", "hot")
        assert (
            "hot, seed 1: another process is at work on basic, seed 1, whose pre-training it shares" in said
        )
        assert not folders["hot"].exists()
    said = retromae.well("compare", recipe)
    assert "hot, seed 1: pre-trained as basic" in said and said.count("finished before") == 1
    first, copied, other = (weights(folder / "pretrained") for folder in folders.values())
    assert identical(first, copied) and not identical(first, other)
    assert not identical(weights(folders["basic"] / "finetuned"), weights(folders["hot"] / "finetuned"))
    spent = {name: facts["spent"]["1"]["pretrained"] for name, facts in results(tmp_path)["arms"].items()}
    assert spent["hot"] == spent["basic"]
    assert retromae.well("compare", recipe).count("finished before") == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--objectives", "mlm,masked"), "unknown objective 'masked'"),
        (("--budget", "lots"), "20M-tokens"),
        (("--set", "pretrain.pool_sise=5"), "unknown setting 'pool_sise'"),
        (("--report", "report.docx"), "must end in one of"),
        (("--part", "2"), "--part"),
        (("--only", "dupmae"), "there is no arm 'dupmae'"),
        (("--reference", "dupmae"), "not among the arms"),
        (("--plan", "--tokens_per_second", "fast"), "benchmarks/pretrain.py"),
        (("--plan", "--report", "r.md"), "--report means nothing beside --plan"),
        (("--plan", "--restart"), "--restart means nothing beside --plan"),
        (("--plan", "--only", "dupmae"), "there is no arm 'dupmae'"),
        (("--tokens_per_second", "5"), "--tokens_per_second is of --plan"),
        (("--objectives", "mlm", "--set", "reference=basic"), "not among the arms"),
        (("--set", "finetune.pairs=nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    retromae: CommandLine, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    recipe = tiny_comparisons.write(tmp_path)
    done = retromae("compare", recipe, *words)
    assert done.code == 2 and sentence in done.err and done.err.count("Error:") == 1
    assert "Traceback" not in done.err


def test_a_folder_of_something_else_is_refused(retromae: CommandLine, tmp_path: Path) -> None:
    recipe = tiny_comparisons.write(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letters.txt").write_text("mine")
    done = retromae("compare", recipe)
    assert done.code == 2 and "holds no comparison" in done.err


def test_the_plan_counts_and_does_nothing(retromae: CommandLine, tmp_path: Path) -> None:
    recipe = tiny_comparisons.write(tmp_path, budget="36M-tokens")
    plan = retromae.well("compare", recipe, "--plan", "--tokens_per_second", "1,000")
    assert plan.count("to do") == 4 and not (tmp_path / "out").exists()
    assert "pre-training of 4        144 M tokens trained; 40.0 GPU hours" in plan
    assert "4.22 k tokens trained" in plan  # 4 trainings of 4 steps of 6 queries of 12 and 32 tokens
    assert "11.5 k tokens encoded; not measured" in plan  # 4 times 90 passages of 32 tokens
    plan = retromae.well("compare", recipe, "--plan")
    assert "144 M tokens trained; not measured" in plan
    for name in ("pre-training", "in all"):
        assert "not measured" in next(line for line in plan.splitlines() if line.startswith(name))


def test_the_mean_of_zero_shot_sets_is_a_column(tmp_path: Path) -> None:
    folders = [{"beir": str(tmp_path / name), "zero_shot": True} for name in ("data", "other")]
    comparison = read_comparison(tiny_comparisons.values(tmp_path, tests=folders), "here")
    assert collect(comparison).figures == []
    found = collect(comparison)
    assert found.remarks[0] == "mlm: 0 of 2 seeds are finished."


@pytest.mark.slow
def test_killed_anywhere_it_ends_alike(tmp_path: Path, retromae: CommandLine) -> None:
    """Killed when each kind of work has begun; the figures are those of a comparison that was left alone."""
    more: dict[str, Any] = {"budget": "900-tokens", "seeds": 1, "negatives": {"depth": 8}}
    common = {"objective": "mlm", "budget": "500-tokens", "max_seq_length": 32, "save_steps": 1}
    basic = {"name": "basic", "objective": "retromae", "decoder": "basic"}
    more |= {"common": common, "objectives": [basic, "simcse"]}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    retromae.well("compare", tiny_comparisons.write(whole, save_steps=2, **more))
    recipe = tiny_comparisons.write(killed, save_steps=2, **more)
    arms = killed / "out" / "arms"
    traces = [
        killed / "out" / "rows",
        killed / "out" / "common" / "run" / "metrics.jsonl",
        killed / "out" / "negatives",
        arms / "basic" / "seed-1" / "pretrained" / "checkpoint-2",
        arms / "basic" / "seed-1" / "finetuned" / "checkpoint-2",
        arms / "basic" / "seed-1" / "tests" / "data",
        arms / "simcse" / "seed-1" / "pretrained" / "model",
    ]
    cache = tmp_path / "cache"
    for trace in traces:
        kill_at(trace, started("compare", recipe, cache=cache))
    retromae.well("compare", recipe)
    for run in ("common/run", *(f"arms/{arm}/seed-1/pretrained" for arm in ("basic", "simcse"))):
        assert identical(weights(killed / "out" / run), weights(whole / "out" / run)), run
    assert figures(killed) == figures(whole)


@pytest.mark.slow
def test_two_processes_share_the_arms(tmp_path: Path) -> None:
    """Started twice, every arm is done once, and the last to finish has everything in its report."""
    recipe = tiny_comparisons.write(tmp_path)
    cache = tmp_path / "cache"
    both = [started("compare", recipe, cache=cache) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for job in ("mlm, seed 1", "mlm, seed 2", "basic, seed 1", "basic, seed 2"):
        assert sum(out.count(f"{job}: pretrained") for out in said) == 1
    assert all(len(column["means"]) == 2 for column in results(tmp_path)["figures"].values())


@pytest.mark.slow
def test_under_torchrun_every_process_trains_and_one_measures(tmp_path: Path) -> None:
    recipe = tiny_comparisons.write(tmp_path, seeds=1, objectives=["mlm", "none"])
    settings = ("--set", "pretrain.holdout=0", "--set", "pretrain.probe_queries=0")
    done = run_retromae("compare", recipe, *settings, cache=tmp_path / "cache", processes=2, anew=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mlm, seed 1: pretrained") == 1  # one process speaks
    found = results(tmp_path)
    assert set(found["figures"]["data nDCG@10"]["means"]) == {"mlm", "none"}
    assert found["arms"]["mlm"]["spent"]["1"]["pretrained"]["processes"] == 2
    alone = run_retromae("compare", recipe, *settings, cache=tmp_path / "cache")
    assert alone.returncode == 0 and alone.stdout.count("finished before") == 2


def test_the_last_measurement_is_that_of_seeds_that_ended() -> None:
    curves = {1: [(4, {"probe": 0.2}), (9, {"probe": 0.4})], 2: [(4, {"probe": 0.1})]}
    arm = ArmFindings("mlm", "mlm", "", {}, {1: {"pretrained": {"steps": 9}}, 2: {}}, curves)
    assert arm.last("probe") == 0.4 and arm.last("cls_use") is None
