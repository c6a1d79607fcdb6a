"""Small real runs for the tests: invented text, rows prepared by the library, the real command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retromae.core.runs import Outcome
from retromae.text.rows import PrepareConfig, prepare
from retromae.training.pretrain import pretrain
from retromae.training.settings import resolve
from training.processes import Started, completed

NOUNS = ["river", "stone", "bridge", "lantern", "garden", "winter", "letter", "window", "teacher", "harbour"]
VERBS = ["carries", "follows", "paints", "repairs", "forgets", "answers", "crosses", "measures", "warms"]


def write_corpus(path: Path, documents: int = 60) -> Path:
    """Documents with titles and several sentences, so that every kind of probe query can be made."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(documents):
            topic = rng.sample(NOUNS, 3)
            sentences = [
                f"The {rng.choice(topic)} {rng.choice(VERBS)} the {rng.choice(topic)} near a {rng.choice(NOUNS)}."
                for _ in range(rng.randint(2, 7))
            ]
            title = f"{topic[0]} and {topic[1]} {number}"
            stream.write(
                json.dumps({"_id": f"d{number}", "title": title, "text": " ".join(sentences)}) + "\n"
            )
    return path


def prepare_rows(folder: Path, tokenizer: Path) -> Path:
    corpus = write_corpus(folder / "corpus.jsonl")
    rows = folder / "rows"
    prepare(
        PrepareConfig([str(corpus)], str(rows), str(tokenizer), max_tokens=60, workers=1, dedupe=False),
        progress=False,
    )
    return rows


def settings(rows: Path, model: Path, output_dir: Path) -> dict[str, Any]:
    return {
        "rows": str(rows),
        "model_name_or_path": str(model),
        "output_dir": str(output_dir),
        "max_seq_length": 64,
        "per_device_train_batch_size": 8,
        "max_steps": 12,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "eval_steps": 4,
        "save_steps": 3,
        "holdout": 0.3,
        "probe_queries": 20,
        "dataloader_num_workers": 0,
    }


def command(values: dict[str, Any], *more: str) -> list[str]:
    flags = []
    for name, value in values.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        else:
            flags += [f"--{name}", str(value)]
    return ["-m", "retromae", "pretrain", *flags, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def launch(
    arguments: Sequence[str], *, processes: int = 0, anew: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, or in several as a group; `more` goes into its environment.

    `anew` has it started by the interpreter itself, and a group by torchrun, in some ten seconds.
    """
    surroundings = {**environment(), **more}
    if not anew:
        return completed(arguments, surroundings, processes)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words = [sys.executable, *(launcher if processes else []), *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=surroundings, check=False, timeout=300)


def run(
    values: dict[str, Any], *more: str, processes: int = 0, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """`retromae pretrain`, in processes of its own."""
    return launch(command(values, *more), processes=processes, anew=anew)


def train(values: dict[str, Any], *, resume: bool = False) -> Outcome:
    """The same in this process."""
    return pretrain(resolve(values), resume=resume)


def start(values: dict[str, Any], *more: str) -> Started:
    return Started(command(values, *more), environment())


def wait_for(path: Path, process: Started, seconds: float = 120) -> None:
    """Until the process has left that there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.printed()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_at(path: Path, process: Started) -> None:
    """Kill it as soon as it has left that there, or let it end."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()


def go_back(run: Path, step: int) -> None:
    """As if the run had been killed after that step."""
    for checkpoint in run.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    shutil.rmtree(run / "model")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["finished"]
    (run / "manifest.json").write_text(json.dumps(manifest))


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    """Everything that was trained: the model and its heads."""
    model = run_folder / "model"
    heads = model / "pretraining_heads.safetensors"  # masked language modelling has none
    return {**load_file(model / "model.safetensors"), **(load_file(heads) if heads.exists() else {})}


def metrics(run_folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def check_same_way(one: Path, two: Path, names: Iterable[str], *, rel: float, abs: float = 0.0) -> None:
    """Both runs logged the same steps, and of what is named the same values."""
    mine, theirs = metrics(one), metrics(two)
    assert [record["step"] for record in mine] == [record["step"] for record in theirs]
    for a, b in zip(mine, theirs):
        for name in set(names) & a.keys():
            assert b[name] == pytest.approx(a[name], rel=rel, abs=abs), (a["step"], name)


def check_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], *, atol: float) -> None:
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-2, atol=atol)


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
