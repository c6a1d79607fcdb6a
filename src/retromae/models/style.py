"""What the layers of a backbone are like, so that a decoder's can be built like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from retromae.models.loading import family_of


@dataclass(frozen=True)
class LayerStyle:
    """What a decoder layer must know to be built like the backbone's own layers."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    activation: str
    layer_norm_eps: float
    dropout: float
    attention_dropout: float
    initializer_range: float
    pre_norm: bool = False  # LayerNorm before attention and MLP, and once more after the last layer
    gated: bool = False  # MLP: activation(a) * b, with a and b from one matrix of twice the width
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True


def layer_style(config: PreTrainedConfig) -> LayerStyle:
    """The style of the layers that this configuration describes, whatever its family calls the settings."""

    def setting(*names: str, default: Any = None) -> Any:
        """The first of several names for one setting that this configuration has."""
        return next((getattr(config, name) for name in names if hasattr(config, name)), default)

    family = family_of(config)
    return LayerStyle(
        hidden_size=setting("hidden_size"),
        num_heads=setting("num_attention_heads"),
        intermediate_size=setting(family.intermediate),
        activation=setting("hidden_act", "hidden_activation", "activation"),
        layer_norm_eps=setting("layer_norm_eps", "norm_eps", default=1e-12),
        dropout=setting("hidden_dropout_prob", "mlp_dropout", "dropout"),
        attention_dropout=setting("attention_probs_dropout_prob", "attention_dropout"),
        initializer_range=setting("initializer_range"),
        pre_norm=family.pre_norm,
        gated=family.gated,
        attention_bias=setting("attention_bias", default=True),
        mlp_bias=setting("mlp_bias", default=True),
        norm_bias=setting("norm_bias", default=True),
    )
