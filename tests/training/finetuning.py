"""Small real data for fine-tuning: passages about invented things, queries that share a word with their answer."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from training.processes import Started
from training.runs import NOUNS, VERBS, environment, launch

SPLITS = {"train": 36, "dev": 12, "test": 12}


def write_collection(folder: Path, passages: int = 60) -> Path:
    """A BEIR folder. Some queries have two answers, and some passages answer two queries."""
    rng = random.Random(1)
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(passages):
            first, second = NOUNS[number % len(NOUNS)], rng.choice(NOUNS)
            text = f"The {first} {rng.choice(VERBS)} the {second}. A {second} {rng.choice(VERBS)} no {first}."
            stream.write(json.dumps({"_id": f"d{number}", "title": f"{first} {number}", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as queries:
        for split, size in SPLITS.items():
            lines = ["query-id\tcorpus-id\tscore"]
            for number in range(size):
                answer = rng.randrange(passages)
                queries.write(
                    json.dumps(
                        {"_id": f"{split}{number}", "text": f"what {NOUNS[answer % len(NOUNS)]} {number}"}
                    )
                    + "\n"
                )
                lines.append(f"{split}{number}\td{answer}\t1")
                if number % 5 == 0:
                    lines.append(f"{split}{number}\td{(answer + len(NOUNS)) % passages}\t1")
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def settings(model: Path, pairs: Path, output_dir: Path, **more: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": model,
        "pairs": pairs,
        "output_dir": output_dir,
        "query_max_len": 12,
        "passage_max_len": 40,
        "per_device_train_batch_size": 6,
        "max_steps": 8,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "save_steps": 3,
        "eval_steps": 4,
        "eval_queries": 10,
        "eval_passages": 40,
        **more,
    }


def flags(values: dict[str, Any]) -> list[str]:
    found = []
    for name, value in values.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no_{name}")
        else:
            for item in value if isinstance(value, list) else [value]:
                found += [f"--{name}", str(item)]
    return found


def retromae(
    *arguments: Any, cache: Path, processes: int = 0, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, or in several as a group."""
    words = ["-m", "retromae", *map(str, arguments)]
    return launch(words, processes=processes, anew=anew, RETROMAE_CACHE=str(cache))


def started(*arguments: Any, cache: Path) -> Started:
    """The same at work."""
    return Started(["-m", "retromae", *map(str, arguments)], {**environment(), "RETROMAE_CACHE": str(cache)})
