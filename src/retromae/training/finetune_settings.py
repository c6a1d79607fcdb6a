"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.training.distil import Distillation


@dataclass
class FinetuneConfig:
    """Settings of `retromae finetune`."""

    model_name_or_path: str = setting("", "model to start from: a run folder, a model's folder or a hub name")
    pairs: str = setting("", "queries with the passages that answer them: a folder, a file or a hub name")
    output_dir: str = setting("", "run folder to write")
    split: str = setting("train", "part of the pairs to train on")
    cache: str | None = setting(None, "where texts are kept for random access (default: the user's cache)")

    # what is compared
    similarity: Literal["dot", "cosine"] | None = setting(
        None, "how vectors are compared (default: as the model states; ours state dot)"
    )
    temperature: float | None = setting(
        None, "scores are divided by it in the loss (default: 1 for dot, 0.05 for cosine)"
    )
    pooling: Literal["cls", "mean"] | None = setting(None, "pooling, for a model that states none or another")
    query_max_len: int = setting(32, "tokens of a query")
    passage_max_len: int = setting(148, "tokens of a passage, title included")
    matryoshka_dims: list[int] = setting([], "also train the leading so many dimensions, each like the whole")
    lexical_terms: int | None = setting(
        None, "train DupMAE's lexical half with the dense one; a passage keeps so many terms (paper: 384)"
    )
    dense_dimension: int | None = setting(
        None, "with lexical_terms: reduce the dense half to so many dimensions, by PCA at first (paper: 384)"
    )

    # negatives
    negatives: str | None = setting(None, "mined negatives (`retromae mine`), or a run in TREC's format")
    train_group_size: int | None = setting(
        None,
        "passages per query: one positive, the rest negatives, random ones where there are too few "
        "(default: 8 with negatives, else 1)",
    )
    negatives_window: int = setting(200, "negatives are drawn from so many best candidates")
    share_negatives: bool = setting(True, "with several processes: every query sees the passages of all")
    refresh_every: int | None = setting(
        None,
        "mine anew with the current weights every so many steps (ANCE); without given negatives at the start too",
    )
    refresh_depth: int = setting(200, "refreshing: how deep to mine")
    refresh_until: float = setting(
        0.05, "refreshing stops when less than this share of the negatives is new; 0 never stops"
    )
    absolute_margin: float | None = setting(
        None, "refreshing: drop candidates that score above the positive minus this"
    )
    relative_margin: float | None = setting(
        None, "refreshing: drop candidates above the positive's score minus this share of its size"
    )

    # a teacher
    teacher: str | None = setting(
        None,
        "distil this cross-encoder (`retromae teach`); `pairs` takes the scores that came with the pairs",
    )
    distillation: Distillation = setting(
        "kl", "loss against the teacher: kl, margin_mse, or kl_unscaled (as the published codes)"
    )
    student_temperature: float = setting(1.0, "distillation: the student's scores are divided by it")
    teacher_temperature: float = setting(1.0, "distillation: the teacher's scores are divided by it")
    distillation_weight: float = setting(1.0, "weight of the loss against the teacher")
    contrastive_weight: float = setting(1.0, "weight of the contrastive loss beside another")

    # RetroMAE at the same time (the unified framework's second stage)
    reconstruction: Literal["none", "mlm", "retromae", "dupmae"] = setting(
        "none", "also rebuild the texts from their vectors, in the same encoder pass"
    )
    reconstruction_weight: float = setting(1.0, "weight of that loss")
    reconstruction_clean: bool = setting(
        False, "compare vectors of the unmasked texts, at the price of a second encoder pass"
    )
    reconstruct_queries: bool = setting(False, "rebuild queries too (for pairs of like sentences)")

    # batches
    per_device_train_batch_size: int = setting(32, "queries of a batch on one device")
    gradient_accumulation_steps: int = setting(1, "batches per optimiser step on one device")
    grad_cache: bool = setting(
        False, "gradient caching: any batch size in the memory of one chunk, for a third more time"
    )
    chunk_tokens: int | None = setting(
        None, "tokens of one forward pass, padding included (default: 1024 on a CPU, 65536 on a GPU)"
    )

    # length of the run and optimiser
    num_train_epochs: float = setting(3.0, "passes over the queries")
    max_steps: int | None = setting(None, "optimiser steps; overrides num_train_epochs")
    minutes: float | None = setting(
        None, "wall-clock minutes, if they are over first; the learning rate falls with the time"
    )
    learning_rate: float = setting(2e-5, "peak learning rate")
    weight_decay: float = setting(0.01, "weight decay, not on biases and LayerNorms")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0 turns it off")
    warmup_ratio: float = setting(0.1, "share of the run in which the learning rate rises")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = setting(
        "linear", "how the rate falls after warm-up"
    )
    seed: int = setting(42, "batches, negatives, dropout and fresh weights are pure functions of it")

    # the machine
    dropout: float | None = setting(None, "replaces every dropout of the model; its own if left out")
    bf16: bool = setting(False, "bfloat16 mixed precision")
    gradient_checkpointing: bool = setting(False, "recompute activations: less memory, slower")
    dataloader_num_workers: int = setting(0, "processes that tokenise; 0 does it in the training process")

    # watching
    logging_steps: int = setting(20, "steps between lines in metrics.jsonl and on the screen")
    eval_split: str = setting("dev", "part of the pairs to measure retrieval on while training")
    eval_steps: int | None = setting(
        None, "steps between measurements (default: a tenth of the run; more where it is slow)"
    )
    eval_queries: int = setting(500, "queries of a measurement, at most; 0 measures nothing")
    eval_passages: int = setting(
        5_000, "passages searched in a measurement: the judged ones, BM25's best, and random ones"
    )
    eval_metric: str = setting("nDCG@10", "what the best checkpoint is chosen by")
    keep_best: bool = setting(True, "model/ is the best measured checkpoint, not the last")
    early_stopping_patience: int | None = setting(
        None, "stop after so many measurements without a better one"
    )
    save_steps: int = setting(500, "steps between checkpoints to resume from")
    save_total_limit: int = setting(2, "checkpoints that are kept")
    report_to: list[str] = setting([], "tensorboard, trackio, wandb: besides metrics.jsonl")

    @property
    def group_size(self) -> int:
        if self.train_group_size is not None:
            return self.train_group_size
        return 8 if self.negatives or self.refresh_every or self.teacher else 1


