"""Memory, disk and time that the work will take.

Memory is reckoned from the numbers of the model and the batch (float32, AdamW, no gradient checkpointing); time is
that of the short measured run, scaled up.
"""

from __future__ import annotations

from dataclasses import dataclass

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.doctor.base import SPECIAL, BaseFacts
from retromae.app.doctor.fit import PassageFacts
from retromae.app.doctor.machine import Machine
from retromae.app.doctor.measure import EncodingSpeed, TrainingSpeed
from retromae.models.losses import CHUNK_ROWS
from retromae.retrieval.encoder import CPU_TOKENS, GPU_TOKENS

_NUMBER = 4  # bytes of a float32
_PROCESS = 700 << 20  # Python with torch and transformers, before there is a model
_TRAINED = 16  # bytes per parameter: weight, gradient, and AdamW's two moments
_KEPT = 12  # bytes per parameter in a checkpoint: weight and moments
_CHECKPOINTS = 2
_MODELS = 3  # folders of weights that a run keeps: of each stage and the returned one
_INDEXES = 2  # of the base and of the returned model, each with its vectors beside it
_TEXTS = 4  # times that the passages lie on disk: the corpus, two indexes, the store of pairs


@dataclass(frozen=True)
class MemoryForecast:
    """Peaks, in bytes, of the device that computes."""

    training: int
    """The dearest stage at the planned batch."""
    encoding: int
    available: int

    @property
    def fits(self) -> bool:
        return max(self.training, self.encoding) <= self.available


@dataclass(frozen=True)
class Stage:
    """One pass over all passages."""

    name: str
    step_seconds: float
    pass_seconds: float
    measured: int
    """Steps of the short run."""


@dataclass(frozen=True)
class Forecast:
    batch: int
    """Passages of a training step."""
    memory: MemoryForecast
    disk: int
    """Bytes of a run folder with everything in it."""
    encoding: EncodingSpeed | None
    """None: not measured, for want of memory or passages."""
    encoding_seconds: float
    """For all passages."""
    stages: list[Stage]
    seconds: float
    """Until an end with one pass of every stage, the passages encoded before and after."""
    budget_seconds: float | None
    """What was given."""
    training_share: float | None
    """How many passes of training the budget leaves room for, once the passages are encoded twice."""


def activation_bytes(base: BaseFacts, tokens: int, length: int, *, fused: bool) -> int:
    """What a training step keeps of so many tokens, in texts of `length`, for its way back.

    Per layer and token ten vectors of the hidden size (inputs of the projections, queries, keys and values, the
    attention's output, both LayerNorms, dropout) and two of the feed-forward layer, in float32. Without a `fused`
    kernel for attention with dropout, which processors lack, each head keeps three rows of its matrix too.
    """
    attention = 0 if fused or not base.attention_dropout else 3 * base.heads * length
    return _NUMBER * tokens * base.layers * (10 * base.hidden_size + 2 * base.intermediate_size + attention)


def training_bytes(base: BaseFacts, tokens: int, length: int, *, fused: bool, reconstruction: bool) -> int:
    """The peak of a training step with so many tokens; pre-training has the vocabulary's losses on top."""
    needed = _PROCESS + _TRAINED * base.parameters + activation_bytes(base, tokens, length, fused=fused)
    if reconstruction:
        vocabulary = base.vocabulary * (2 * CHUNK_ROWS + base.hidden_size)  # a chunk of logits, d weight
        needed += _NUMBER * (vocabulary + 4 * tokens * base.hidden_size)
    return needed


def encoding_bytes(base: BaseFacts, tokens: int, passages: int) -> int:
    """The peak of encoding in batches of so many tokens, with the vectors of all passages for a flat search."""
    layer = _NUMBER * tokens * (6 * base.hidden_size + 2 * base.intermediate_size)
    return _PROCESS + _NUMBER * (base.parameters + passages * base.dimension) + layer


def disk_bytes(base: BaseFacts, passages: int, text_bytes: int) -> int:
    vectors = _INDEXES * 2 * _NUMBER * base.dimension * passages
    weights = base.parameters * (_MODELS * _NUMBER + _CHECKPOINTS * _KEPT)
    return vectors + weights + _TEXTS * text_bytes


def memory_forecast(
    base: BaseFacts, passages: PassageFacts, machine: Machine, settings: AdaptConfig, *, reconstruction: bool
) -> MemoryForecast:
    on_gpu = bool(machine.gpus)
    length = passages.longest + SPECIAL
    tokens = settings.per_device_train_batch_size * (length + settings.query_max_len + SPECIAL)
    return MemoryForecast(
        training=training_bytes(base, tokens, length, fused=on_gpu, reconstruction=reconstruction),
        encoding=encoding_bytes(base, GPU_TOKENS if on_gpu else CPU_TOKENS, passages.number),
        available=machine.gpus[0].free if on_gpu else machine.free_memory,
    )


def forecast(
    base: BaseFacts,
    passages: PassageFacts,
    memory: MemoryForecast,
    text_bytes: int,
    settings: AdaptConfig,
    encoding: EncodingSpeed | None,
    training: list[TrainingSpeed],
    minutes: float | None,
) -> Forecast:
    """`text_bytes` of all documents; `training` in the order of the stages."""
    batch = settings.per_device_train_batch_size
    steps = max(1, round(passages.number / batch))
    stages = [
        Stage(speed.stage, step := speed.step_seconds(batch), steps * step, speed.steps) for speed in training
    ]
    encoding_seconds = passages.number * encoding.seconds_per_passage if encoding else 0.0
    one_pass = sum(stage.pass_seconds for stage in stages)
    budget = None if minutes is None else 60 * minutes
    left = None if budget is None else max(0.0, budget - 2 * encoding_seconds)
    return Forecast(
        batch=batch,
        memory=memory,
        disk=disk_bytes(base, passages.number, text_bytes),
        encoding=encoding,
        encoding_seconds=encoding_seconds,
        stages=stages,
        seconds=2 * encoding_seconds + one_pass,
        budget_seconds=budget,
        training_share=None if left is None or not one_pass else left / one_pass,
    )
