"""Several verbs from one file: what is finished is skipped, what was killed goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from retromae.app.pipeline import Pipeline, resolve
from retromae.app.verbs import command_of
from retromae.core.errors import UserError
from training.finetuning import retromae, started, write_collection
from training.runs import identical

Tiny = Callable[[str], Path]
RECIPE = Path(__file__).parents[2] / "recipes" / "supervised.yaml"


def small(folder: Path, model: Path, data: Path) -> Path:
    """The recipe that comes with the package, with everything small: the stages are its own."""
    values = yaml.safe_load(RECIPE.read_text())
    values |= {"output_dir": str(folder), "model": str(model), "pairs": str(data), "learning_rate": 1e-3}
    values |= {
        "batch_size": 6,
        "group_size": 3,
        "epochs": 1,
        "epochs_after": 1,
        "refresh_every": 3,
        "depth": 8,
    }
    values |= {
        "margin": None,
        "query_max_len": 12,
        "passage_max_len": 40,
        "eval_queries": 6,
        "eval_passages": 30,
    }
    for stage in values["stages"]:
        if stage["verb"] in ("finetune", "distill"):
            stage |= {"save_steps": 2, "refresh_until": 0.0}
        if stage["verb"] == "teach":
            stage |= {"save_steps": 2, "max_seq_length": 60, "eval_queries": 4}
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def weights(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*/model/**/*.safetensors"))
    return {
        f"{file.relative_to(folder)} {name}": value
        for file in files
        for name, value in load_file(file).items()
    }


@pytest.mark.slow
def test_the_supervised_recipe_survives_kills_at_every_stage(
    tiny_folder: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as soon as each stage has begun to leave something; it ends as one that was not killed."""
    model, cache = _with_pooling(tiny_folder("bert"), tmp_path / "start"), tmp_path / "cache"
    data = write_collection(tmp_path / "data")
    whole = small(tmp_path / "whole", model, data)
    monkeypatch.setenv("RETROMAE_CACHE", str(cache))
    assert not command_of("pipeline").main([str(whole)], standalone_mode=False)
    killed = small(tmp_path / "killed", model, data)
    names = [stage["name"] for stage in yaml.safe_load(killed.read_text())["stages"]]
    for name in names:
        process = started("pipeline", killed, cache=cache)
        begun = tmp_path / "killed" / name
        while not _traces(begun) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
    done = retromae("pipeline", killed, cache=cache)
    assert done.returncode == 0, done.stderr
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    states = [json.loads((tmp_path / run / "pipeline.json").read_text()) for run in ("whole", "killed")]
    assert list(states[0]) == list(states[1]) == names
    again = retromae("pipeline", killed, cache=cache)
    assert again.returncode == 0 and again.stdout.count("finished before") == len(names)
    table = (tmp_path / "whole" / "measured" / "table.md").read_text()
    assert all(system in table for system in ("untrained", "dpr", "hard", "refreshed", "distilled", "bm25"))
    for name in ("dpr", "hard", "refreshed", "distilled"):
        assert (
            SentenceTransformer(str(tmp_path / "whole" / name / "model"), device="cpu")
            .encode(["a stone"])
            .any()
        )
    assert (
        CrossEncoder(str(tmp_path / "whole" / "teacher" / "model"), device="cpu").predict([("a", "b")]).size
        == 1
    )


def _traces(folder: Path) -> bool:
    """Has a stage begun: its folder, or the hidden one that mining works in?"""
    return folder.exists() or folder.with_name(f".{folder.name}.work").exists()


def _with_pooling(plain: Path, folder: Path) -> Path:
    """The tiny encoder as a model that states its pooling, as every checkpoint of ours does."""
    from retromae.retrieval.opening import open_model

    open_model(plain, pooling="cls", lexical_terms=None, device="cpu").save_pretrained(str(folder))
    return folder


def test_references_stand_for_values_of_any_kind() -> None:
    values = {"a": None, "b": 3, "c": [1, 2]}
    assert resolve("${a}", values.__getitem__) is None
    assert resolve(["${b}", "x-${b}", "${c}"], values.__getitem__) == [3, "x-3", [1, 2]]


def stages(*entries: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {"output_dir": "out", "stages": list(entries), **top}


DPR = {"name": "dpr", "verb": "finetune", "model": "m", "pairs": "p"}


def test_a_change_reaches_the_stages_that_build_on_it(tmp_path: Path) -> None:
    def inputs(**change: Any) -> list[dict[str, Any]]:
        mine = {"name": "wrong", "verb": "mine", "model": "${dpr}", "pairs": "p"}
        alone = {"name": "alone", "verb": "mine", "model": "bm25", "pairs": "p"}
        found = Pipeline(stages({**DPR, **change}, mine, alone), "here").stages
        return [stage.inputs for stage in found]

    before, after = inputs(), inputs(seed=7)
    assert before == inputs()
    assert [a == b for a, b in zip(before, after)] == [False, False, True]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stages": [DPR]}, "say output_dir"),
        ({"output_dir": "x"}, "must be a list"),
        (stages({**DPR, "verb": "finetun"}), "finetune"),
        (stages(DPR, DPR), "of its own"),
        (stages({**DPR, "model": "${later}"}), "later"),
        (stages(DPR, top="${nothing}"), "nothing"),
        (stages({"name": "p", "verb": "pipeline"}), "pipeline"),
    ],
)
def test_a_wrong_file_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Pipeline(values, "here")


def test_the_command_line_refuses_and_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = write_collection(tmp_path / "data"), tmp_path / "cache"
    path = tmp_path / "two.yaml"
    mine = {"name": "wrong", "verb": "mine", "model": "bm25", "pairs": str(data), "depth": 5}
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": [mine]}))
    plan = retromae("pipeline", path, "--plan", cache=cache)
    assert plan.returncode == 0 and "to do" in plan.stdout and not (tmp_path / "out").exists()
    sizes = {"output_dir": str(tmp_path / "out"), "stages": [mine], "expected": {"elsewhere": {"passage": 5}}}
    path.write_text(yaml.safe_dump(sizes))
    with pytest.raises(UserError, match="did you mean 'passages'"):
        command_of("pipeline").main([str(path), "--plan"], standalone_mode=False)
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": [mine]}))
    pipeline = lambda *more: command_of("pipeline").main([str(path), *more], standalone_mode=False)  # noqa: E731
    monkeypatch.setenv("RETROMAE_CACHE", str(cache))
    assert not pipeline()
    assert (tmp_path / "out" / "wrong" / "sample.md").is_file()
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": [{**mine, "depth": 6}]}))
    with pytest.raises(UserError, match=r"depth was 5, is 6.*--restart wrong"):
        pipeline()
    assert not pipeline("--restart", "wrong")
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "o2"), "stages": [{**mine, "dept": 6}]}))
    with pytest.raises(UserError, match="did you mean 'depth'"):
        pipeline()
