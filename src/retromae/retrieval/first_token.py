"""A model of sentence-transformers that reads [CLS] alone: its last layer is computed there and nowhere else.

Vectors and gradients are those of the whole pass, but for rounding; see `models.needed`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from retromae.models.families import FAMILIES, Tail
from retromae.models.needed import only_at


class FirstToken:
    """Knows whether, and where, a model may leave its last layer out."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._encoder, self._tail = _encoder_and_tail(model)

    def alone(self, token_ids: Tensor) -> AbstractContextManager[None]:
        """A pass over these texts (B, L) in it leaves out what it can."""
        if self._encoder is None or self._tail is None or _checkpointed(self._encoder):
            return nullcontext()
        rows, length = token_ids.shape
        first = torch.arange(0, rows * length, length, device=token_ids.device)
        layers = self._encoder.get_submodule(self._tail.layers)
        assert isinstance(layers, nn.ModuleList)
        return only_at(first, (rows, length), layers[-1], self._tail)


def _encoder_and_tail(model: SentenceTransformer) -> tuple[nn.Module | None, Tail | None]:
    """Of a chain that begins with an encoder and the pooling of its first token."""
    first, *others = model
    if not isinstance(first, Transformer) or not others or not isinstance(others[0], Pooling):
        return None, None
    encoder, config = first.auto_model, first.auto_model.config
    family = FAMILIES.get(config.model_type)
    if family is None or family.tail is None or others[0].pooling_mode != "cls":
        return None, None
    if model.tokenizer.padding_side != "right" or getattr(config, "chunk_size_feed_forward", 0):
        return None, None
    return encoder, replace(family.tail, layers=family.tail.layers.removeprefix(f"{family.base}."))


def _checkpointed(encoder: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())
