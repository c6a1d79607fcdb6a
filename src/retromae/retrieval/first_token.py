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
from torch import Tensor

from retromae.models.families import FAMILIES
from retromae.models.needed import LastLayer


class FirstToken:
    """Knows whether, and where, a model may leave its last layer out."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.last = _last_layer(model)

    def alone(self, token_ids: Tensor) -> AbstractContextManager[None]:
        """A pass over these texts (B, L) in it leaves out what it can."""
        if self.last is None:
            return nullcontext()
        rows, length = token_ids.shape
        return self.last.only(
            torch.arange(0, rows * length, length, device=token_ids.device), token_ids.shape
        )


def _last_layer(model: SentenceTransformer) -> LastLayer | None:
    """Of a chain that begins with an encoder and the pooling of its first token."""
    first, *others = model
    if not isinstance(first, Transformer) or not others or not isinstance(others[0], Pooling):
        return None
    family = FAMILIES.get(first.auto_model.config.model_type)
    reads_more = others[0].pooling_mode != "cls" or model.tokenizer.padding_side != "right"
    if family is None or family.tail is None or reads_more:
        return None
    layers = family.tail.layers.removeprefix(f"{family.base}.")  # there is no head around this encoder
    return LastLayer(first.auto_model, replace(family.tail, layers=layers))
