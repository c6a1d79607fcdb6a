"""Text for `adapt`: invented documents about invented things, enough of them to hold some out."""

from __future__ import annotations

import random
from pathlib import Path

from app.command_line import write_lines
from training.runs import NOUNS, VERBS


def write_text(path: Path, documents: int = 160, seed: int = 1) -> Path:
    """A JSONL file; every document has a title of its own and some sentences about its subject."""
    rng = random.Random(seed)
    rows = []
    for number in range(documents):
        subject, other = NOUNS[number % len(NOUNS)], rng.choice(NOUNS)
        sentences = [
            f"In year {number} the {subject} {rng.choice(VERBS)} the {rng.choice(NOUNS)} near the {other}.",
            f"Nobody {rng.choice(VERBS)} a {other} as well as the {rng.choice(NOUNS)} number {number} did.",
            f"Every {rng.choice(NOUNS)} then {rng.choice(VERBS)} what the {subject} left behind that day.",
            f"The {other} {rng.choice(VERBS)} it all over again {number} times.",
        ]
        title = f"{subject} and {other} {number}"
        rows.append({"_id": f"d{number}", "title": title, "text": " ".join(sentences)})
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_lines(path, rows)


def flags(output: Path, model: Path | None, **more: object) -> list[str]:
    """Settings that keep a run of a tiny model small."""
    settings: dict[str, object] = {
        "output_dir": output,
        "minutes": 0.5,
        "passage_max_len": 24,
        "query_max_len": 16,
        "per_device_train_batch_size": 4,
        "eval_queries": 45,
        "eval_passages": 60,
        **({"model_name_or_path": model} if model else {}),
        **more,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
