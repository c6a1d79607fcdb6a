"""What long work will need: hours of a GPU from a speed that somebody measured, and disk.

Nothing is invented. Sizes are counted where the data are here; where they are not, a recipe may state them
(`expected`), and without that they are not known. Without a measured speed there are no hours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from retromae.core.distributed import world_size
from retromae.core.errors import UserError
from retromae.retrieval.opening import model_folder
from retromae.text.layouts import corpus_reader, files_of, read_qrels
from retromae.text.rows import Rows
from retromae.training.finetune_settings import FinetuneConfig

TokensPerSecond = Annotated[
    str | None,
    typer.Option(
        "--tokens_per_second",
        help="with --plan: measured speed of training on one device, a number or a JSON file of "
        "benchmarks/pretrain.py (FILE.json:CASE)",
    ),
]
EncodedPerSecond = Annotated[
    str | None,
    typer.Option("--encoded_per_second", help="with --plan: measured speed of encoding, tokens a second"),
]
UNKNOWN = "not known before the data are here"
_NUMBER = 4  # bytes of a float32, and of a token in rows
_CHECKPOINT = 12  # bytes per parameter: weight and AdamW's two moments
_KEPT = 3  # checkpoints on disk at the moment of writing, two of them kept


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of one device; None: not measured."""

    training: float | None = None
    encoding: float | None = None

    @classmethod
    def read(cls, training: str | None, encoding: str | None) -> Speeds:
        return cls(_speed(training, "--tokens_per_second"), _speed(encoding, "--encoded_per_second"))


def _speed(text: str | None, flag: str) -> float | None:
    """A number, or what benchmarks/pretrain.py measured: FILE.json, with several cases FILE.json:CASE."""
    if text is None:
        return None
    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        value = _from_benchmark(text, flag)
    if not 0 < value < float("inf"):
        raise UserError(f"{flag} is how many tokens a second were measured, above 0, not '{text}'.")
    return value


def _from_benchmark(text: str, flag: str) -> float:
    path, _, case = text.partition(".json")
    file, wanted = Path(f"{path}.json"), case.removeprefix(":")
    try:
        cases = json.loads(file.read_text(encoding="utf-8"))["results"]["cases"]
        speeds = {name: float(found["ours"]["loop_tokens_per_second"]) for name, found in cases.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{flag} is a number, or a JSON file that benchmarks/pretrain.py wrote, not '{text}'."
        ) from None
    if not wanted and len(speeds) == 1:
        return next(iter(speeds.values()))
    if wanted not in speeds:
        raise UserError(f"{flag}: {file} has the cases {'; '.join(speeds)}: name one as {file}:CASE.")
    return speeds[wanted]


@dataclass(frozen=True)
class Need:
    """What a piece of work takes: tokens through training and through encoding alone, bytes that stay on disk.

    None: not known yet. Tokens are at most so many where texts may be shorter than their limit.
    """

    trained: float | None = 0.0
    encoded: float | None = 0.0
    disk: float | None = 0.0

    def __add__(self, other: Need) -> Need:
        return Need(
            *(
                None if mine is None or theirs is None else mine + theirs
                for mine, theirs in zip(
                    (self.trained, self.encoded, self.disk), (other.trained, other.encoded, other.disk)
                )
            )
        )

    def times(self, number: float) -> Need:
        parts = (self.trained, self.encoded, self.disk)
        return Need(*(None if part is None else part * number for part in parts)) if number else Need()

    def hours(self, speeds: Speeds) -> str:
        """In words: GPU hours, or why there are none."""
        total = 0.0
        for tokens, speed in ((self.trained, speeds.training), (self.encoded, speeds.encoding)):
            if tokens is None:
                return UNKNOWN
            if tokens and speed is None:
                return "not measured"
            total += tokens / speed / 3600 if tokens and speed else 0.0
        return f"{total:,.1f} GPU hours" if total else "no GPU"

    def tokens(self) -> str:
        if self.trained is None or self.encoded is None:
            return UNKNOWN
        parts = [(self.trained, "tokens trained"), (self.encoded, "tokens encoded")]
        return ", ".join(f"{large(value)} {what}" for value, what in parts if value) or "no tokens"


