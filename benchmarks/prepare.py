"""Memory and speed of `prepare` at several corpus sizes.

    python -m benchmarks.prepare --sizes 10000 100000 1000000 --json prepare.json

Passages are invented by a random word generator and streamed to disk; each size runs in a fresh process, so
that its peak memory is its own. "sum" adds the resident memory of parent and workers at one moment, and counts
pages that they share more than once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

VOCABULARY = 8192
WORDS = 20_000
MEBIBYTE = 1 << 20


def write_corpus(path: Path, passages: int, seed: int = 0) -> None:
    """Documents of one passage, about 78 tokens each, with a title; word frequencies fall off as in real text."""
    draw = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(WORDS)]
    weights = list(itertools.accumulate(1 / (rank + 10) for rank in range(WORDS)))
    with open(path, "w", encoding="utf-8") as stream:
        for number in range(passages):
            drawn = draw.choices(words, cum_weights=weights, k=50)
            ends = sorted(draw.sample(range(5, 50), 4))
            sentences = [drawn[a:b] for a, b in zip([0, *ends], [*ends, 50], strict=True)]
            text = " ".join(" ".join(sentence).capitalize() + "." for sentence in sentences)
            stream.write(json.dumps({"_id": str(number), "title": drawn[0], "text": text}) + "\n")


class PeakMemory(threading.Thread):
    """Samples the resident memory of this process and of its workers."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.parent = self.worker = self.sum = 0
        self._done = threading.Event()

    def run(self) -> None:
        parent = psutil.Process()
        while not self._done.wait(0.1):
            own = parent.memory_info().rss
            workers = [0]
            for child in parent.children(recursive=True):
                try:
                    workers.append(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            self.parent = max(self.parent, own)
            self.worker = max(self.worker, *workers)
            self.sum = max(self.sum, own + sum(workers))

    def stop(self) -> None:
        self._done.set()
        self.join()


def measure(corpus: Path, out: Path, tokenizer: Path, workers: int) -> dict[str, Any]:
    from retromae.text.rows import PrepareConfig, Rows, prepare

    memory = PeakMemory()
    memory.start()
    began = time.perf_counter()
    info = prepare(PrepareConfig([str(corpus)], str(out), str(tokenizer), workers=workers), progress=False)
    seconds = time.perf_counter() - began
    memory.stop()
    return {
        "passages": info.passages,
        "tokens": info.tokens,
        "megabytes": corpus.stat().st_size / 1e6,
        "seconds": seconds,
        "rows_per_second": info.passages / seconds,
        "tokens_per_second": info.tokens / seconds,
        "peak_rss_parent_mib": memory.parent / MEBIBYTE,
        "peak_rss_worker_mib": memory.worker / MEBIBYTE,
        "peak_rss_sum_mib": memory.sum / MEBIBYTE,
        "take_tokens_per_second": take_speed(Rows.open(out)),
    }


def take_speed(rows: Any, batch: int = 64) -> float:
    """Random rows out of the memory map, as a data loader draws them; pages are in memory after the first round."""
    import numpy as np

    order = np.random.default_rng(0).permutation(len(rows))[:100_000]
    speed = 0.0
    for _ in range(2):
        began = time.perf_counter()
        tokens = sum(len(rows.take(order[start : start + batch])[0]) for start in range(0, len(order), batch))
        speed = tokens / (time.perf_counter() - began)
    return speed


def train_once(folder: Path) -> Path:
    """One tokenizer for all sizes, so that they differ in size only."""
    from retromae.text.vocabulary import train_tokenizer

    corpus = folder / "sample.jsonl"
    write_corpus(corpus, 5000)
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    train_tokenizer(texts, VOCABULARY, "wordpiece", True).save_pretrained(str(folder / "tokenizer"))
    return folder / "tokenizer"


def run_size(folder: Path, tokenizer: Path, passages: int, workers: int) -> dict[str, Any]:
    corpus = folder / f"{passages}.jsonl"
    write_corpus(corpus, passages)
    parts = [
        sys.executable,
        "-m",
        "benchmarks.prepare",
        "--one",
        corpus,
        folder / f"rows-{passages}",
        tokenizer,
    ]
    command = [*map(str, parts), "--workers", str(workers)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def show(results: list[dict[str, Any]], workers: int) -> None:
    from benchmarks import (
        common,
    )  # imports torch: not at the top, where each spawned worker would load it too

    columns = [
        "passages",
        "MB",
        "rows/s",
        "tokens/s",
        "parent MiB",
        "worker MiB",
        "sum MiB",
        "take M/s",
    ]
    rows = []
    for r in results:
        speeds = (r["megabytes"], r["rows_per_second"], r["tokens_per_second"])
        peaks = (r["peak_rss_parent_mib"], r["peak_rss_worker_mib"], r["peak_rss_sum_mib"])
        figures = (*speeds, *peaks, r["take_tokens_per_second"] / 1e6)
        rows.append([f"{r['passages']:,}", *(f"{figure:,.0f}" for figure in figures)])
    common.print_table(f"prepare, {workers} workers; peak memory is resident", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--one", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.workers)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_once(folder)
        results = [run_size(folder, tokenizer, size, arguments.workers) for size in arguments.sizes]
    show(results, arguments.workers)
    if arguments.json:
        from benchmarks import common

        found = {"workers": arguments.workers, "vocabulary": VOCABULARY, "sizes": results}
        common.write_json(arguments.json, found, seed=0)


if __name__ == "__main__":
    main()
