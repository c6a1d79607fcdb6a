"""Pre-training through the real command line: what it leaves, how it resumes, what it refuses."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM

from retromae.core.errors import UserError
from retromae.core.locks import claim
from retromae.models.checkpoint import open_checkpoint
from retromae.objectives import available
from training import runs

Settings = Callable[..., dict[str, Any]]


def test_a_run_from_the_command_line(given: Settings, tmp_path: Path) -> None:
    done = runs.run(given(), anew=True)
    assert done.returncode == 0, done.stderr
    assert "Finished after 12 steps" in done.stdout
    assert "tokens/s" in done.stdout and "left" in done.stdout
    folder = tmp_path / "run"
    records = runs.metrics(folder)
    logged = [record for record in records if "loss" in record]
    assert [record["step"] for record in logged] == [2, 4, 6, 8, 10, 12]
    for record in logged:
        assert record["loss"] == pytest.approx(record["encoder"] + record["decoder"], rel=1e-4)
        assert record["tokens_per_second"] > 0
    assert logged[-1]["loss"] < logged[0]["loss"]
    measured = [record for record in records if "eval_cls_use" in record]
    assert [record["step"] for record in measured] == [0, 4, 8, 12]
    for record in measured:
        assert 0 <= record["eval_probe_ndcg@10_low"] <= record["eval_probe_ndcg@10"]
        assert record["eval_probe_ndcg@10"] <= record["eval_probe_ndcg@10_high"] <= 1
        assert 0 <= record["eval_decoder_accuracy"] <= 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["finished"] and manifest["steps"] == 12 and manifest["world_size"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-12", "checkpoint-9"]
    assert not list(folder.glob(".*"))


def test_the_model_loads_everywhere(given: Settings, tmp_path: Path) -> None:
    runs.train(given(keep_best=False))
    folder = tmp_path / "run" / "model"
    assert "# run\n" in (folder / "README.md").read_text()
    ours = open_checkpoint(folder)
    encoded = ours.tokenizer(["The river carries a lantern."], return_tensors="pt")
    with torch.no_grad():
        expected = ours.backbone.eval().encode(encoded["input_ids"], encoded["attention_mask"])
        plain = AutoModel.from_pretrained(folder).eval()(**encoded).last_hidden_state
        logits = AutoModelForMaskedLM.from_pretrained(folder).eval()(**encoded).logits
    torch.testing.assert_close(plain, expected)
    assert logits.shape[-1] == ours.backbone.vocab_size
    sentence = SentenceTransformer(str(folder), device="cpu")
    vector = sentence.encode(["The river carries a lantern."], convert_to_tensor=True)
    torch.testing.assert_close(vector, expected[:, 0], rtol=1e-4, atol=1e-5)
    assert sentence.similarity_fn_name == "dot"
    assert any(name.startswith("decoder.layer") for name in ours.heads)


# What makes a run of a few steps go through all that an objective does.
BUSY: dict[str, dict[str, Any]] = {"laprador": {"turn_steps": 2, "pool_size": 40}}


@pytest.mark.parametrize(
    "objective",
    [pytest.param(name, marks=[] if name == "retromae" else pytest.mark.slow) for name in available()],
)
def test_resumed_equals_undisturbed_bit_for_bit_with_dropout(
    objective: str, given: Settings, tmp_path: Path
) -> None:
    settings = {"objective": objective, "dropout": 0.2, "keep_best": False, **BUSY.get(objective, {})}
    runs.train(given(**settings, output_dir=str(tmp_path / "whole")))
    first = runs.start(given(**settings))
    runs.wait_for(tmp_path / "run" / "checkpoint-6", first)
    first.kill()
    first.wait()
    again = runs.run(given(**settings), "--resume")
    assert again.returncode == 0, again.stderr
    assert runs.identical(runs.weights(tmp_path / "run"), runs.weights(tmp_path / "whole"))
    whole, resumed = runs.metrics(tmp_path / "whole"), runs.metrics(tmp_path / "run")
    timed = ("seconds", "tokens_per_second")
    assert [{k: v for k, v in r.items() if k not in timed} for r in resumed] == [
        {k: v for k, v in r.items() if k not in timed} for r in whole
    ]


OWN_OBJECTIVE = '''
"""How many words a row has, told from its sentence vector."""

from dataclasses import dataclass

import torch
from torch import nn

from retromae.models import flops
from retromae.objectives.base import Drawn, Objective


@dataclass
class CountingConfig:
    width: int = 8
    counting_weight: float = 1.0


class Counting(Objective):
    Config = CountingConfig

    def __init__(self, backbone, settings, vocabulary, seed=0):
        super().__init__(backbone, settings, vocabulary, seed)
        size = backbone.hidden_size
        self.counter = nn.Sequential(nn.Linear(size, settings.width), nn.Tanh(), nn.Linear(settings.width, 1))
        for parameter in backbone.model.parameters():
            parameter.requires_grad_(False)
        for parameter in backbone.base.parameters():
            parameter.requires_grad_(True)

    def heads(self):
        return {"counter": self.counter}

    def draw(self, batch):
        rows = torch.tensor(float(len(batch.row_ids)), device=batch.row_ids.device)
        return Drawn({"words": self.words(batch).amax(dim=1) + 1.0}, {"rows": rows})

    def forward(self, batch, drawn=None, totals=None):
        drawn = drawn or self.draw(batch)
        hidden = self.backbone.encode(batch.token_ids, batch.attention_mask)
        wrong = self.counter(hidden[:, 0])[:, 0] - drawn.tensors["words"].log1p()
        rows = wrong.square().sum() / (totals or drawn.counts)["rows"]
        return {"loss": self.settings.counting_weight * rows, "rows": rows.detach()}

    def flops(self, rows, length):
        return flops.TRAINING * flops.encoder(self.backbone, rows, length)
'''


@pytest.mark.slow
def test_an_objective_in_a_file_of_its_own_needs_nothing_else(given: Settings, tmp_path: Path) -> None:
    """Its settings, its parts, killing, resuming and continuing work as those of the package do."""
    own = tmp_path / "own.py"
    own.write_text(OWN_OBJECTIVE)
    more = ["--set", "counting_weight=0.5", "--set", "width=4"]
    values = given(objective=str(own), dropout=0.2, keep_best=False)
    first = runs.start(values, *more)
    runs.wait_for(tmp_path / "run" / "checkpoint-6", first)
    first.kill()
    first.wait()
    values |= {"counting_weight": 0.5, "width": 4}
    runs.train(values, resume=True)
    runs.train({**values, "output_dir": str(tmp_path / "whole")})
    trained = runs.weights(tmp_path / "run")
    assert runs.identical(trained, runs.weights(tmp_path / "whole"))
    assert trained["counter.0.weight"].shape[0] == 4
    records = [record for record in runs.metrics(tmp_path / "run") if "loss" in record]
    assert records[-1]["loss"] == pytest.approx(0.5 * records[-1]["rows"], rel=1e-4)
    assert records[-1]["loss"] < records[0]["loss"]
    assert "eval_rows_loss" in runs.metrics(tmp_path / "run")[-1]

    start = {"model_name_or_path": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "next")}
    runs.train(given(objective=str(own), width=4, learning_rate=0.0, max_steps=1, keep_best=False, **start))
    assert runs.identical(runs.weights(tmp_path / "next"), trained)


@pytest.mark.slow
def test_killed_five_times_at_random_moments(given: Settings, tmp_path: Path) -> None:
    import random

    settings = {"dropout": 0.1, "max_steps": 60, "save_steps": 2, "keep_best": True}
    runs.train(given(**settings, output_dir=str(tmp_path / "whole")))
    rng = random.Random(7)
    log = tmp_path / "run" / "metrics.jsonl"
    for _ in range(5):
        process, before = runs.start(given(**settings), "--resume"), log.exists() and log.read_bytes()
        while (log.exists() and log.read_bytes()) == before and process.poll() is None:
            time.sleep(0.005)  # until it works again
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, process.printed()
        process.kill()
        process.wait()
    last = runs.run(given(**settings), "--resume")
    assert last.returncode == 0, last.stderr
    assert runs.identical(runs.weights(tmp_path / "run"), runs.weights(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_leaves_a_checkpoint_and_resume_goes_on(
    number: signal.Signals, given: Settings, tmp_path: Path
) -> None:
    settings = given(max_steps=120, save_steps=1000, eval_steps=1000, keep_best=False)
    process = runs.start(settings)
    runs.wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(number)
    output = "".join(process.communicate(timeout=60))
    assert process.returncode == 128 + number
    assert "a checkpoint is written" in output and "Traceback" not in output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert 0 < step < 120
    assert not (tmp_path / "run" / "model").exists()
    ended = runs.run({**settings, "save_total_limit": 5}, "--resume")
    assert ended.returncode == 0, ended.stderr
    assert [record["step"] for record in runs.metrics(tmp_path / "run") if "loss" in record] == list(
        range(2, 121, 2)
    )


@pytest.mark.slow
def test_two_processes_do_what_one_does_that_accumulates(given: Settings, tmp_path: Path) -> None:
    settings = {"dropout": 0.0, "keep_best": False, "max_steps": 8}
    runs.train(given(**settings, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one")))
    done = runs.run(given(**settings, output_dir=str(tmp_path / "two")), processes=2, anew=True)
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    runs.check_same_way(
        one,
        two,
        ("loss", "encoder", "decoder", "grad_norm", "eval_cls_use", "eval_probe_ndcg@10", "tokens"),
        rel=2e-4,
        abs=2e-4,
    )
    runs.check_close(runs.weights(one), runs.weights(two), atol=2e-4)


def test_continuing_from_our_checkpoint_takes_the_heads_along(given: Settings, tmp_path: Path) -> None:
    runs.train(given(keep_best=False))
    first = tmp_path / "run" / "model"
    runs.train(
        given(
            model_name_or_path=str(first), learning_rate=0.0, max_steps=1, output_dir=str(tmp_path / "next")
        )
    )
    assert runs.identical(runs.weights(tmp_path / "next"), runs.weights(tmp_path / "run"))
    assert json.loads((tmp_path / "next" / "manifest.json").read_text())["fresh"] == []


def test_a_model_from_scratch_repeats_itself(given: Settings, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    for name in ("a", "b"):
        runs.train(
            given(
                **sizes,
                model_name_or_path=None,
                keep_best=False,
                max_steps=3,
                output_dir=str(tmp_path / name),
            )
        )
    assert runs.identical(runs.weights(tmp_path / "a"), runs.weights(tmp_path / "b"))
    runs.train(
        given(
            **sizes,
            model_name_or_path=None,
            keep_best=False,
            max_steps=3,
            seed=7,
            output_dir=str(tmp_path / "c"),
        )
    )
    assert not runs.identical(runs.weights(tmp_path / "a"), runs.weights(tmp_path / "c"))


def test_minutes_end_a_run_with_the_rate_at_zero(given: Settings, tmp_path: Path) -> None:
    outcome = runs.train(
        given(max_steps=None, minutes=0.05, logging_steps=1, eval_steps=1000, keep_best=False)
    )
    assert outcome.finished and outcome.steps > 3
    rates = [
        record["learning_rate"] for record in runs.metrics(tmp_path / "run") if "learning_rate" in record
    ]
    assert rates[-1] < 0.25 * max(rates)


def test_early_stopping_and_the_best_checkpoint(given: Settings, tmp_path: Path) -> None:
    outcome = runs.train(
        given(objective="mlm", learning_rate=0.0, max_steps=60, eval_steps=2, early_stopping_patience=3)
    )
    assert (
        outcome.finished and outcome.steps == 8
    )  # the first measurement is the best; three more do not beat it
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["best"]["step"] == 2
    assert open_checkpoint(tmp_path / "run" / "model").recipe["provenance"]["steps"] == 2


def test_a_loss_that_is_no_number_stops_with_its_batch_written_down(given: Settings, tmp_path: Path) -> None:
    done = runs.run(given(learning_rate=1e30, max_grad_norm=0.0))
    assert done.returncode == 2
    assert "The loss became" in done.stderr and "Traceback" not in done.stderr
    (written,) = (tmp_path / "run").glob("nonfinite-step-*.json")
    assert len(json.loads(written.read_text())["row_ids"]) > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_type": "constant"},
        {"gradient_accumulation_steps": 3},
        {"tokens_per_batch": 300, "pad_to_multiple_of": 8},
        {"num_train_epochs": 2, "max_steps": None},
        {"dataloader_num_workers": 2},
        {"holdout": 0.0},
        {"hide_schedule": 0.5, "decoder": "basic", "decoder_layers": 2},
    ],
    ids=str,
)
def test_settings_that_change_the_loop(settings: dict[str, Any], given: Settings, tmp_path: Path) -> None:
    outcome = runs.train(given(**settings))
    losses = [record["loss"] for record in runs.metrics(tmp_path / "run") if "loss" in record]
    assert outcome.finished and losses[-1] < losses[0]


def test_checkpointing_changes_memory_not_results(given: Settings, tmp_path: Path) -> None:
    for name, on in (("a", False), ("b", True)):
        runs.train(
            given(gradient_checkpointing=on, dropout=0.1, keep_best=False, output_dir=str(tmp_path / name))
        )
    a, b = runs.weights(tmp_path / "a"), runs.weights(tmp_path / "b")
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["retromae", "dupmae"])
def test_compiled_gives_the_same_losses(objective: str, given: Settings, tmp_path: Path) -> None:
    common = {"objective": objective, "dropout": 0.0, "keep_best": False, "max_steps": 4, "holdout": 0.0}
    for name, on in (("plain", False), ("compiled", True)):
        done = runs.run(given(**common, torch_compile=on, output_dir=str(tmp_path / name)))
        assert done.returncode == 0, done.stderr
    plain, compiled = ([r["loss"] for r in runs.metrics(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_tensorboard_gets_the_figures(given: Settings, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    runs.train(given(report_to=["tensorboard"]))
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": ""}, "Please say rows"),
        ({"rows": "nowhere"}, "nowhere"),
        ({"max_seq_length": 5000}, "this model has positions for"),
        ({"holdout": 1.0, "eval_rows": 10**6}, "no rows left to train on"),
        ({"objective": "retromea"}, "Unknown objective 'retromea'"),
        ({"objective": "mlm", "decoder_mlm_probability": 0.5}, "belongs to dupmae, retromae"),
        ({"learning_rates": 1}, "did you mean 'learning_rate'"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_one_sentence(
    changed: dict[str, Any], message: str, given: Settings
) -> None:
    with pytest.raises(UserError, match=message):
        runs.train(given(**changed))


def test_a_used_folder_is_not_overwritten_and_other_settings_do_not_resume(
    given: Settings, tmp_path: Path
) -> None:
    runs.train(given(max_steps=2))
    with pytest.raises(UserError, match="already holds a run"):
        runs.train(given(max_steps=2))
    with pytest.raises(UserError, match="max_steps was 2, is 3"):
        runs.train(given(max_steps=3), resume=True)
    before = runs.weights(tmp_path / "run")
    assert runs.train(given(max_steps=2), resume=True).steps == 2  # finished: nothing is done again
    assert runs.identical(before, runs.weights(tmp_path / "run"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        runs.train(given(output_dir=str(tmp_path / "other")))


def test_an_empty_sentence_vector_is_never_the_best(given: Settings, tmp_path: Path) -> None:
    """While cls_use is near zero a good probe is luck: the last weights are kept, not the luckiest."""
    runs.train(given(learning_rate=0.0, max_steps=4, eval_steps=2))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["best"] is None
    assert open_checkpoint(tmp_path / "run" / "model").recipe["provenance"]["steps"] == 4


@pytest.mark.parametrize(
    "settings", [{}, {"objective": "mlm", "early_stopping_patience": 2, "learning_rate": 0.0}]
)
def test_killed_between_the_last_step_and_the_end(
    settings: dict[str, Any], given: Settings, tmp_path: Path
) -> None:
    """The last checkpoint is there, the model is not: resuming ends the run and changes nothing."""
    runs.train(given(**settings, eval_steps=3))
    before = runs.weights(tmp_path / "run")
    records = runs.metrics(tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    facts = json.loads(manifest.read_text())
    del facts["finished"]
    manifest.write_text(json.dumps(facts))
    (tmp_path / "run" / "model").rename(tmp_path / "run" / "best")
    assert runs.train(given(**settings, eval_steps=3), resume=True).finished
    assert runs.identical(before, runs.weights(tmp_path / "run"))
    assert not (tmp_path / "run" / "best").exists()
    assert len(runs.metrics(tmp_path / "run")) == len(records)


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain",),
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (("finetune",), ("adapt", "corpus"), ("pipeline", "supervised"))
        ),
    ],
    ids=str,
)
def test_two_jobs_do_not_share_a_folder(words: tuple[str, ...], given: Settings, tmp_path: Path) -> None:
    values = given(pairs="pairs", eval_queries=0)
    wanted = {
        "pretrain": ("rows", "model_name_or_path"),
        "finetune": ("pairs", "model_name_or_path", "eval_queries"),
    }
    flags = [word for name in wanted.get(words[0], ()) for word in (f"--{name}", str(values[name]))]
    place = ["--output_dir", values["output_dir"]]
    if words[0] == "pipeline":
        place = ["--set", f"output_dir={values['output_dir']}"]
    with claim(values["output_dir"]):
        refused = runs.launch(["-m", "retromae", *words, *flags, *place])
    assert refused.returncode == 2
    assert "Another process is at work in" in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_never_began_leaves_its_folder_free(given: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        runs.train(given(rows=str(tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()


def test_a_step_keeps_its_number_of_batches(given: Settings, tmp_path: Path) -> None:
    """Resuming with another number of processes × accumulation would skip or repeat rows."""
    runs.train(given(max_steps=4, save_steps=2))
    runs.go_back(tmp_path / "run", 2)
    with pytest.raises(UserError, match="takes 1 batches per step"):
        runs.train(given(max_steps=4, save_steps=2, gradient_accumulation_steps=2), resume=True)


@pytest.mark.slow
def test_a_recipe_may_be_given_another_objective(given: Settings, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("objective: retromae\nencoder_mlm_probability: 0.4\nhide_schedule: 0.2\n")
    done = runs.run(given(objective="mlm", max_steps=1), str(recipe))
    assert done.returncode == 0, done.stderr
    assert "encoder_mlm_probability: 0.4" in (tmp_path / "run" / "config.yaml").read_text()


def test_rows_of_another_tokenizer_are_refused(given: Settings, tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        runs.train(given(model_name_or_path=str(tiny_folder("roberta"))))