def in_words(need: Need, speeds: Speeds) -> str:
    """Tokens and hours, said once where neither is known."""
    tokens, hours = need.tokens(), need.hours(speeds)
    return tokens if tokens == hours else f"{tokens}; {hours}"


def large(value: float) -> str:
    for scale, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.0f}"


def disk(need: Need) -> str:
    return UNKNOWN if need.disk is None else f"{large(need.disk)}B".replace("k", "K")


# -- sizes of things that are here ------------------------------------------------------------------------------


def tokens_of(rows: str) -> float | None:
    """With special tokens."""
    try:
        lengths = Rows.open(rows).lengths
    except UserError:
        return None
    return float(lengths.sum(dtype="int64") + 2 * len(lengths))


def passages_of(folder: str) -> float | None:
    reader = corpus_reader(folder) if Path(folder).is_dir() else None
    return None if reader is None else float(sum(1 for _ in reader()))


def queries_of(folder: str, split: str) -> float | None:
    try:
        return float(len(read_qrels(files_of(Path(folder), split)[2])))
    except (UserError, IndexError):
        return None


def parameters_of(model: str) -> float | None:
    """Of a model that is here, from the size of its weights."""
    try:
        folder = Path(model_folder(model))
    except UserError:
        return None
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors") if "heads" not in file.name]
    return sum(sizes) / _NUMBER if sizes else None


def dimension_of(model: str) -> float | None:
    """Of the vectors of a model that is here, as its configuration says."""
    try:
        config = json.loads((Path(model_folder(model)) / "config.json").read_text(encoding="utf-8"))
        return float(config["hidden_size"])
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def stated(expected: Mapping[str, Any], *names: str) -> float | None:
    """A number that a recipe states, by the names on the way to it."""
    found: Any = expected
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        return None
    try:
        return float(found)
    except (TypeError, ValueError):
        raise UserError(f"expected: {'.'.join(names)} must be a number, not {found!r}.") from None


def first_known(*asked: Callable[[], float | None]) -> float | None:
    """The first answer; what is dear to count is asked last."""
    return next((value for ask in asked if (value := ask()) is not None), None)


# -- what a stage takes -----------------------------------------------------------------------------------------


def product(*factors: float | None) -> float | None:
    total = 1.0
    for factor in factors:
        if factor is None:
            return None
        total *= factor
    return total


def training_disk(parameters: float | None) -> float | None:
    """A run at its fullest: checkpoints to resume from, the model, and the best so far."""
    return product(parameters, _KEPT * _CHECKPOINT + 2 * _NUMBER)


def model_disk(parameters: float | None) -> float | None:
    return product(parameters, _NUMBER)


def rows_disk(tokens: float | None) -> float | None:
    return product(tokens, _NUMBER)


def vectors_disk(passages: float | None, dimension: float | None) -> float | None:
    return product(passages, dimension, _NUMBER)


def finetuning(
    config: FinetuneConfig, queries: float | None, passages: Callable[[], float | None], devices: float
) -> Need:
    """At most: texts may be shorter, and refreshing ends when negatives settle. `passages` are all to mine among."""
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    seen = float(config.max_steps * batch) if config.max_steps is not None else None
    seen = product(queries, config.num_train_epochs) if seen is None else seen * devices
    trained = product(seen, config.query_max_len + config.group_size * config.passage_max_len)
    if config.refresh_every is None:
        return Need(trained=trained)
    if seen is None:
        return Need(trained=trained, encoded=None)
    steps, every = math.ceil(seen / (batch * devices)), config.refresh_every
    times = len(range(every if config.negatives else 0, steps, every))
    texts = product(passages(), config.passage_max_len), product(queries, config.query_max_len)
    encoded = None if None in texts else times * sum(tokens for tokens in texts if tokens is not None)
    return Need(trained=trained, encoded=encoded)


def devices(expected: Mapping[str, Any]) -> float:
    """How many share the work: as this group of processes, or as a recipe says it is run."""
    return stated(expected, "devices") or float(world_size())
