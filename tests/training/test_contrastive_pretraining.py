"""Contrastive objectives in real runs: cut into micro-batches, dealt out to processes, killed and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retromae.core.draws import Stream, key
from retromae.core.errors import UserError
from retromae.training.trainer import WEIGHTS_NAME
from training import runs

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def given(rows: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> Settings:
    return lambda **changed: (
        runs.settings(rows, tiny_folder("bert"), tmp_path / "run") | {"keep_best": False} | changed
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "simcse", "gradient_accumulation_steps": 2, "bf16": True},
        {"objective": "diffcse"},
    ],
    ids=str,
)
def test_it_learns_to_tell_rows_apart(settings: dict[str, Any], given: Settings, tmp_path: Path) -> None:
    """From random weights, hence without dropout: it moves their vectors more than a row does."""
    runs.train(given(**settings, dropout=0.0, max_steps=24, eval_steps=24, learning_rate=3e-3))
    measured = [r for r in runs.metrics(tmp_path / "run") if "eval_contrast_loss" in r]
    assert [record["step"] for record in measured] == [0, 24]
    for name in ("eval_contrast_loss", "eval_row_cosine"):
        assert measured[1][name] < measured[0][name]
    assert all("eval_probe_ndcg@10" in record for record in measured)


@pytest.mark.parametrize(("accumulation", "chunk_tokens"), [(3, 0), (2, 100)])
def test_both_passes_of_a_step_draw_the_same_dropout(
    accumulation: int, chunk_tokens: int, given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    real = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: (seeds.append(int(seed)), real(seed))[1])
    values = given(objective="simcse", gradient_accumulation_steps=accumulation, max_steps=4, holdout=0.0)
    runs.train(values | {"chunk_tokens": chunk_tokens})
    parts = range(9 if chunk_tokens else 1)
    names = {
        key(42, int(Stream.DROPOUT), step, micro + part * accumulation, 0): (step, micro, part)
        for step in range(4)
        for micro in range(accumulation)
        for part in parts
    }
    seen = [names[seed] for seed in seeds if seed in names]
    wanted = [name for step in range(4) for name in sorted({name for name in seen if name[0] == step}) * 2]
    assert seen == wanted
    assert {name[:2] for name in seen} == {
        (step, micro) for step in range(4) for micro in range(accumulation)
    }
    assert (max(part for _, _, part in seen) > 0) == bool(chunk_tokens)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_resumed_run_has_the_same_towers_and_the_same_pool(
    lost: int, given: Settings, tmp_path: Path
) -> None:
    """Stopped before, at and after a change of turns."""
    values = given(
        objective="laprador",
        turn_steps=6,
        pool_size=50,
        dropout=0.2,
        gradient_accumulation_steps=2,
        save_total_limit=9,
    )
    runs.train(values)
    run = tmp_path / "run"
    last = run / "checkpoint-12" / WEIGHTS_NAME
    weights, state = runs.weights(run), load_file(last)
    assert {"pool.vectors", "pool.pushed", "steps"} <= state.keys() and int(state["steps"]) == 12
    for number in range(lost):
        shutil.rmtree(run / f"checkpoint-{12 - 3 * number}")
    shutil.rmtree(run / "model")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["finished"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert runs.train(values, resume=True).finished
    assert runs.identical(runs.weights(run), weights)
    assert runs.identical(load_file(last), state)


def test_the_tower_that_rests_does_not_move(given: Settings, tmp_path: Path) -> None:
    """Nor by the momentum of its own turn, nor by weight decay."""
    runs.train(given(objective="laprador", turn_steps=3, max_steps=9, weight_decay=0.1, save_total_limit=9))
    states = [load_file(tmp_path / "run" / f"checkpoint-{step}" / WEIGHTS_NAME) for step in (3, 6, 9)]
    for before, after, resting, moving in (
        (states[0], states[1], "backbone.", "query."),
        (states[1], states[2], "query.", "backbone."),
    ):
        same = {name: torch.equal(before[name], after[name]) for name in before}
        assert all(equal for name, equal in same.items() if name.startswith(resting))
        assert not all(equal for name, equal in same.items() if name.startswith(moving))


@pytest.mark.slow
def test_compiled_or_not_both_passes_draw_the_same_dropout(given: Settings, tmp_path: Path) -> None:
    """Only the second pass is compiled."""
    common = {"objective": "simcse", "dropout": 0.2, "gradient_accumulation_steps": 2, "max_steps": 2}
    for name, on in (("plain", False), ("compiled", True)):
        values = given(**common, holdout=0.0, torch_compile=on, output_dir=str(tmp_path / name))
        done = runs.run(values)
        assert done.returncode == 0, done.stderr
    plain, compiled = ([r["loss"] for r in runs.metrics(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_checkpointing_changes_memory_not_results(given: Settings, tmp_path: Path) -> None:
    for name, on in (("a", False), ("b", True)):
        runs.train(
            given(
                objective="simcse",
                dropout=0.2,
                gradient_accumulation_steps=2,
                max_steps=4,
                holdout=0.0,
                gradient_checkpointing=on,
                output_dir=str(tmp_path / name),
            )
        )
    a, b = runs.weights(tmp_path / "a"), runs.weights(tmp_path / "b")
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "simcse"},
        {"objective": "diffcse"},
        {"objective": "cocondenser"},
        {"objective": "laprador", "turn_steps": 3},
    ],
    ids=lambda settings: settings["objective"],
)
def test_two_processes_compare_what_one_does_that_accumulates(
    settings: dict[str, Any], given: Settings, tmp_path: Path
) -> None:
    settings = {**settings, "dropout": 0.0, "max_steps": 8}
    runs.train(given(**settings, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one")))
    done = runs.run(given(**settings, output_dir=str(tmp_path / "two")), processes=2)
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    runs.check_same_way(
        one,
        two,
        ("loss", "contrast", "grad_norm", "eval_contrast_loss", "eval_row_cosine", "tokens"),
        rel=5e-4,
        abs=5e-4,
    )
    runs.check_close(runs.weights(one), runs.weights(two), atol=5e-4)


@pytest.mark.parametrize("objective", ["simcse", "diffcse", "laprador"])
def test_two_views_that_nothing_tells_apart_are_refused(
    objective: str, given: Settings, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_folder("bert"), tmp_path / "still")
    config = json.loads((model / "config.json").read_text())
    still = {
        name: 0.0 if "dropout" in name and value is not None else value for name, value in config.items()
    }
    (model / "config.json").write_text(json.dumps(still))
    with pytest.raises(UserError, match="dropout"):
        runs.train(given(objective=objective, model_name_or_path=str(model)))
    runs.train(given(objective=objective, model_name_or_path=str(model), dropout=0.1, max_steps=1))
