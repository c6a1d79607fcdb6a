"""What the share of words hidden from enhanced decoding does, where the decoder can learn its context: made-up passages
that are random walks through a row of words, so that a word's neighbours all but say what it is.

python -m benchmarks.decoder_context --work runs/walks --json benchmarks/results/decoder-context.json

Each share is a run of RetroMAE from scratch (2 layers of 64). Shown are the decoder's loss on held-out passages, with
that share hidden, and how much of it [CLS] saves. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import common
from retromae.core.files import replacing
from retromae.core.runs import RunFolder
from retromae.text.prepare import PrepareConfig, prepare
from retromae.training.pretrain import pretrain
from retromae.training.session import measurements, went_through
from retromae.training.settings import resolve

WORDS, LENGTH, PASSAGES = 60, 24, 12_000
MODEL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def passages(seed: int) -> Iterator[str]:
    """Every next word stands beside the last one in the row of words."""
    rng = random.Random(seed)
    names = [f"{'abcdefghij'[n // 10]}{'klmnopqrst'[n % 10]}x" for n in range(WORDS)]
    for _ in range(PASSAGES):
        place = rng.randrange(WORDS)
        walk = []
        for _ in range(LENGTH):
            walk.append(names[place])
            place = (place + rng.choice((-1, 1))) % WORDS
        yield " ".join(walk)


def rows(work: Path, seed: int) -> Path:
    text, out = work / "walks.jsonl", work / "rows"
    if not out.is_dir():
        with replacing(text) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(
                json.dumps({"_id": str(number), "text": walk}) + "\n"
                for number, walk in enumerate(passages(seed))
            )
        prepare(PrepareConfig(sources=[str(text)], out=str(out), train_tokenizer=120, max_tokens=60))
    return out


def run(work: Path, share: float, steps: int, seed: int) -> list[dict[str, Any]]:
    """The measurements of a run."""
    folder = work / f"share-{share:g}"
    settings = {
        **MODEL,
        **{"objective": "retromae", "rows": str(rows(work, seed)), "output_dir": str(folder), "seed": seed},
        **{"decoder_mlm_probability": share, "max_steps": steps, "eval_steps": max(1, steps // 5)},
        **{
            "max_seq_length": 32,
            "per_device_train_batch_size": 32,
            "learning_rate": 2e-3,
            "probe_queries": 0,
        },
    }
    made = RunFolder(folder)
    went_through(pretrain(resolve(settings), resume=made.used, console=None))
    return [{"step": step, **found} for step, found in measurements(made)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shares", type=lambda text: [float(part) for part in text.split(",")], default=[0.15, 0.5, 0.9]
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, help="folder for text, rows and runs (default: one that goes away)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        found = {f"{share:g}": run(work, share, options.steps, options.seed) for share in options.shares}
    table = [
        [share, f"{point['step']}", f"{point['decoder_loss']:.2f}", f"{point['cls_use']:.2f}"]
        for share, curve in found.items()
        for point in curve
    ]
    common.print_table("random walks", ["share", "step", "decoder's loss", "use of [CLS]"], table)
    if options.json:
        common.write_json(options.json, {"steps": options.steps, "runs": found}, seed=options.seed)


if __name__ == "__main__":
    common.script(main)
