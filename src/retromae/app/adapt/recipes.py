"""The settings of the trainings that `adapt` does, as `retromae prepare`, `pretrain` and `finetune` have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from retromae.app.adapt.plan import Plan
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.adapt.start import SPECIAL, lengths, pooling_to_state
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.opening import model_folder
from retromae.text.prepare import PrepareConfig
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.settings import Resolved, resolve

_SHORT = 300.0  # seconds of a training: in a shorter one measuring must not take the time away
_TINY = 60.0
_EPOCHS = 3.0  # of training on pairs, at most
_HEAD_WIDTH = 64  # of a model from nothing
_SCRATCH_RATE = 5e-4
WINDOW = 30  # of mined negatives, from which one is drawn for each query


def tokenizer_of(config: AdaptConfig, run: Path) -> str:
    """The base's, or the one that was made of the text."""
    return model_folder(config.model_name_or_path) if config.model_name_or_path else str(run / "tokenizer")


def rows(config: AdaptConfig, plan: Plan, run: Path) -> PrepareConfig:
    """Token rows of the corpus, without what asks."""
    return PrepareConfig(
        sources=[str(run / "corpus" / "corpus.jsonl")],
        out=str(run / "rows"),
        tokenizer=tokenizer_of(config, run),
        max_tokens=plan.passage_max_len,
        workers=1,
    )


def pretraining(config: AdaptConfig, plan: Plan, run: Path, folder: Path) -> Resolved:
    values: dict[str, Any] = {
        "rows": str(run / "rows"),
        "output_dir": str(folder),
        "objective": plan.objective,
        "minutes": plan.pretrain_seconds / 60,
        "max_seq_length": plan.passage_max_len + SPECIAL,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "dataloader_num_workers": 0,
        "seed": config.seed,
        "bf16": has_bf16(),
        "logging_steps": 10,
        "eval_steps": 200,
    }
    if plan.pretrain_seconds < _SHORT:
        values |= {"eval_rows": 64, "probe_queries": 64, "eval_steps": 1_000_000, "logging_steps": 2}
    if plan.pretrain_seconds < _TINY:
        values["holdout"] = 0
    if config.model_name_or_path:
        values["model_name_or_path"] = model_folder(config.model_name_or_path)
    else:
        values |= {
            "num_hidden_layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "num_attention_heads": max(1, config.hidden_size // _HEAD_WIDTH),
            "intermediate_size": 4 * config.hidden_size,
            "learning_rate": _SCRATCH_RATE,
        }
    return resolve(values)


def on_pairs(
    config: AdaptConfig,
    plan: Plan,
    run: Path,
    folder: Path,
    start: str,
    seconds: float,
    negatives: Path | None,
) -> FinetuneConfig:
    """A training on pairs. RetroMAE rides along in the first, where the model has been pre-trained for it."""
    pooling = pooling_to_state(start)
    query, passage = lengths(Encoder.open(start, pooling=pooling), config)
    rebuilds = negatives is None and plan.kind != "embedder" and plan.objective in ("retromae", "dupmae")
    more: dict[str, Any] = {"reconstruction": plan.objective} if rebuilds else {}
    if negatives is not None:
        more |= {"negatives": str(negatives), "negatives_window": WINDOW, "train_group_size": 2}
    return FinetuneConfig(
        model_name_or_path=start,
        pairs=str(run / "corpus"),
        output_dir=str(folder),
        cache=str(run / "pairs"),
        pooling=pooling,
        query_max_len=query,
        passage_max_len=passage,
        per_device_train_batch_size=config.per_device_train_batch_size,
        learning_rate=plan.learning_rate,
        num_train_epochs=_EPOCHS,
        minutes=seconds / 60,
        seed=config.seed,
        bf16=has_bf16(),
        eval_queries=0,
        logging_steps=5 if seconds < _SHORT else 20,
        save_steps=25 if seconds < _SHORT else 200,
        **more,
    )


def has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
