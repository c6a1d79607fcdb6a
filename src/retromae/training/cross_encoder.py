"""Cross-encoders: opened from anything, told apart by what they compute, and run over many pairs of texts.

A cross-encoder reads query and passage together and gives one number, the logit. The forward pass is
sentence-transformers' own, so logits equal those of `CrossEncoder.predict` with an identity for its activation; what
differs is how texts are tokenised and batched.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from torch import nn
from transformers import PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.core.packing import by_length, pad
from retromae.models.loading import find_file, opening, read_config
from retromae.retrieval.encoder import CPU_TOKENS, GPU_TOKENS
from retromae.retrieval.opening import fingerprint, model_folder
from retromae.text.pairs import Pairs

Scores = NDArray[np.float32]
FRESH_LENGTH = 192  # a query of 32 tokens, a passage of 148 and what stands between
_CONFIG = "config_sentence_transformers.json"


def open_cross_encoder(
    source: str | Path,
    *,
    max_seq_length: int | None = None,
    attn_implementation: str | None = None,
    device: str | None = None,
    seed: int = 42,
) -> CrossEncoder:
    """A cross-encoder of one score per pair, weights in float32.

    `source` is a cross-encoder's folder or hub name, the run folder that it was trained in, or any encoder: that
    one gets a fresh head, drawn from `seed`. `max_seq_length` counts query, passage and special tokens; left out,
    it is what a trained cross-encoder states, and 192 for a fresh one.
    """
    name = model_folder(source)
    if device is None and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"  # under torchrun every process has its own
    how: dict[str, Any] = {"dtype": torch.float32}
    if attn_implementation is not None:
        how["attn_implementation"] = attn_implementation
    fresh = not is_cross_encoder(name)
    model: CrossEncoder
    with opening("cross-encoder" if not fresh else "encoder", name):
        if fresh:
            torch.manual_seed(seed)
            module = Transformer(
                name,
                transformer_task="sequence-classification",
                model_kwargs=how,
                config_kwargs={"num_labels": 1},
            )
            # Its logit is what it is trained on and distilled from, so that is what `predict` gives.
            model = CrossEncoder(modules=[module], device=device, activation_fn=nn.Identity())
        else:
            model = CrossEncoder(name, device=device, model_kwargs=how)
    if model.num_labels != 1:
        raise UserError(
            f"{name} gives {model.num_labels} scores for a pair of texts, not one; choose another model."
        )
    _set_length(model, max_seq_length, FRESH_LENGTH if fresh else None, name)
    return model


def is_cross_encoder(source: str | Path) -> bool:
    """Has this model a head that scores pairs already?"""
    name = model_folder(source)
    architectures = getattr(read_config(name), "architectures", None) or [""]
    stated = find_file(name, _CONFIG)
    kind = json.loads(stated.read_text(encoding="utf-8")).get("model_type") if stated else None
    return kind == "CrossEncoder" or str(architectures[0]).endswith("ForSequenceClassification")


def _set_length(model: CrossEncoder, wanted: int | None, default: int | None, name: str) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = [int(limit) for limit in (model.max_seq_length, positions) if limit]
    limit = min(limits) if limits else None
    if wanted is not None and not 8 <= wanted <= (limit or wanted):
        raise UserError(f"max_seq_length is {wanted}, but {name} takes 8 to {limit} tokens; change it.")
    length = wanted or (min(default, limit or default) if default else limit)
    if length is not None:
        model.max_seq_length = length


def cross_encoder_fingerprint(model: CrossEncoder, *, bf16: bool = False) -> str:
    """32 hexadecimal digits that change whenever a score would; the folder and the device do not matter."""
    stated = {"max_seq_length": model.max_seq_length, "prompts": [model.prompts, model.default_prompt_name]}
    return fingerprint(model, **stated, **({"precision": "bfloat16"} if bf16 else {}))


def score_texts(
    model: CrossEncoder,
    queries: Sequence[str],
    passages: Sequence[str],
    *,
    batch_tokens: int | None = None,
    bf16: bool = False,
) -> Scores:
    """(n,) logits of the pairs (queries[i], passages[i]).

    All pairs are tokenised once and sorted by length, so that a batch, of at most `batch_tokens` tokens with its
    padding, has next to none. Meant for some thousand pairs at a time.
    """
    if not queries:
        return np.empty(0, dtype=np.float32)
    trained = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16),
        ):
            if not _reads_tokens(model):
                given = model.predict(
                    list(zip(queries, passages)), activation_fn=nn.Identity(), show_progress_bar=False
                )
                return np.asarray(given, dtype=np.float32)
            return _score(model, queries, passages, batch_tokens)
    finally:
        model.train(trained)


def _reads_tokens(model: CrossEncoder) -> bool:
    """Can it be handed token ids? Others (chat templates, prompts, images, …) read texts."""
    first = model[0]
    return (
        isinstance(first, Transformer)
        and first.transformer_task == "sequence-classification"
        and list(first.modality_config) == ["text"]
        and model.default_prompt_name is None
        and isinstance(model.tokenizer, PreTrainedTokenizerBase)
    )


def _score(
    model: CrossEncoder, queries: Sequence[str], passages: Sequence[str], batch_tokens: int | None
) -> Scores:
    tokenizer = model.tokenizer
    encoded = tokenizer(
        list(queries),
        list(passages),
        truncation="longest_first",
        max_length=model.max_seq_length,
        padding=False,
        return_attention_mask=False,
    )
    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64, count=len(queries))
    starts = np.cumsum(lengths) - lengths
    tokens = {
        name: np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum()))
        for name, rows in encoded.items()
    }
    budget = batch_tokens or (CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS)
    logits = torch.empty(len(queries), device=model.device)
    fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    left = tokenizer.padding_side == "left"
    for rows in by_length(lengths, budget):
        arrays = {
            name: pad(flat, starts[rows], lengths[rows], fills.get(name, 0), left=left)
            for name, flat in tokens.items()
        }
        ones = np.ones(int(lengths[rows].max()), dtype=np.int64)
        arrays["attention_mask"] = pad(ones, starts[rows] * 0, lengths[rows], 0, left=left)  # (B, L)
        features: dict[str, Any] = {
            name: torch.from_numpy(array).to(model.device, non_blocking=True)
            for name, array in arrays.items()
        }
        scores = model({**features, "modality": "text"})["scores"]  # (B, 1)
        logits[torch.from_numpy(rows).to(model.device)] = scores.view(-1).float()
    return np.asarray(logits.cpu().numpy(), dtype=np.float32)


def score_numbers(
    model: CrossEncoder,
    pairs: Pairs,
    queries: NDArray[Any],
    passages: NDArray[Any],
    *,
    batch_tokens: int | None = None,
    bf16: bool = False,
) -> Scores:
    """(n,) logits of query `queries[i]` with passage `passages[i]`, both by number."""
    query_texts = pairs.queries.texts(queries)
    passage_texts = pairs.passages.texts(passages)
    return score_texts(model, query_texts, passage_texts, batch_tokens=batch_tokens, bf16=bf16)
