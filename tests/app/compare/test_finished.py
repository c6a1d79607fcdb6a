"""A report holds what was made as the comparison says now, and nothing else that lies in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.command_line import CommandLine
from app.compare import tiny_comparisons
from retromae.app.ledger import Ledger
from training.finetuning import retromae as run_retromae

SHORT = {"seeds": 1, "budget": "2-steps", "objectives": ["mlm", {"name": "basic", "objective": "retromae"}]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a comparison that is finished."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = tiny_comparisons.write(folder, **SHORT)
    done = run_retromae("compare", recipe, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return recipe


@pytest.fixture
def made(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, copied; a recipe beside it that says so."""
    monkeypatch.setenv("RETROMAE_CACHE", str(whole.parent / "cache"))
    shutil.copytree(whole.parent / "out", tmp_path / "out")
    recipe = tmp_path / "comparison.yaml"
    values = {**yaml.safe_load(whole.read_text()), "output_dir": str(tmp_path / "out")}
    recipe.write_text(yaml.safe_dump(values))
    return recipe


def report(retromae: CommandLine, recipe: Path, *words: object) -> dict[str, Any]:
    out = recipe.parent / "report.json"
    retromae.well("compare", recipe, "--report_only", "--report", out, *words)
    return dict(json.loads(out.read_text()))


def measured(found: dict[str, Any]) -> set[str]:
    return {arm for column in found["figures"].values() for arm in column["means"]}


def test_other_settings_are_no_part_of_a_report(retromae: CommandLine, made: Path) -> None:
    whole = report(retromae, made)
    assert measured(whole) == {"mlm", "basic"} and not any("left out" in line for line in whole["remarks"])
    changed = ("--set", "pretrain.learning_rate=5e-4")
    for words in (("--budget", "3-steps"), changed, ("--set", "finetune.max_steps=3")):
        found = report(retromae, made, *words)
        assert measured(found) == set() and found["arms"]["mlm"]["spent"]["1"].keys() <= {"pretrained"}
        assert sum("left out" in line and "was" in line for line in found["remarks"]) == 2
        assert retromae.well("compare", made, "--plan", *words).count("made otherwise") == 2
    # One arm anew, beside one that is as it was.
    retromae.well("compare", made, *changed, "--only", "basic", "--restart")
    found = report(retromae, made, *changed)
    assert measured(found) == {"basic"}
    assert any(line.startswith("mlm, seed 1: left out") and "0.001" in line for line in found["remarks"])
    assert measured(report(retromae, made)) == {"mlm"}


def test_another_ground_is_refused(retromae: CommandLine, made: Path) -> None:
    """Rows, start and pairs that the figures do not stand on cannot be said to be theirs."""
    for change in ("start.hidden_size=8", "prepare.max_tokens=20"):
        for words in (("--report_only",), ("--plan",)):
            done = retromae("compare", made, *words, "--set", change)
            assert done.code == 2 and "was made with other settings" in done.err, change
    values = yaml.safe_load(made.read_text())
    other = values["tests"][1]["beir"]
    found = report(retromae, made, "--set", f"finetune.pairs={other}")
    assert measured(found) == set() and any("pairs was" in line for line in found["remarks"])
    swapped = [{**values["tests"][0], "name": "other"}, {**values["tests"][1], "name": "data"}]
    found = report(retromae, made, "--set", f"tests={swapped}")
    assert measured(found) == set() and any("set was" in line for line in found["remarks"])


def test_an_arm_that_is_not_there_yet_does_no_harm(retromae: CommandLine, made: Path) -> None:
    """Its own model may still be in the making."""
    half = made.parent / "half"
    (half / "model").mkdir(parents=True)
    values = yaml.safe_load(made.read_text())
    values["objectives"].append({"name": "later", "objective": "none", "model_name_or_path": str(half)})
    made.write_text(yaml.safe_dump(values))
    said = retromae.well("compare", made, "--only", "mlm")
    assert "mlm, seed 1: finished before" in said and "later: 0 of 1 seeds are finished." in said


def test_what_stands_on_something_new_does_not_count(retromae: CommandLine, made: Path) -> None:
    """A training that was begun anew and broken off: its old tests are not those of the new model."""
    ledger = Ledger(made.parent / "out" / "arms" / "basic" / "seed-1" / "arm.json")
    entry = ledger.read()["pretrained"]
    ledger.begin("pretrained", entry["inputs"])
    found = report(retromae, made)
    assert measured(found) == {"mlm"} and "basic: 0 of 1 seeds are finished." in found["remarks"]
    ledger.finish("pretrained", entry["inputs"], entry["result"])
    assert measured(report(retromae, made)) == {"mlm", "basic"}
    ledger.finish("finetuned", {**ledger.read()["finetuned"]["inputs"], "from": "another"}, {})
    found = report(retromae, made)
    assert measured(found) == {"mlm"} and any("from was 'another'" in line for line in found["remarks"])


def test_a_carried_folder_is_held_to_its_first_arm(retromae: CommandLine, made: Path) -> None:
    """Without rows and data there is nothing to compare with but the arms themselves."""
    folder = made.parent / "out"
    shutil.rmtree(folder / "rows")
    assert measured(report(retromae, made)) == {"mlm", "basic"}
    ledger = Ledger(folder / "arms" / "basic" / "seed-1" / "arm.json")
    entry = ledger.read()["pretrained"]
    for name in ("rows", "start"):
        ledger.finish("pretrained", {**entry["inputs"], name: "another"}, entry["result"])
        found = report(retromae, made)
        assert measured(found) == {"mlm"} and any(
            f"{name} was 'another'" in line for line in found["remarks"]
        )


def test_leaks_are_told_whichever_arms_are_reported(retromae: CommandLine, made: Path) -> None:
    """They are looked up for the first arm that is pre-trained."""
    told = [line for line in report(retromae, made)["remarks"] if "Looked up for one arm" in line]
    alone = report(retromae, made, "--objectives", "basic")["remarks"]
    assert told and [line for line in alone if "Looked up for one arm" in line] == told
    untrained = ("--objectives", "none", "--set", f"output_dir={made.parent / 'untrained'}")
    said = retromae.well("compare", made, *untrained)
    assert "Looked up for one arm" in said


def test_the_report_says_what_all_arms_stand_on(retromae: CommandLine, made: Path) -> None:
    shared = ("--set", "pretrain.hide_schedule=0.2")
    retromae.well("compare", made, *shared, "--restart", "--set", "common={objective: mlm, budget: 2-steps}")
    found = json.loads((made.parent / "out" / "results.json").read_text())
    assert found["arms"]["basic"]["other than its defaults"] == "hide_schedule 0.2"
    assert found["arms"]["mlm"]["other than its defaults"] == ""
    settings = found["settings"]
    assert settings["common"]["budget"] == "2-steps" and settings["common"]["objective"] == "mlm"
    assert settings["prepare"]["train_tokenizer"] == 200 and settings["negatives"] is None
    assert [test["zero_shot"] for test in settings["tests"]] == [False, True]
