"""A batch in several forward passes is the same batch: its rows, its loss, its gradient, its resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as property_of
from hypothesis import strategies as st
from torch import Tensor

from objectives.test_objectives import CASES, gradients, make, pad_id
from retromae.core.errors import UserError
from retromae.objectives import Batch, Objective
from retromae.objectives.contrast import Contrastive, over_the_step
from retromae.training.chunks import cut
from training import runs

Settings = Callable[..., dict[str, Any]]


def rows_of(lengths: list[int], padding: int = 0) -> Batch:
    """Rows of different tokens, the ids of which say where they stand."""
    width = max(lengths)
    place = torch.arange(width)[None, :]
    sizes = torch.tensor(lengths)[:, None]
    ids = 5 + (torch.arange(len(lengths))[:, None] * 7 + place) % 90
    ids = torch.where(place == 0, 2, torch.where(place == sizes - 1, 3, ids))
    return Batch(
        torch.where(place < sizes, ids, padding),
        (place < sizes).long(),
        torch.arange(len(lengths)) + 20,
        torch.arange(len(lengths)) % 3,
        0.3,
    )


@property_of(
    st.lists(st.integers(2, 40), min_size=1, max_size=20), st.integers(0, 200), st.sampled_from([1, 8])
)
def test_every_row_is_in_one_part_with_all_its_tokens(lengths: list[int], tokens: int, multiple: int) -> None:
    batch = rows_of(lengths)
    width = batch.token_ids.shape[1]
    parts = cut(batch, tokens, multiple)
    seen = torch.cat([part.row_ids for part in parts]).tolist()
    assert sorted(seen) == batch.row_ids.tolist()
    for part in parts:
        number, length = part.token_ids.shape
        assert tokens == 0 or number == 1 or number * length <= tokens
        assert length == width or length % multiple == 0
        assert part.progress == batch.progress
        for row, ids, mask, epoch in zip(part.row_ids, part.token_ids, part.attention_mask, part.epochs):
            origin = int(row) - 20
            assert int(mask.sum()) == lengths[origin] and int(epoch) == origin % 3
            assert torch.equal(ids, batch.token_ids[origin, :length])
    if tokens == 0 or len(lengths) * width <= tokens:
        assert parts == [batch]


def step(objective: Objective, batches: list[list[Batch]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An optimiser step as the trainer takes it: parts of the loss, and gradients."""
    samples = [(part, objective.draw(part)) for batch in batches for part in batch]
    turns = [turn for turn, batch in enumerate(batches) for _ in batch]
    totals = {
        name: torch.stack([drawn.counts[name] for _, drawn in samples]).sum() for name in samples[0][1].counts
    }
    if isinstance(objective, Contrastive):
        objective.begin_step()
        if len(samples) > 1:
            over_the_step(objective, samples, turns=turns)
    outputs = [objective(part, drawn, totals) for part, drawn in samples]
    losses = {name: torch.stack([output[name] for output in outputs]).sum() for name in outputs[0]}
    return {name: loss.detach() for name, loss in losses.items()}, gradients(losses["loss"], objective)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_cut_or_not_a_step_is_the_same(
    name: str, settings: dict[str, Any], tiny_folder: Callable[[str], Path]
) -> None:
    results = []
    for tokens in (0, 60, 1):
        objective = make(tiny_folder("bert"), name, **settings).double().train()
        batches = [rows_of([25, 3, 14, 9, 30], pad_id(objective)), rows_of([12, 7], pad_id(objective))]
        results.append(step(objective, [cut(batch, tokens) for batch in batches]))
    (losses, expected), *others = results
    for parts, mine in others:
        torch.testing.assert_close(parts, losses, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-8)


@pytest.fixture
def given(rows: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> Settings:
    return lambda **changed: (
        runs.settings(rows, tiny_folder("bert"), tmp_path / "run")
        | {"keep_best": False, "holdout": 0.0, "chunk_tokens": 150}
        | changed
    )


@pytest.mark.parametrize("objective", ["retromae", "laprador"])
def test_a_run_in_parts_does_what_a_whole_one_does(objective: str, given: Settings, tmp_path: Path) -> None:
    common = {"objective": objective, "dropout": 0.0, "gradient_accumulation_steps": 2, "max_steps": 6}
    runs.train(given(**common))
    runs.train(given(**common, chunk_tokens=0, output_dir=str(tmp_path / "whole")))
    parts, whole = runs.metrics(tmp_path / "run"), runs.metrics(tmp_path / "whole")
    assert len(parts) == len(whole) == 3
    for mine, theirs in zip(parts, whole):
        assert mine["tokens"] == theirs["tokens"]
        for name in {"loss", "encoder", "decoder", "contrast", "grad_norm"} & theirs.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=2e-4), name


def test_resumed_equals_undisturbed_and_keeps_its_parts(given: Settings, tmp_path: Path) -> None:
    values = given(dropout=0.2, save_total_limit=9)
    runs.train(values)
    run = tmp_path / "run"
    weights = runs.weights(run)
    runs.go_back(run, 6)
    with pytest.raises(UserError, match="chunk_tokens was 150, is 50"):
        runs.train(values | {"chunk_tokens": 50}, resume=True)
    runs.train(values, resume=True)
    assert runs.identical(runs.weights(run), weights)
    assert "chunk_tokens: 150" in (run / "config.yaml").read_text()


def test_without_dropout_a_run_may_go_on_in_other_parts(given: Settings, tmp_path: Path) -> None:
    values = given(dropout=0.0, save_total_limit=9)
    runs.train(values)
    weights = runs.weights(tmp_path / "run")
    runs.go_back(tmp_path / "run", 6)
    runs.train(values | {"chunk_tokens": 0}, resume=True)
    for name, tensor in runs.weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-2, atol=5e-4)


def test_dropout_falls_differently_in_every_part(given: Settings, tmp_path: Path) -> None:
    for name, tokens in (("a", 150), ("b", 50)):
        runs.train(given(dropout=0.2, max_steps=2, chunk_tokens=tokens, output_dir=str(tmp_path / name)))
    a, b = ([r["loss"] for r in runs.metrics(tmp_path / name)] for name in ("a", "b"))
    assert a != pytest.approx(b, rel=1e-4)
    with pytest.raises(UserError, match="chunk_tokens is -1"):
        runs.train(given(chunk_tokens=-1, output_dir=str(tmp_path / "c")))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["retromae", "simcse"])
def test_two_processes_with_different_numbers_of_parts(
    objective: str, given: Settings, tmp_path: Path
) -> None:
    """They exchange gradients once per batch, and what one process does that accumulates is what they do."""
    settings = {"objective": objective, "dropout": 0.0, "max_steps": 8}
    runs.train(given(**settings, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one")))
    done = runs.run(given(**settings, output_dir=str(tmp_path / "two")), processes=2)
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    runs.check_same_way(one, two, ("loss", "grad_norm", "tokens"), rel=5e-4)
    runs.check_close(runs.weights(one), runs.weights(two), atol=5e-4)
