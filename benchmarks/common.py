"""What every benchmark needs: machine, timing, memory, made-up rows, operation counts, tables and files."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from retromae.core import files
from retromae.core.errors import UserError

ORDINARY = 5  # ids below this are special tokens in the made-up vocabulary (pad, unk, cls, sep, mask)
CONTINUES = 5  # every fifth id of the made-up vocabulary continues a word


# --- the command line -------------------------------------------------------------------------------------


def script(main: Callable[[], None]) -> None:
    """Run a benchmark's `main`; what is wrong with its input is said in a sentence, exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def case_arguments(description: str | None, cases: Iterable[str], *, rounds: int) -> argparse.ArgumentParser:
    """What benchmarks take that go through cases: which ones, how often, quickly, and where to."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", choices=list(cases), help="cases to run instead of the usual"
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--batches", type=int, default=2, help="batches of a round")
    parser.add_argument(
        "--quick", action="store_true", help="the first case with few rows, to see that it works"
    )
    parser.add_argument("--json", help="file to write")
    return parser


# --- the machine -----------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What a reader must know to judge a figure: hardware, versions, threads, date."""
    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# --- time ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, in the order they ran, with their median and range."""

    median: float
    low: float
    high: float
    seconds: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Range as a share of the median."""
        return (self.high - self.low) / self.median


def _seconds(fn: Callable[[], object]) -> float:
    """Wall time of one call; work queued on a GPU is waited for before and after."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    fn()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(sides: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, Timing]:
    """Time the sides in turn, so that a machine that slows down slows all of them; every other round runs in
    the opposite order. The warm-up rounds are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(warmup + repeats):
        names = list(sides) if round_number % 2 == 0 else list(sides)[::-1]
        for name in names:
            elapsed = _seconds(sides[name])
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return {
        name: Timing(statistics.median(all_), min(all_), max(all_), tuple(all_))
        for name, all_ in seconds.items()
    }


def median_of(fn: Callable[[], object], repeats: int, warmup: int = 1) -> Timing:
    return alternate({"only": fn}, repeats, warmup)["only"]


def matmul_peak(
    dtype: torch.dtype, device: torch.device | str = "cpu", repeats: int = 10, size: int | None = None
) -> float:
    """GFLOP/s of the fastest of some large square matrix products: what this machine reaches in practice."""
    size = size or (8192 if torch.device(device).type == "cuda" else 2048)
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty(size, size, dtype=dtype, device=device)
    timing = median_of(lambda: torch.mm(left, right, out=out), repeats, warmup=2)
    return 2 * size**3 / timing.low / 1e9


# --- memory ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """Bytes resident in a process before the measured call and at most during it."""

    before: int
    peak: int

    @property
    def added(self) -> int:
        return self.peak - self.before


def peak_memory_cpu(fn: Callable[..., object], *args: object) -> PeakMemory:
    """Peak resident memory of `fn(*args)` in a fresh process with as many threads as this one.

    `fn` must be importable (a module's function) and its arguments picklable. The kernel's high-water mark of
    the process is read, not `ru_maxrss`, which a child may inherit from its parent; nothing is sampled.
    """
    if not Path("/proc/self/status").exists():
        raise UserError("peak CPU memory is read from /proc, which this system lacks: measure it on Linux")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(sender, torch.get_num_threads(), fn, args))
    process.start()
    sender.close()  # so that a child that dies ends the wait below
    try:
        before, peak = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that measured {fn.__name__} ended with exit code {process.exitcode} "
            "(-9: the system ran out of memory)"
        ) from None
    process.join()
    return PeakMemory(before, peak)


def _report_peak(sender: Connection, threads: int, fn: Callable[..., object], args: Sequence[object]) -> None:
    torch.set_num_threads(threads)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status_bytes("VmRSS")
    fn(*args)
    sender.send((before, _status_bytes("VmHWM")))


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise UserError(f"/proc/self/status has no line {field}: measure memory on a Linux kernel that writes it")


def peak_memory_cuda(fn: Callable[[], object]) -> PeakMemory:
    """Memory of tensors on the current GPU before `fn()` and at most during it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fn()
    torch.cuda.synchronize()
    return PeakMemory(before, torch.cuda.max_memory_allocated())


# --- made-up rows ----------------------------------------------------------------------------------------
# A length counts [CLS] and [SEP]; a row holds the ordinary ids only, so it is two shorter.


def msmarco_like(n: int, seed: int) -> NDArray[np.int64]:
    """Lengths like MS MARCO's passages cut at 150 tokens: mean 78, skewed to the right, 16 to 150."""
    lengths = np.random.default_rng(seed).gamma(shape=5.5, scale=14.3, size=n)
    return np.clip(np.rint(lengths), 16, 150).astype(np.int64)


def mixed(n: int, seed: int) -> NDArray[np.int64]:
    """Lengths drawn evenly from 16 to 512."""
    return np.random.default_rng(seed).integers(16, 512, size=n, endpoint=True)


def blocks(n: int, length: int = 512) -> NDArray[np.int64]:
    return np.full(n, length, dtype=np.int64)


def random_rows(lengths: Sequence[int] | NDArray[np.int64], vocab: int, seed: int) -> list[list[int]]:
    """Rows of ordinary ids of the made-up vocabulary, frequent ones first (Zipf–Mandelbrot)."""
    sizes = np.asarray(lengths) - 2
    frequency = 1.0 / (np.arange(vocab - ORDINARY) + 2.7)
    cumulative = np.cumsum(frequency) / frequency.sum()
    draws = np.random.default_rng(seed).random(int(sizes.sum()))
    ids = np.minimum(np.searchsorted(cumulative, draws), vocab - ORDINARY - 1) + ORDINARY
    return [row.tolist() for row in np.split(ids, np.cumsum(sizes)[:-1])]


def word_starts(vocab: int) -> NDArray[np.bool_]:
    """Which ids of the made-up vocabulary begin a word: all but every fifth."""
    starts: NDArray[np.bool_] = np.arange(vocab) % CONTINUES != CONTINUES - 1
    return starts


# --- operations ------------------------------------------------------------------------------------------


class BertShape(Protocol):
    """The part of a BERT-like configuration that operations are counted from."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    vocab_size: int


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one step (forward and backward), by part."""

    encoder_layers: float
    encoder_attention: float
    encoder_head: float
    decoder_layer: float
    decoder_attention: float
    decoder_head: float

    @property
    def total(self) -> float:
        return float(sum(dataclasses.astuple(self)))


def flops_per_step(
    config: BertShape,
    lengths: Sequence[int] | NDArray[np.int64],
    encoder_share: float = 0.3,
    *,
    textbook: bool = False,
) -> StepFlops:
    """Matrix-product operations of a RetroMAE step with enhanced decoding; backward costs twice forward.

    Counted is what the equations need, whatever an implementation wastes: no padding, encoder logits for
    `encoder_share` of the ordinary tokens, decoder queries and logits for the ordinary tokens, decoder keys
    and values for all. With `textbook` it is what `textbook.py` executes instead: rows padded to the longest,
    encoder logits for all L positions, decoder queries for L and logits for L - 1.
    """
    real = np.asarray(lengths, dtype=np.float64)
    size = np.full_like(real, real.max()) if textbook else real
    tokens = size.sum()
    ordinary = (size - 2).sum()
    queries = size if textbook else size - 2
    hidden, wide = config.hidden_size, config.intermediate_size
    square, feed_forward = 2 * hidden**2, 4 * hidden * wide  # per token: one d × d product; both FFN products
    head = square + 2 * hidden * config.vocab_size  # per row of logits: transform and vocabulary
    encoder_rows = tokens if textbook else encoder_share * ordinary
    decoder_rows = tokens - len(size) if textbook else ordinary
    return StepFlops(
        encoder_layers=3 * config.num_hidden_layers * tokens * (4 * square + feed_forward),
        encoder_attention=3 * config.num_hidden_layers * 4 * hidden * float((size**2).sum()),
        encoder_head=3 * encoder_rows * head,
        decoder_layer=3 * (tokens * 2 * square + queries.sum() * (2 * square + feed_forward)),
        decoder_attention=3 * 4 * hidden * float((queries * size).sum()),
        decoder_head=3 * decoder_rows * head,
    )


# --- tables and files ------------------------------------------------------------------------------------


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print to standard output; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def write_json(path: str | Path, results: Mapping[str, object], *, seed: int) -> None:
    """Write results with what is needed to get them again: command, seed, machine and date."""
    spec = sys.modules["__main__"].__spec__
    command = shlex.join(["python", *(["-m", spec.name] if spec else sys.argv[:1]), *sys.argv[1:]])
    document = {"command": command, "seed": seed, "machine": machine(), "results": _plain(results)}
    files.write_json(path, document)


def _plain(value: object) -> object:
    """Dataclasses and NumPy values, nested as they come → what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value
