"""The settings of a pre-training run, in one flat list with the objective's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from retromae.core.config import from_dict, options, setting, to_dict, unknown_key
from retromae.core.errors import UserError
from retromae.objectives import available, load


@dataclass
class PretrainConfig:
    """Settings of `retromae pretrain`, besides those of the objective."""

    rows: str = setting(
        "", "folder of token rows, from `retromae prepare`, or any datasets folder with token_ids"
    )
    output_dir: str = setting("", "run folder to write")
    model_name_or_path: str | None = setting(
        None, "encoder to start from: a folder or hub name; without it, from scratch"
    )
    objective: str = setting("retromae", "pre-training objective, or a .py file or module that defines one")

    # a model from scratch
    model_type: str = setting("bert", "from scratch: architecture family")
    num_hidden_layers: int = setting(4, "from scratch: layers")
    hidden_size: int = setting(256, "from scratch: hidden size")
    num_attention_heads: int = setting(4, "from scratch: attention heads")
    intermediate_size: int = setting(1024, "from scratch: size of the feed-forward layer")

    # batches
    max_seq_length: int = setting(512, "tokens of a row with its special tokens; longer rows are cut")
    per_device_train_batch_size: int = setting(32, "rows of a batch on one device, on average")
    tokens_per_batch: int | None = setting(
        None, "token budget of a batch on one device, padding included; overrides per_device_train_batch_size"
    )
    gradient_accumulation_steps: int = setting(1, "batches per optimiser step on one device")
    chunk_tokens: int = setting(
        0,
        "tokens of one forward pass, padding included: a batch goes through in such chunks, in the memory of one, "
        "to the same result; 0: whole",
    )
    pad_to_multiple_of: int | None = setting(None, "round lengths up to this; default 8 on a GPU, 1 on a CPU")
    dataloader_num_workers: int = setting(1, "processes that read rows; 0 reads in the training process")

    # length of the run: whichever comes first
    num_train_epochs: int | None = setting(None, "passes over the rows; 8 if no other end is given")
    max_steps: int | None = setting(None, "optimiser steps")
    minutes: float | None = setting(None, "wall-clock minutes; the learning rate falls with the time")

    # optimiser
    learning_rate: float = setting(1e-4, "peak learning rate")
    weight_decay: float = setting(0.01, "weight decay, not on biases and LayerNorms")
    adam_beta1: float = setting(0.9, "AdamW's first beta")
    adam_beta2: float = setting(0.999, "AdamW's second beta")
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0 turns it off")
    warmup_ratio: float = setting(0.1, "share of the run in which the learning rate rises")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = setting(
        "linear", "how the rate falls after warm-up"
    )
    seed: int = setting(42, "masks, batches, dropout and fresh weights are pure functions of it")

    # the machine
    dropout: float | None = setting(None, "replaces every dropout of the model; its own if left out")
    attn_implementation: str | None = setting(
        None, "sdpa, eager or flash_attention_2; the best known if left out"
    )
    bf16: bool = setting(False, "bfloat16 mixed precision")
    gradient_checkpointing: bool = setting(
        False, "recompute activations instead of keeping them: less memory, slower"
    )
    torch_compile: bool = setting(
        False, "compile layers and losses: a slower start, faster steps (for a GPU)"
    )

    # watching
    logging_steps: int = setting(50, "steps between lines in metrics.jsonl and on the screen")
    eval_steps: int = setting(500, "steps between measurements on held-out rows")
    save_steps: int = setting(1000, "steps between checkpoints to resume from")
    save_total_limit: int = setting(2, "checkpoints that are kept")
    holdout: float | None = setting(
        None, "share of the documents that may be held out; 0 turns measuring off; by default 2 to 10 percent"
    )
    eval_rows: int = setting(
        1000, "documents are held out until there are so many rows, at most `holdout` of all"
    )
    probe_queries: int = setting(300, "queries of the retrieval probe; 0 turns it off")
    keep_best: bool = setting(True, "model/ is the checkpoint with the best retrieval probe, not the last")
    early_stopping_patience: int | None = setting(
        None, "stop after so many measurements without a better probe"
    )
    report_to: list[str] = setting(
        [], "tensorboard, trackio, wandb: besides metrics.jsonl, which is always written"
    )


# What may differ between a run and its continuation: it changes what is shown or kept, not what is computed.
FREE = {
    "dataloader_num_workers",
    "gradient_accumulation_steps",  # free as far as processes × accumulation stays the same, which is checked
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "output_dir",
}


def free_settings(config: PretrainConfig) -> set[str]:
    """FREE, and without dropout, which is drawn for every forward pass, how a batch is cut into those."""
    return FREE | {"chunk_tokens"} if config.dropout == 0.0 else FREE


def with_objective(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings of one objective turned to another: what only the old one knows is dropped."""
    old = {option.name for option in options(load(str(values.get("objective") or "retromae")).Config)}
    dropped = old - {option.name for option in options(load(name).Config)}
    return {key: value for key, value in values.items() if key not in dropped} | {"objective": name}


@dataclass
class Resolved:
    """Both halves of the settings of a run."""

    run: PretrainConfig
    objective: Any  # the objective's own Config

    def flat(self) -> dict[str, Any]:
        return {**to_dict(self.run), **to_dict(self.objective)}


def resolve(values: Mapping[str, Any], where: str = "settings") -> Resolved:
    """Split one flat mapping between the run and its objective; a key that belongs to neither fails."""
    general = {option.name for option in options(PretrainConfig)}
    name = str(values.get("objective") or "retromae")
    own = load(name).Config
    own_names = {option.name for option in options(own)}
    clash = general & own_names
    if clash:
        raise UserError(
            f"The objective '{name}' uses names that pretrain has already: {', '.join(sorted(clash))}."
        )
    for key in values:
        if key in general or key in own_names:
            continue
        others = [other for other in available() if key in {o.name for o in options(load(other).Config)}]
        if others:
            raise UserError(
                f"{where}: '{key}' belongs to {', '.join(others)}, but the objective is '{name}'."
            )
        raise unknown_key(key, general | own_names, where)
    return Resolved(
        from_dict(PretrainConfig, {k: v for k, v in values.items() if k in general}, where),
        from_dict(own, {k: v for k, v in values.items() if k in own_names}, where),
    )
