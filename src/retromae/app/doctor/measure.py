"""How fast the base is on this machine: a few real batches of real passages, in seconds.

Encoding goes the way of `index`, a contrastive step the way of `finetune`, a reconstructing one the way of `pretrain`.
Sizes start small and grow while a step is quick, so that a large model on a slow machine is measured as well. What
is learned is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.doctor.base import OpenBase
from retromae.app.doctor.fit import Sample
from retromae.models.checkpoint import open_checkpoint
from retromae.objectives import Batch, Vocabulary
from retromae.objectives.retromae import RetroMAE, RetroMAEConfig
from retromae.training.batches import Padding, pad
from retromae.training.contrast import GroupLoss, Part
from retromae.training.student import CPU_TOKENS, GPU_TOKENS

CONTRASTIVE, RECONSTRUCTION = "training on pairs", "pre-training (RetroMAE)"
_QUICK = 0.4  # seconds: a step below is made twice as large
_LEAST = 2  # measurements: the first of all pays for starting up
_MOST_ENCODED = 512
_WORDS_PER_TOKEN = 0.75  # of a query that is cut out of a passage

Step = Callable[[Sequence[Sample]], tuple[Tensor, int]]  # passages → (loss, tokens with padding left out)


@dataclass(frozen=True)
class EncodingSpeed:
    seconds_per_passage: float
    batches: int
    """That were measured."""


@dataclass(frozen=True)
class TrainingSpeed:
    """A step's time is that of its tokens, forth and back, and that of the optimiser."""

    stage: str
    seconds_per_token: float
    optimiser_seconds: float
    tokens_per_passage: float
    """With its query and special tokens, where there are some."""
    steps: int
    """That were measured."""

    def step_seconds(self, passages: int) -> float:
        return self.seconds_per_token * self.tokens_per_passage * passages + self.optimiser_seconds


def encoding_speed(base: OpenBase, samples: Sequence[Sample], seconds: float) -> EncodingSpeed:
    stream, encoder = cycle(samples), base.encoder
    measured: list[tuple[int, float]] = []
    size, until = 2, time.perf_counter() + seconds
    while len(measured) < _LEAST or time.perf_counter() < until:
        some = list(islice(stream, size))
        began = time.perf_counter()
        encoder.encode_passages([sample.text for sample in some], [sample.title for sample in some])
        took = time.perf_counter() - began
        measured.append((size, took / size))
        if took < _QUICK and size < _MOST_ENCODED:
            size *= 2
    return EncodingSpeed(median(_of_the_largest(measured)), len(measured) - 1)


def _of_the_largest(measured: Sequence[tuple[int, float]]) -> list[float]:
    """The measurements of the largest batches, without the first of all."""
    counted = measured[1:]
    largest = max(size for size, _ in counted)
    return [value for size, value in counted if 2 * size >= largest]


def contrastive_speed(
    base: OpenBase, samples: Sequence[Sample], settings: AdaptConfig, seconds: float
) -> TrainingSpeed:
    """Steps in which beginnings of passages look for their ends, each against the others of its batch."""
    model = base.encoder.model
    on_host = model.device.type == "cpu"
    loss = GroupLoss(
        model,
        [Part("contrastive", 1.0, MultipleNegativesRankingLoss(model))],
        chunk_tokens=CPU_TOKENS if on_host else GPU_TOKENS,
    )
    words = max(1, round(settings.query_max_len * _WORDS_PER_TOKEN))

    def step(some: Sequence[Sample]) -> tuple[Tensor, int]:
        before = loss.tokens_seen
        queries = [" ".join(sample.text.split()[:words]) for sample in some]
        passages = [f"{sample.title} {sample.text}" if sample.title else sample.text for sample in some]
        columns = [_features(model, queries, "query"), _features(model, passages, "document")]
        parts = loss(columns, None)
        return torch.stack(list(parts.values())).sum(), loss.tokens_seen - before

    try:
        return _training_speed(CONTRASTIVE, loss, step, samples, settings, seconds)
    finally:
        model.eval()
        model.zero_grad(set_to_none=True)


def _features(model: SentenceTransformer, texts: list[str], task: str) -> dict[str, Tensor]:
    features = model.preprocess(texts, task=task)
    return {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in features.items()
    }


def reconstruction_speed(
    base: OpenBase, samples: Sequence[Sample], settings: AdaptConfig, seconds: float
) -> TrainingSpeed:
    start = open_checkpoint(base.folder)
    tokenizer = start.tokenizer
    vocabulary = Vocabulary.of(tokenizer, start.backbone)
    objective = RetroMAE(start.backbone, RetroMAEConfig(), vocabulary, settings.seed)
    device = base.encoder.model.device
    objective.to(device)
    longest = min(settings.passage_max_len + 2, start.backbone.max_length)
    padding = Padding(
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.pad_token_id,
        longest,
        1 if device.type == "cpu" else 8,
    )

    def step(some: Sequence[Sample]) -> tuple[Tensor, int]:
        lengths = np.array([len(sample.ids) for sample in some])
        token_ids, mask = pad(np.concatenate([sample.ids for sample in some]), lengths, padding)
        rows = torch.arange(len(some))
        batch = Batch(torch.from_numpy(token_ids), torch.from_numpy(mask), rows, torch.zeros_like(rows))
        return objective(batch.to(device))["loss"], int(mask.sum())

    return _training_speed(RECONSTRUCTION, objective, step, samples, settings, seconds)


def _training_speed(
    stage: str,
    module: nn.Module,
    step: Step,
    samples: Sequence[Sample],
    settings: AdaptConfig,
    seconds: float,
) -> TrainingSpeed:
    stream = cycle(samples)
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-6, fused=True)
    device = next(module.parameters()).device
    per_token: list[tuple[int, float]] = []
    of_optimiser: list[float] = []
    texts = tokens = 0
    size, until = 2, time.perf_counter() + seconds
    while len(per_token) < _LEAST or time.perf_counter() < until:
        began = _now(device)
        loss, in_step = step(list(islice(stream, size)))
        loss.backward()  # type: ignore[no-untyped-call]
        turned = _now(device)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ended = _now(device)
        per_token.append((size, (turned - began) / in_step))
        of_optimiser.append(ended - turned)
        texts, tokens = texts + size, tokens + in_step
        if ended - began < _QUICK and size < settings.per_device_train_batch_size:
            size *= 2
    return TrainingSpeed(
        stage=stage,
        seconds_per_token=median(_of_the_largest(per_token)),
        optimiser_seconds=median(of_optimiser[1:]),
        tokens_per_passage=tokens / texts,
        steps=len(per_token) - 1,
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
