"""Any masked-LM encoder of transformers behind one small interface.

This file, with its table `families.py` and with `loading.py`, is the only place that knows how transformers
lays out its models. Two things differ from calling the masked-LM model itself:

* `encode` runs the encoder alone. The vocabulary head comes in two halves, `head_transform` and
  (`head_weight`, `head_bias`), so that a loss can multiply by the vocabulary in chunks, and only where there
  is a label.
* `token_embeddings` and `position_embeddings` are the bare e and p of RetroMAE's equations in hidden size:
  no LayerNorm, no dropout, no token types, and projected where a family keeps smaller embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Self, cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from retromae.core.errors import UserError
from retromae.models.compiled import compile_module
from retromae.models.loading import (
    Loaded,
    family_of,
    load_masked_lm,
    new_masked_lm,
    read_config,
    scratch_config,
    set_dropout,
)
from retromae.models.needed import LastLayer
from retromae.models.style import layer_style


class Backbone(nn.Module):
    """A masked-LM model, its parts under names that are the same for every family."""

    def __init__(self, loaded: Loaded, own_dropout: Mapping[str, float] | None = None) -> None:
        """`own_dropout` are settings of the configuration that something else stands for at present."""
        super().__init__()
        self._own_dropout = dict(own_dropout or {})
        config: Any = loaded.model.config
        self.model = loaded.model
        self.config: PreTrainedConfig = config
        self.fresh = loaded.fresh  # the parts that start from random weights, in words
        self.unused = loaded.unused  # the weights of the checkpoint that have no place here
        self.family = family_of(config)
        self.style = layer_style(config)
        self.hidden_size = self.style.hidden_size
        self.num_heads = self.style.num_heads
        self.intermediate_size = self.style.intermediate_size
        self.activation = self.style.activation
        self.layer_norm_eps = self.style.layer_norm_eps
        self.dropout = self.style.dropout
        self.attention_dropout = self.style.attention_dropout
        self.drops = self.dropout > 0 or self.attention_dropout > 0
        self.initializer_range = self.style.initializer_range
        self.pre_norm = self.style.pre_norm
        self.num_layers = int(config.num_hidden_layers)
        words = self._part(self.family.words).weight
        self.vocab_size = int(words.shape[0])
        self.embedding_size = int(words.shape[1])  # of a word, before it is projected to hidden size
        self.last = LastLayer(self.model, self.family.tail)
        self.has_positions = self._position_table is not None
        self.max_length = (
            int(config.max_position_embeddings) - self._position_offset
        )  # special tokens included

    # Opening

    @classmethod
    def open(
        cls,
        path_or_name: str | Path,
        *,
        attn_implementation: str | None = None,
        dropout: float | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a folder or hub name in float32; a head that the checkpoint lacks starts fresh and is named.

        `attn_implementation=None` is sdpa where the family has it, otherwise eager. `dropout` replaces every
        dropout probability while this model is open; `save` writes the model's own.
        """
        hub: dict[str, Any] = {"revision": revision or "main", "local_files_only": local_files_only}
        config = read_config(path_or_name, **hub)
        own = set_dropout(config, dropout)
        loaded = load_masked_lm(config, str(path_or_name), attn_implementation=attn_implementation, **hub)
        return cls(loaded, own)

    @classmethod
    def from_state(cls, config: PreTrainedConfig, state: Mapping[str, Tensor], source: str) -> Self:
        """Weights that do not lie in a folder as the hub knows it; `source` names them in messages."""
        return cls(load_masked_lm(config, source, state_dict=dict(state)))

    @classmethod
    def from_config(
        cls,
        config: PreTrainedConfig,
        *,
        attn_implementation: str | None = None,
        dropout: float | None = None,
    ) -> Self:
        """Random weights, drawn from torch's global generator the way transformers initialises the family."""
        own = set_dropout(config, dropout)
        return cls(new_masked_lm(config, attn_implementation), own)

    @classmethod
    def from_scratch(
        cls,
        layers: int,
        hidden: int,
        heads: int,
        intermediate: int,
        vocabulary: int,
        max_positions: int,
        dropout: float = 0.1,
        family: str = "bert",
        *,
        pad_token_id: int = 0,
        attn_implementation: str | None = None,
        **settings: Any,
    ) -> Self:
        """A new model of a known family; `max_positions` are usable ones, `settings` go to its config."""
        sizes = {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "intermediate_size": intermediate,
            "vocab_size": vocabulary,
            "max_position_embeddings": max_positions,
            "pad_token_id": pad_token_id,
        }
        config = scratch_config(family, sizes, settings)
        return cls.from_config(config, attn_implementation=attn_implementation, dropout=dropout)

    def save(self, folder: str | Path) -> None:
        """As the hub knows it. With the dropout that the model had before a run asked for another: who trains it
        further would miss it without knowing."""
        config: Any = self.config
        present = {name: getattr(config, name) for name in self._own_dropout}
        try:
            for name, value in self._own_dropout.items():
                setattr(config, name, value)
            self.model.save_pretrained(folder)
        finally:
            for name, value in present.items():
                setattr(config, name, value)

    # What the objectives compute with

    @property
    def base(self) -> PreTrainedModel:
        """The encoder without the vocabulary head."""
        return cast(PreTrainedModel, self._part(self.family.base))

    @overload
    def encode(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        needed: Tensor | None = None,
        all_layers: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def encode(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        needed: Tensor | None = None,
        all_layers: Literal[True],
    ) -> tuple[Tensor, ...]: ...
    def encode(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        needed: Tensor | None = None,
        all_layers: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """(B, L) → (B, L, d), the last hidden states. Without an attention mask no position is padding.

        `needed` says which of them are read, as flags (B, L) bool or as places (n,) int64 through all rows laid end to
        end; the last layer then leaves out what it can of the others, and their places hold zeros, or in a pre-norm
        family what has become of them half way. All states are computed with `all_layers`, and where `LastLayer` says
        so. So only needed positions may be read.

        `all_layers` gives a tuple instead: the embeddings, then every layer's output; its last entry is the
        last hidden state, after a pre-norm family's final LayerNorm.
        """
        with nullcontext() if needed is None or all_layers else self.last.only(needed, token_ids.shape):
            output = self.base(
                input_ids=token_ids,
                attention_mask=attention_mask,
                output_hidden_states=all_layers,
                return_dict=True,
            )
        last: Tensor = output.last_hidden_state
        return (*output.hidden_states[:-1], last) if all_layers else last

    def encode_first(self, token_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, L) → (B, d): the last hidden state of the first token, [CLS], where no other is read."""
        rows, length = token_ids.shape
        first = torch.arange(0, rows * length, length, device=token_ids.device)
        return self.encode(token_ids, attention_mask, needed=first)[:, 0]

    def encode_after(self, first: Tensor, token_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, e), (B, L) → (B, L, d): like `encode`, with a vector in the place of the first token's embedding.

        It stands where the word embedding would, before position, LayerNorm and projection, so it is of the word
        embeddings' size e = `embedding_size`.
        """
        words = self._part(self.family.words)(token_ids)
        output = self.base(
            inputs_embeds=torch.cat([first[:, None].to(words.dtype), words[:, 1:]], dim=1),
            attention_mask=attention_mask,
            return_dict=True,
        )
        return cast(Tensor, output.last_hidden_state)

    forward = encode

    def token_embeddings(self, token_ids: Tensor) -> Tensor:
        """(…) → (…, d): e of Eq. 4."""
        embeddings: Tensor = self._part(self.family.words)(token_ids)
        return embeddings if self._projection is None else self._projection(embeddings)

    def position_embeddings(self, length: int) -> Tensor | None:
        """(L, d): p_0 … p_{L-1} from the backbone's own table, or None where it has none."""
        table, start = self._position_table, self._position_offset
        if table is None:
            return None
        if length > self.max_length:
            raise UserError(
                f"rows of {length} tokens do not fit: this model has {self.max_length} positions; "
                "shorten the rows or choose another model."
            )
        rows = table.weight[start : start + length]
        # The projection's bias belongs to the token, so that projected e + p is the projection of e + p.
        return rows if self._projection is None else functional.linear(rows, self._projection.weight)

    @property
    def embedding_norm(self) -> nn.Module:
        """The LayerNorm that the encoder applies to its embeddings, in hidden size."""
        if self.family.norm_first and self._projection is not None:
            raise UserError(
                f"{self.config.model_type} normalises its embeddings before it projects them to hidden size, "
                "so their LayerNorm cannot be used on e + p; leave the decoder's embedding_norm at 'none'."
            )
        return cast(nn.Module, self._part(self.family.norm))

    def head_transform(self, hidden: Tensor) -> Tensor:
        """(n, d) → (n, e): what the vocabulary head does before it multiplies by the vocabulary."""
        for step in self.family.transform:
            hidden = (self._part(step) if isinstance(step, str) else step)(hidden)
        return hidden

    @property
    def head_weight(self) -> nn.Parameter:
        """(V, e), the word embeddings themselves where the family ties them."""
        return cast(nn.Parameter, self._part(self.family.weight))

    @property
    def head_bias(self) -> nn.Parameter | None:
        """(V)"""
        return cast("nn.Parameter | None", self._part(self.family.bias))

    # Switches and checks

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        model: Any = self.model
        if not on:
            model.gradient_checkpointing_disable()
        elif not model.supports_gradient_checkpointing:
            raise UserError(
                f"{self.config.model_type} has no gradient checkpointing in transformers; turn it off."
            )
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuse a tokenizer whose ids lack embeddings or whose padding id is not the model's."""
        if len(tokenizer) > self.vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens but the model has embeddings for "
                f"{self.vocab_size}; use the tokenizer that belongs to this model."
            )
        padding = self._part(self.family.words).padding_idx
        if self.family.positions_after_padding and tokenizer.pad_token_id != padding:
            raise UserError(
                f"the tokenizer pads with id {tokenizer.pad_token_id} but the model counts positions by its "
                f"padding id {padding}; use the tokenizer that belongs to this model."
            )

    def compile_layers(self) -> None:
        """Compile layer after layer, and the first half of the vocabulary head. They are alike, so that the code of one
        serves all, whatever the shapes. A last layer that leaves out what nobody reads stays as it is."""
        layers = self.last.layers
        for layer in layers[:-1] if self.last.may_leave_out else layers:
            compile_module(layer)
        steps = [self._part(step) for step in self.family.transform if isinstance(step, str)]
        for step in steps:
            if isinstance(step, nn.Module):
                compile_module(step)

    def _part(self, path: str) -> Any:
        return attrgetter(path)(self.model)

    def _optional_part(self, path: str | None) -> Any:
        """The part at `path`, or None where the family or this configuration of it has none."""
        if path is None:
            return None
        parent, _, name = path.rpartition(".")
        return getattr(self._part(parent), name, None)

    @property
    def _projection(self) -> nn.Linear | None:
        return cast("nn.Linear | None", self._optional_part(self.family.projection))

    @property
    def _position_table(self) -> nn.Embedding | None:
        return cast("nn.Embedding | None", self._optional_part(self.family.positions))

    @property
    def _position_offset(self) -> int:
        table = self._position_table
        if table is None or table.padding_idx is None or not self.family.positions_after_padding:
            return 0
        return table.padding_idx + 1
