"""Fine-tuning through the command line: what it leaves, that it survives, that processes do not matter."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from retromae.app.verbs import command_of
from retromae.core.config import from_dict
from retromae.core.errors import UserError
from retromae.retrieval.encoder import Encoder
from retromae.training.finetune import finetune as run_finetune
from retromae.training.finetune_settings import FinetuneConfig
from training.finetuning import flags, retromae, settings, started, write_collection
from training.runs import identical, kill_at, metrics

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("finetune") / "data")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def finetune(values: dict[str, Any], *more: str, **how: Any) -> Any:
    return retromae("finetune", *flags(values), *more, **how)


def in_this_process(verb: str, *arguments: str) -> None:
    """The command line without the seconds that a new process takes."""
    command_of(verb).main(list(arguments), standalone_mode=False)


def trained(run: Path) -> dict[str, torch.Tensor]:
    files = sorted((run / "model").rglob("*.safetensors"))
    return {f"{file.name} {name}": value for file in files for name, value in load_file(file).items()}


def encoder(folder: Path) -> torch.Tensor:
    """All weights of the encoder, flat."""
    model = AutoModel.from_pretrained(str(folder))
    return torch.cat([value.flatten() for name, value in model.named_parameters() if "pooler" not in name])


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def test_a_run_leaves_a_model_that_every_tool_loads(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path
) -> None:
    values = settings(tiny_folder("bert"), data, tmp_path / "run", pooling="cls")
    done = finetune(values, cache=cache)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    model = SentenceTransformer(str(run / "model"), device="cpu")
    encoder = Encoder.open(run, device="cpu")
    assert encoder.pooling == "cls" and str(model.similarity_fn_name) == "dot"
    assert (encoder.max_query_length, encoder.max_passage_length) == (12, 40)
    theirs = model.encode_query(["what river 3"], show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode_queries(["what river 3"]).dense, theirs, atol=1e-5)
    facts = manifest(run)
    assert facts["effective_negatives"] == 5 and "5 negatives" in done.stdout
    assert facts["queries_per_step"] == 6 and facts["finished"] and facts["steps"] == 8
    steps = [record["step"] for record in metrics(run) if "eval_nDCG@10" in record]
    assert steps == [0, 4, 8]
    values = {r["step"]: r["eval_nDCG@10"] for r in metrics(run) if "eval_nDCG@10" in r}
    assert facts["best"]["nDCG@10"] == max(values.values())
    with pytest.raises(UserError, match="already holds a run"):
        in_this_process(
            "finetune", *flags(settings(tiny_folder("bert"), data, run, pooling="cls", cache=cache))
        )


@pytest.mark.parametrize(
    ("figures", "step"), [([0.9, 0.5, 0.2], 0), ([0.1, 0.7, 0.7], 4), ([0.1, 0.2, 0.3], 8)]
)
def test_the_best_checkpoint_is_what_is_kept(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path, figures: list[float], step: int
) -> None:
    """Told which measurement was the best, model/ holds the weights of that moment: the first of equals."""
    seen: list[torch.Tensor] = []

    def judge(model: SentenceTransformer) -> dict[str, float]:
        seen.append(model.encode_query(["stone"], convert_to_tensor=True, show_progress_bar=False))
        return {"nDCG@10": figures[len(seen) - 1]}

    values = settings(tiny_folder("bert"), data, tmp_path / "run", pooling="cls", cache=cache)
    config = from_dict(FinetuneConfig, values)
    outcome = run_finetune(config, judge=judge)
    assert outcome.finished and manifest(tmp_path / "run")["best"] == {"step": step, "nDCG@10": max(figures)}
    kept = Encoder.open(tmp_path / "run", device="cpu").encode_queries(["stone"]).dense
    np.testing.assert_allclose(kept, seen[[0, 4, 8].index(step)].numpy(), atol=1e-5)
    others = [vector for place, vector in enumerate(seen) if place != [0, 4, 8].index(step)]
    assert all(np.abs(kept - other.numpy()).max() > 1e-4 for other in others)


VARIANTS: dict[str, dict[str, Any]] = {
    "refreshed": {"refresh_every": 3, "refresh_depth": 8, "train_group_size": 3, "refresh_until": 0.0},
    "cached": {"grad_cache": True, "chunk_tokens": 64, "train_group_size": 2},
    "two halves": {"lexical_terms": 6, "train_group_size": 2, "pooling": None},
    "unified": {"reconstruction": "retromae", "grad_cache": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_killed_run_ends_with_the_same_weights(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    """SIGKILL at a random place, dropout on; once more in the middle of a refresh."""
    variant = {"pooling": "cls", **VARIANTS[name]}
    values = {k: v for k, v in variant.items() if v is not None} | {"logging_steps": 3}  # where it saves
    whole = settings(tiny_folder("bert"), data, tmp_path / "whole", **values)
    in_this_process("finetune", *flags({**whole, "cache": cache}))
    killed = settings(tiny_folder("bert"), data, tmp_path / "killed", **values)
    folder = tmp_path / "killed"
    marks = [folder / "checkpoint-3"]
    if name == "refreshed":
        marks.append(folder / "negatives" / ".work-6")
    for mark in marks:
        again = ["--resume"] if folder.exists() else []
        kill_at(mark, started("finetune", *flags(killed), *again, cache=cache))
    done = finetune(killed, "--resume", cache=cache)
    assert done.returncode == 0, done.stderr
    assert identical(trained(tmp_path / "whole"), trained(folder))
    losses = [
        [(r["step"], r["loss"]) for r in metrics(tmp_path / run) if "loss" in r]
        for run in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint(tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path) -> None:
    values = settings(
        tiny_folder("bert"), data, tmp_path / "run", pooling="cls", max_steps=4000, logging_steps=1
    )
    values |= {"eval_queries": 0}
    process = started("finetune", *flags(values), cache=cache)
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 2) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "--resume" in errors
    assert list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "refreshed", "cached", "unified"])
def test_two_processes_equal_one(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    """The same queries in a step, dropout off: the same losses, gradients and weights."""
    more = {"pooling": "cls", "dropout": 0.0, "logging_steps": 1, **VARIANTS.get(name, {})}
    one = settings(tiny_folder("bert"), data, tmp_path / "one", **more)
    two = settings(tiny_folder("bert"), data, tmp_path / "two", **more)
    in_this_process("finetune", *flags({**one, "cache": cache}))
    done = finetune({**two, "per_device_train_batch_size": 3}, cache=cache, processes=2, anew=name == "plain")
    assert done.returncode == 0, done.stderr
    assert (
        manifest(tmp_path / "two")["effective_negatives"] == manifest(tmp_path / "one")["effective_negatives"]
    )
    records = [[r for r in metrics(tmp_path / run) if "loss" in r] for run in ("one", "two")]
    if name == "refreshed":  # what is mined with weights that differ by rounding may differ
        records = [found[:3] for found in records]
    for step, (first, second) in enumerate(zip(*records, strict=True)):
        near = 1e-4 if step == 0 else 1e-2  # Adam's first steps make rounding visible
        assert first["loss"] == pytest.approx(second["loss"], rel=near)
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=near)
    if name == "refreshed":
        return
    begun, first, second = map(encoder, (tiny_folder("bert"), tmp_path / "one/model", tmp_path / "two/model"))
    assert (first - second).norm() < 0.05 * (
        first - begun
    ).norm()  # Adam follows the sign of mere rounding, too


def test_early_stopping(tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path) -> None:
    values = settings(tiny_folder("bert"), data, tmp_path / "run", pooling="cls", learning_rate=1e-9)
    values |= {"max_steps": 60, "eval_steps": 2, "early_stopping_patience": 2, "cache": cache}
    in_this_process("finetune", *flags(values))
    assert manifest(tmp_path / "run")["steps"] == 4


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"train_group_size": 1, "refresh_every": 2}, "leaves no room for the negatives"),
        ({"dense_dimension": 8}, "give lexical_terms too"),
        ({"lexical_terms": 4, "similarity": "cosine"}, "leave similarity out"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"query_max_len": 2000}, "takes 3 to"),
        ({"matryoshka_dims": [4000]}, "not between 1 and"),
        ({"per_device_train_batch_size": 50}, "cannot be filled from 36"),
        ({"split": "other"}, "other"),
        ({"negatives": "nowhere"}, "nowhere"),
        ({"teacher": "pairs"}, "distillation needs negatives"),
        ({"eval_metric": "beauty"}, "beauty"),
    ],
)
def test_bad_settings_cost_nothing(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path, wrong: dict[str, Any], sentence: str
) -> None:
    values = settings(
        tiny_folder("bert"), data, tmp_path / "run", **{"pooling": "cls", "cache": cache, **wrong}
    )
    if "lexical_terms" in wrong:
        values.pop("pooling")
    with pytest.raises(UserError, match=sentence):
        in_this_process("finetune", *flags(values))
    assert not (tmp_path / "run").exists()


def test_minutes_end_a_run_with_the_rate_at_zero(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path
) -> None:
    values = settings(tiny_folder("bert"), data, tmp_path / "run", pooling="cls", cache=cache, eval_queries=0)
    values.pop("max_steps")
    more = {"num_train_epochs": 100_000, "minutes": 0.06, "logging_steps": 1}
    in_this_process("finetune", *flags(values | more))
    rates = [record["learning_rate"] for record in metrics(tmp_path / "run") if "learning_rate" in record]
    assert manifest(tmp_path / "run")["finished"] and len(rates) > 2
    assert max(rates) > 0.5 * values["learning_rate"] and rates[-1] < 0.4 * max(rates)


def test_scores_that_came_with_the_data_are_distilled(tiny_folder: Tiny, cache: Path, tmp_path: Path) -> None:
    lines = [
        {
            "query": f"what {number}",
            "pos": [f"the stone {number}"],
            "neg": [f"a river {number}", f"a bridge {number}"],
            "pos_scores": [3.0],
            "neg_scores": [1.0, -0.5 * number],
        }
        for number in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    values = settings(
        tiny_folder("bert"), tmp_path / "pairs.jsonl", tmp_path / "run", pooling="cls", cache=cache
    )
    values |= {
        "teacher": "pairs",
        "train_group_size": 3,
        "distillation": "margin_mse",
        "contrastive_weight": 0.5,
    }
    with pytest.warns(UserWarning, match="held out"):
        in_this_process("distill", *flags(values))
    run = tmp_path / "run"
    parts = [record for record in metrics(run) if "loss" in record]
    assert parts and all(
        record["loss"] == pytest.approx(record["distillation"] + record["contrastive"], rel=1e-3)
        for record in parts
    )
    assert manifest(run)["pairs"]["queries"] == 40
    assert json.loads((run / "model" / "finetuning.json").read_text())["provenance"]["split"] == "train"


def test_distilling_needs_a_teacher_who_has_scored(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path
) -> None:
    values = settings(tiny_folder("bert"), data, tmp_path / "run", pooling="cls", cache=cache)
    with pytest.raises(UserError, match="--teacher"):
        in_this_process("distill", *flags(values))


def test_the_dense_half_is_reduced_and_trained_on(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path
) -> None:
    values = settings(tiny_folder("bert"), data, tmp_path / "run", cache=cache, eval_queries=0)
    in_this_process("finetune", *flags({**values, "lexical_terms": 6, "dense_dimension": 8}))
    encoder = Encoder.open(tmp_path / "run", device="cpu")
    vectors = encoder.encode_passages(["the stone", "a river"])
    assert encoder.dimension == 8 and vectors.dense.shape == (2, 8)
    assert vectors.lexical is not None and (np.diff(vectors.lexical.indptr) <= 6).all()
    scale = load_file(tmp_path / "run" / "model" / "dupmae_representation.safetensors")["lexical_scale"]
    assert float(scale) not in (0.0, 1.0)  # fitted to the data
    # A model that has a lexical half keeps its scale, whatever it is trained on next.
    again = {**values, "model_name_or_path": str(tmp_path / "run"), "output_dir": str(tmp_path / "again")}
    in_this_process("finetune", *flags({**again, "lexical_terms": 6, "dense_dimension": 8}))
    kept = load_file(tmp_path / "again" / "model" / "dupmae_representation.safetensors")["lexical_scale"]
    assert torch.equal(kept, scale)


def test_matryoshka_and_gradient_checkpointing_through_the_command_line(
    tiny_folder: Tiny, data: Path, cache: Path, tmp_path: Path
) -> None:
    """Recomputed activations give the same weights; shorter widths are trained, which changes them."""
    runs = {"plain": {}, "recomputed": {"gradient_checkpointing": True}, "shorter": {"matryoshka_dims": [8]}}
    for name, more in runs.items():
        values = settings(tiny_folder("bert"), data, tmp_path / name, pooling="cls", cache=cache, **more)
        in_this_process("finetune", *flags({**values, "eval_queries": 0, "max_steps": 3}))
    found = {name: trained(tmp_path / name) for name in runs}
    for name, value in found["plain"].items():
        torch.testing.assert_close(value, found["recomputed"][name], rtol=1e-3, atol=1e-5)
    assert not identical(found["plain"], found["shorter"])
