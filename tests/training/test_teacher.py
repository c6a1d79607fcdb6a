"""A cross-encoder teacher: its groups and losses, and whole runs through the real command line."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder

from app.command_line import CommandLine
from retromae.core.config import from_dict
from retromae.core.errors import UserError
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs
from retromae.training.reranking import Reranking
from retromae.training.scores import ScoreCache
from retromae.training.teacher import TeacherData, teach, train_teacher
from retromae.training.teacher_settings import TeacherConfig
from tiny import tiny_model
from training import runs
from training.processes import Started
from training.teachers import open_pairs, some_candidates, write_pairs

Settings = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with a train and a dev split, and mined candidates for both."""
    folder = write_pairs(tmp_path_factory.mktemp("data") / "set")
    write_pairs(folder, 8, "dev", first=30)
    for split in ("train", "dev"):
        pairs = open_pairs(folder, split)
        some_candidates(pairs).write(folder.parent / f"{split}-negatives", pairs)
    return folder


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Pairs:
    return open_pairs(folder)


@pytest.fixture
def given_settings(folder: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> Settings:
    usual = {
        "model_name_or_path": str(tiny_folder("bert")),
        "pairs": str(folder),
        "negatives": str(folder.parent / "train-negatives"),
        "cache": str(folder.parent / "cache"),
        "output_dir": str(tmp_path / "run"),
        "train_group_size": 4,
        "per_device_train_batch_size": 4,
        "max_seq_length": 48,
        "max_steps": 8,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "eval_steps": 4,
        "save_steps": 3,
    }
    return lambda **changed: usual | changed


def train(values: dict[str, Any], *, resume: bool = False) -> Any:
    return teach(from_dict(TeacherConfig, values), resume=resume)


def command(values: dict[str, Any], *more: str) -> list[str]:
    flags = runs.command(
        {name: value for name, value in values.items() if name != "model_name_or_path"}, *more
    )
    return [*flags[:2], "teach", values["model_name_or_path"], *flags[3:]]


def start(values: dict[str, Any], *more: str) -> Started:
    return Started(command(values, *more), runs.environment())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_run_from_the_command_line(
    given_settings: Settings,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = given_settings(
        dev_negatives=str(folder.parent / "dev-negatives"),
        max_steps=30,
        eval_steps=15,
        save_steps=10,
        logging_steps=5,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
    )
    done = CommandLine(monkeypatch, capsys)(*command(values, "--score")[2:])
    output = done.out + done.err
    assert done.code == 0, output
    assert "Finished after 30 steps" in output and "tokens/s" in output
    for noise in ("Warning", "newly initialized", "MISSING", "Converting"):
        assert noise not in output, output
    run = tmp_path / "run"
    records = runs.metrics(run)
    logged = [record for record in records if "loss" in record]
    assert [record["step"] for record in logged] == [5, 10, 15, 20, 25, 30]
    assert logged[0]["loss"] == pytest.approx(np.log(4), abs=0.1) and logged[-1]["loss"] < 1.2
    assert logged[-1]["tokens"] > logged[0]["tokens"] > 0
    measured = [record for record in records if "eval_nDCG@10" in record]
    assert [record["step"] for record in measured] == [0, 15, 30]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["finished"] and manifest["measured_queries"] == 7 and manifest["train_queries"] == 23
    assert manifest["queries_without_negatives"] == 1 and manifest["fresh"] == ["classification head"]
    assert manifest["best"]["step"] in (15, 30)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-30"]
    assert not list(run.glob(".*"))

    plain = CrossEncoder(str(run / "model"), device="cpu")
    assert plain.max_seq_length == 48 and plain.num_labels == 1
    pairs = open_pairs(folder)
    cache = ScoreCache.open(run, pairs)
    row = np.zeros(len(pairs.positives[0]), dtype=np.int64)
    texts = [(pairs.queries[0].text, text) for text in pairs.passages.texts(pairs.positives[0])]
    np.testing.assert_allclose(
        cache.lookup(row, pairs.positives[0]), plain.predict(texts), rtol=1e-4, atol=1e-5
    )
    assert json.loads((run / "model" / "teacher.json").read_text())["settings"]["max_steps"] == 30


def test_the_settings_are_shown_without_doing_anything(
    given_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = CommandLine(monkeypatch, capsys).well(*command(given_settings(), "--print_config")[2:])
    assert "train_group_size: 4" in shown and "loss: listwise" in shown
    assert not (tmp_path / "run").exists()


def test_resumed_equals_undisturbed_bit_for_bit_with_dropout(
    given_settings: Settings, tmp_path: Path
) -> None:
    values = given_settings(
        gradient_accumulation_steps=2, eval_queries=2, per_device_train_batch_size=2, logging_steps=3
    )
    whole = {**values, "output_dir": str(tmp_path / "whole")}
    train(whole)
    process = start(values)
    runs.wait_for(tmp_path / "run" / "checkpoint-3", process)
    process.kill()
    process.wait()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')  # a line cut off by the kill
    assert train(values, resume=True).finished
    assert runs.identical(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    timed = ("seconds", "tokens_per_second")
    cut = [
        [{k: v for k, v in record.items() if k not in timed} for record in runs.metrics(tmp_path / name)]
        for name in ("run", "whole")
    ]
    assert cut[0] == cut[1]
    dropout = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["hidden_dropout_prob"]
    assert dropout > 0


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_and_resume_goes_on(given_settings: Settings, tmp_path: Path) -> None:
    values = given_settings(max_steps=40, save_steps=1000, eval_steps=1000)
    process = start(values)
    runs.wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    output = "".join(process.communicate(timeout=60))
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "a checkpoint is written" in output and "Traceback" not in output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert 0 < int(checkpoint.name.split("-")[1]) < 40
    with pytest.raises(UserError, match="takes 1 batches per step"):
        train({**values, "gradient_accumulation_steps": 2}, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        train(values)
    assert train(values, resume=True).steps == 40


def test_killed_between_the_last_step_and_the_end(given_settings: Settings, tmp_path: Path) -> None:
    values = given_settings(save_steps=4)
    train(values)
    run = tmp_path / "run"
    before, records = weights(run), runs.metrics(run)
    facts = json.loads((run / "manifest.json").read_text())
    del facts["finished"]
    (run / "manifest.json").write_text(json.dumps(facts))
    (run / "model").rename(run / "best")
    assert train(values, resume=True).finished
    assert runs.identical(before, weights(run)) and runs.metrics(run) == records
    assert not (run / "best").exists()
    assert train(values, resume=True).steps == 8  # finished: nothing is done again


def test_accumulating_is_the_same_as_a_larger_batch(given_settings: Settings, tmp_path: Path) -> None:
    still = tiny_model("bert", tmp_path / "still", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"model_name_or_path": str(still), "max_steps": 4, "logging_steps": 1, "eval_queries": 0}
    for name, batch, accumulation in (("one", 4, 1), ("two", 2, 2)):
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        train(given_settings(**common, **sizes, output_dir=str(tmp_path / name)))
    one, two = ([r for r in runs.metrics(tmp_path / name) if "loss" in r] for name in ("one", "two"))
    for mine, theirs in zip(one, two):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_do_what_one_does_that_accumulates(given_settings: Settings, tmp_path: Path) -> None:
    still = tiny_model("bert", tmp_path / "still", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"model_name_or_path": str(still), "eval_queries": 2, "logging_steps": 1, "score": True}
    train(given_settings(**common, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one")))
    values = given_settings(**common, output_dir=str(tmp_path / "two"))
    done = runs.launch(command(values), processes=2, anew=True)
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    runs.check_same_way(one, two, ("loss", "grad_norm", "eval_nDCG@10", "tokens"), rel=2e-3, abs=2e-4)
    runs.check_close(weights(one), weights(two), atol=2e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "binary"},
        {"num_train_epochs": 12, "max_steps": None, "lr_scheduler_type": "cosine"},
    ],
    ids=str,
)
def test_settings_that_change_the_loop(
    changed: dict[str, Any], given_settings: Settings, tmp_path: Path
) -> None:
    usual = {"learning_rate": 1e-2, "max_steps": 24, "per_device_train_batch_size": 8, "eval_steps": 100}
    outcome = train(given_settings(**{**usual, **changed}))
    losses = [record["loss"] for record in runs.metrics(tmp_path / "run") if "loss" in record]
    assert outcome.finished and np.mean(losses[-3:]) < losses[0] - 0.05
    assert outcome.steps == (32 if "num_train_epochs" in changed else 24)  # 21 queries, 2 are held out


def test_bf16_trains_and_measures(given_settings: Settings, tmp_path: Path) -> None:
    outcome = train(given_settings(bf16=True, max_steps=2, logging_steps=1))
    losses = [record["loss"] for record in runs.metrics(tmp_path / "run") if "loss" in record]
    assert losses == pytest.approx([np.log(4)] * 2, abs=0.05) and 0 < outcome.metrics["nDCG@10"] <= 1


def test_minutes_end_a_run_with_the_rate_at_zero(given_settings: Settings, tmp_path: Path) -> None:
    outcome = train(given_settings(max_steps=None, minutes=0.04, logging_steps=1, eval_queries=0))
    rates = [
        record["learning_rate"] for record in runs.metrics(tmp_path / "run") if "learning_rate" in record
    ]
    assert outcome.finished and outcome.steps > 3 and rates[-1] < 0.4 * max(rates)


def test_checkpointing_changes_memory_not_results(given_settings: Settings, tmp_path: Path) -> None:
    for name, on in (("a", False), ("b", True)):
        train(given_settings(gradient_checkpointing=on, max_steps=3, output_dir=str(tmp_path / name)))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4)


def test_going_on_with_a_cross_encoder(given_settings: Settings, tmp_path: Path) -> None:
    train(given_settings(max_steps=2))
    train(
        given_settings(
            model_name_or_path=str(tmp_path / "run"),
            max_steps=1,
            learning_rate=0.0,
            output_dir=str(tmp_path / "on"),
        )
    )
    assert runs.identical(weights(tmp_path / "run"), weights(tmp_path / "on"))
    manifest = json.loads((tmp_path / "on" / "manifest.json").read_text())
    assert manifest["fresh"] == [] and manifest["best"]["step"] == 0, (
        "training must beat what it started from"
    )


def test_early_stopping_and_the_best_checkpoint(given_settings: Settings, tmp_path: Path) -> None:
    outcome = train(given_settings(learning_rate=0.0, max_steps=60, eval_steps=2, early_stopping_patience=3))
    assert outcome.finished and outcome.steps == 8  # the first is the best; three more do not beat it
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["best"]["step"] == 2
    assert json.loads((tmp_path / "run" / "model" / "teacher.json").read_text())["provenance"]["steps"] == 2


def test_a_loss_that_is_no_number_stops_the_run(given_settings: Settings) -> None:
    with pytest.raises(UserError, match="The loss became nan"):
        train(given_settings(learning_rate=1e30, max_grad_norm=0.0, eval_queries=0))


def test_an_evaluator_of_ones_own(pairs: Pairs, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Through the library, with data at hand."""
    seen: list[int] = []

    class Counting(Reranking):
        def __call__(self, model: CrossEncoder, *args: Any, **kwargs: Any) -> dict[str, float]:
            seen.append(len(self.queries))
            return super().__call__(model)

    candidates = some_candidates(pairs)
    config = TeacherConfig(
        model_name_or_path=str(tiny_folder("bert")),
        output_dir=str(tmp_path / "run"),
        max_seq_length=48,
        max_steps=2,
    )
    own = Counting(pairs, candidates, np.arange(5), depth=4)
    outcome = train_teacher(config, TeacherData(pairs, candidates), evaluator=own)
    assert seen == [5, 5, 5] and outcome.metrics["nDCG@10"] > 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["train_queries"] == 23 and manifest["measured_queries"] == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_name_or_path": ""}, "Please say model_name_or_path"),
        ({"pairs": ""}, "Please say pairs"),
        ({"output_dir": ""}, "Please say output_dir"),
        ({"negatives": None}, "holds no negatives"),
        ({"train_group_size": 1}, "train_group_size must be at least 2"),
        ({"minutes": 0}, "minutes must be above 0"),
        ({"max_seq_length": 500}, "takes 8 to 64 tokens"),
        ({"loss": "pairwise"}, "one of listwise, binary"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_one_sentence(
    changed: dict[str, Any], message: str, given_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(given_settings(**changed))
    assert not (tmp_path / "run").exists()


def test_candidates_that_hold_nothing_but_answers_are_refused(
    pairs: Pairs, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    answers = Candidates(pairs.positives, np.ones(len(pairs.positives.members), np.float32), {})
    config = TeacherConfig(model_name_or_path=str(tiny_folder("bert")), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="none of the 24 queries has a negative"):
        train_teacher(config, TeacherData(pairs, answers))
