"""Small real comparisons: invented passages, a model of two layers from scratch, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from training.finetuning import write_collection


def values(folder: Path, **more: Any) -> dict[str, Any]:
    """Two objectives, two seeds, two tests. `folder` holds the data and the comparison."""
    data = folder / "data"
    if not data.is_dir():
        write_collection(data)
        write_collection(folder / "other", passages=30)
    return {
        "output_dir": str(folder / "out"),
        "prepare": {"sources": [str(data)], "train_tokenizer": 200, "max_tokens": 30, "workers": 1},
        "start": {
            "num_hidden_layers": 2,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "pretrain": {
            "max_seq_length": 32,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "eval_steps": 3,
            "save_steps": 100,
            "holdout": 0.3,
            "probe_queries": 10,
            "dataloader_num_workers": 0,
        },
        "finetune": {
            "pairs": str(data),
            "query_max_len": 12,
            "passage_max_len": 32,
            "per_device_train_batch_size": 6,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "eval_queries": 0,
            "save_steps": 100,
        },
        "tests": [
            {"beir": str(data), "metrics": ["nDCG@10", "RR@10"]},
            {"beir": str(folder / "other"), "zero_shot": True},
        ],
        "objectives": ["mlm", {"name": "basic", "objective": "retromae", "decoder": "basic"}],
        "seeds": 2,
        "budget": "6-steps",
        **more,
    }


def write(folder: Path, save_steps: int | None = None, **more: Any) -> Path:
    """The file; with `save_steps` every training leaves checkpoints."""
    path = folder / "comparison.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    found = values(folder, **more)
    for section in ("pretrain", "finetune"):
        if save_steps is not None:
            found[section]["save_steps"] = save_steps
    path.write_text(yaml.safe_dump(found), encoding="utf-8")
    return path
