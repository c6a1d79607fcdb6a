"""Does `retromae pretrain` stay as fast with more rows, in the same memory, and is a second process worth its core?

    python -m benchmarks.scaling --json benchmarks/results/scaling-cpu.json
    python -m benchmarks.scaling --rows 10000 100000 --steps 20

Every line is a process of its own, or two under torchrun, that trains RetroMAE (4 layers of 256, 8k words, lengths like
MS MARCO's) from rows on disk and is read by what it logs: the median speed of the second half of its log, the seconds
to its first step, and the largest resident memory. Memory counts the pages of mapped rows that were touched.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.folders import made_up_folder
from benchmarks.loop import SEED
from benchmarks.pretrain import CASES
from retromae.core.errors import UserError

CASE = CASES["4x256 8k, MS MARCO-like"]


def trained(
    folder: Path, made: dict[str, str], steps: int, *, processes: int, threads: int
) -> dict[str, float]:
    """One training, seen from outside. The batch of a step is the same however many processes share it."""
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    settings = {
        **made,
        "output_dir": str(run),
        "max_steps": steps,
        "per_device_train_batch_size": CASE.rows,
        "gradient_accumulation_steps": 2 // processes,
        "dropout": 0.0,
        "holdout": 0.0,
        "logging_steps": max(1, steps // 10),
        "save_steps": 10**6,
        "no_keep_best": None,
    }
    arguments = [
        text for name, value in settings.items() for text in (f"--{name}", value) if text is not None
    ]
    command = [sys.executable, "-m", *(launcher if processes > 1 else []), "retromae", "pretrain"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    started = time.monotonic()
    with subprocess.Popen(
        [*command, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"the training ended with {process.returncode}: {output.decode()[-400:]}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "tokens_per_second" in line]
    speeds = [line["tokens_per_second"] for line in logged]
    return {
        "tokens_per_second": statistics.median(speeds[len(speeds) // 2 :]),
        "seconds_before_training": time.monotonic() - started - logged[-1]["seconds"],
        "memory_mib": usage.ru_maxrss / 1024,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {"rows": {}, "processes": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for number in options.rows:
            folder = Path(temporary) / str(number)
            # In a process of its own: a training would inherit this one's largest memory.
            with ProcessPoolExecutor(1, get_context("spawn")) as aside:
                made = aside.submit(made_up_folder, CASE, folder, number).result()
            results["rows"][number] = trained(folder, made, options.steps, processes=1, threads=2)
            if number == options.rows[0]:
                for name, (processes, threads) in {
                    "1 process, 1 thread": (1, 1),
                    "1 process, 2 threads": (1, 2),
                    "2 processes, 1 thread each": (2, 1),
                }.items():
                    found = trained(folder, made, options.steps, processes=processes, threads=threads)
                    results["processes"][name] = found
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", help="file to write")
    options = parser.parse_args()
    results = measure(options)
    for title, found in (("rows on disk", results["rows"]), ("processes", results["processes"])):
        common.print_table(
            title,
            ["", "tokens/s", "s before training", "largest memory, MiB"],
            [
                [
                    f"{name:,}" if isinstance(name, int) else name,
                    f"{r['tokens_per_second']:,.0f}",
                    f"{r['seconds_before_training']:.0f}",
                    f"{r['memory_mib']:,.0f}",
                ]
                for name, r in found.items()
            ],
        )
    if options.json:
        common.write_json(options.json, results, seed=SEED)


if __name__ == "__main__":
    common.script(main)
