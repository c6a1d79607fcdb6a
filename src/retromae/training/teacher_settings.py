"""The settings of a cross-encoder teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retromae.core.config import setting
from retromae.core.errors import UserError


@dataclass
class TeacherConfig:
    """Settings of `retromae teach`."""

    model_name_or_path: str = setting(
        "", "an encoder to start from, or a cross-encoder to go on with: a folder or hub name"
    )
    pairs: str = setting("", "queries with the passages that answer them: a folder, a file or a hub name")
    output_dir: str = setting("", "run folder to write")
    split: str = setting("train", "part of the pairs to train on")
    negatives: str | None = setting(
        None, "mined negatives (`retromae mine`), or a run in TREC's format; those of the pairs if left out"
    )
    cache: str | None = setting(None, "where texts are kept for random access (default: the user's cache)")
    score: bool = setting(False, "when trained, score all pairs and negatives into output_dir/scores")

    # groups and batches
    loss: Literal["listwise", "binary"] = setting(
        "listwise", "cross-entropy over the group of a query, or of every pair by itself"
    )
    train_group_size: int = setting(8, "passages per query: one positive, the rest negatives")
    negatives_window: int = setting(200, "negatives are drawn from so many best candidates")
    max_seq_length: int | None = setting(
        None, "tokens of query and passage together (default: 192, or what a cross-encoder states)"
    )
    per_device_train_batch_size: int = setting(8, "queries, each with its group, of a batch on one device")
    gradient_accumulation_steps: int = setting(1, "batches per optimiser step on one device")

    # length of the run: whichever comes first
    num_train_epochs: float | None = setting(None, "passes over the queries; 1 if no other end is given")
    max_steps: int | None = setting(None, "optimiser steps")
    minutes: float | None = setting(None, "wall-clock minutes; the learning rate falls with the time")

    # optimiser
    learning_rate: float = setting(2e-5, "peak learning rate")
    weight_decay: float = setting(0.01, "weight decay, not on biases and LayerNorms")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0 turns it off")
    warmup_ratio: float = setting(0.1, "share of the run in which the learning rate rises")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = setting(
        "linear", "how the rate falls after warm-up"
    )
    seed: int = setting(42, "batches, negatives, dropout and a fresh head are pure functions of it")

    # the machine
    attn_implementation: str | None = setting(
        None, "sdpa, eager or flash_attention_2; the best known if left out"
    )
    bf16: bool = setting(False, "bfloat16 mixed precision")
    gradient_checkpointing: bool = setting(False, "recompute activations: less memory, slower")
    batch_tokens: int | None = setting(None, "measuring and scoring: tokens of one batch, padding included")

    # watching
    logging_steps: int = setting(20, "steps between lines in metrics.jsonl and on the screen")
    dev_split: str = setting("dev", "part of the pairs to measure on, with dev_negatives")
    dev_negatives: str | None = setting(
        None, "candidates of the queries of dev_split; if left out, some queries are held out from training"
    )
    eval_queries: int = setting(300, "queries of a measurement, at most; 0 measures nothing")
    eval_depth: int = setting(50, "candidates of each of them that are ordered, besides its answers")
    eval_steps: int | None = setting(
        None, "steps between measurements (default: a fifth of the run; more where it is slow)"
    )
    keep_best: bool = setting(True, "model/ is the best measured checkpoint, not the last")
    early_stopping_patience: int | None = setting(
        None, "stop after so many measurements without a better one"
    )
    save_steps: int = setting(500, "steps between checkpoints to resume from")
    save_total_limit: int = setting(2, "checkpoints that are kept")
    report_to: list[str] = setting([], "tensorboard, trackio, wandb: besides metrics.jsonl")


# What may differ between a run and its continuation: it changes what is shown or kept, not what is computed.
FREE = {
    "batch_tokens",
    "cache",
    "gradient_accumulation_steps",  # free as far as processes × accumulation stays the same, which is checked
    "logging_steps",
    "output_dir",
    "report_to",
    "save_steps",
    "save_total_limit",
    "score",
}


def check(config: TeacherConfig) -> None:
    """Refuse numbers that make no sense, before anything is opened."""
    least = {
        "train_group_size": 2,
        "negatives_window": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
        "eval_steps": 1,
        "eval_depth": 1,
        "logging_steps": 1,
        "save_steps": 1,
        "save_total_limit": 1,
    }
    for name, minimum in least.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise UserError(f"{name} must be at least {minimum}, not {value}.")
    for name in ("minutes", "num_train_epochs"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise UserError(f"{name} must be above 0, not {value}.")