FREE = {
    "cache",
    "chunk_tokens",
    "dataloader_num_workers",
    "gradient_accumulation_steps",
    "logging_steps",
    "output_dir",
    "per_device_train_batch_size",  # free as far as the queries of a step stay as many, which is checked
    "report_to",
    "save_steps",
    "save_total_limit",
}


_LEAST = {
    "train_group_size": 1,
    "negatives_window": 1,
    "refresh_every": 1,
    "refresh_depth": 1,
    "distillation_weight": 0,
    "contrastive_weight": 0,
    "reconstruction_weight": 0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "chunk_tokens": 1,
    "max_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "dataloader_num_workers": 0,
    "logging_steps": 1,
    "eval_steps": 1,
    "eval_queries": 0,
    "eval_passages": 1,
    "early_stopping_patience": 1,
    "save_steps": 1,
    "save_total_limit": 1,
}
_ABOVE_ZERO = ("temperature", "student_temperature", "teacher_temperature", "num_train_epochs", "minutes")
_SHARES = ("refresh_until", "warmup_ratio")


def check(config: FinetuneConfig) -> None:
    """Refuse settings that contradict each other, before anything is opened."""

    def refuse(wrong: Any, sentence: str) -> None:
        if wrong:
            raise UserError(sentence)

    _check_numbers(config)
    sources = bool(config.negatives or config.refresh_every or config.teacher)
    refuse(
        config.train_group_size == 1 and sources,
        "train_group_size is 1, which leaves no room for the negatives that are given; raise it.",
    )
    refuse(
        config.teacher and config.refresh_every,
        "a teacher's scores are of fixed candidates: leave out refresh_every or teacher.",
    )
    refuse(
        config.dense_dimension is not None and config.lexical_terms is None,
        "dense_dimension reduces the dense half beside a lexical one: give lexical_terms too.",
    )
    refuse(
        config.matryoshka_dims and config.lexical_terms is not None,
        "matryoshka_dims cuts dense vectors and cannot be combined with lexical_terms.",
    )
    refuse(
        config.lexical_terms is not None and config.similarity == "cosine",
        "DupMAE's two halves are added up, which only the dot product does; leave similarity out.",
    )
    refuse(
        config.reconstruction != "none" and (config.lexical_terms is not None or config.pooling == "mean"),
        "reconstruction works with the dense [CLS] vector; leave lexical_terms and pooling out.",
    )
    refuse(
        config.reconstruction == "none" and (config.reconstruction_clean or config.reconstruct_queries),
        "reconstruction_clean and reconstruct_queries say how texts are rebuilt: give reconstruction too.",
    )
    refuse(
        config.refresh_every is None and (config.absolute_margin, config.relative_margin) != (None, None),
        "absolute_margin and relative_margin are rules of mining: give refresh_every too, or mine with them.",
    )
    refuse(
        config.early_stopping_patience is not None and not config.eval_queries,
        "early_stopping_patience needs measurements: leave eval_queries above 0.",
    )


def _check_numbers(config: FinetuneConfig) -> None:
    """Refuse numbers that make no sense."""
    for name, minimum in _LEAST.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise UserError(f"{name} must be at least {minimum}, not {value}.")
    for name in _ABOVE_ZERO:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise UserError(f"{name} must be above 0, not {value}.")
    for name in _SHARES:
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} is a share, from 0 to 1, not {getattr(config, name)}.")
