"""Which masked-LM architectures are known, and where each one keeps the parts that pre-training needs.

Data only: `backbone.py` reads this table, nothing else should. Paths are attribute paths inside the
masked-LM model of transformers. To add an architecture, add a row and run tests/models/test_backbone.py,
which compares every row with the model's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from retromae.core.errors import UserError


@dataclass(frozen=True)
class Tail:
    """What follows attention in a layer, where every position is by itself: see `needed.py`."""

    layers: str  # the list of the encoder's layers
    # From the first module's input to the last one's output, by their paths in a layer. Several parts where something
    # of a layer's own, such as adding the residual, lies between two modules and takes all positions.
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """One architecture."""

    base: str  # the encoder
    words: str  # word embeddings
    norm: str  # LayerNorm of the embeddings
    transform: tuple[str | Callable[[Tensor], Tensor], ...]  # first half of the vocabulary head, in order
    weight: str  # second half of the head: (V, e)
    bias: str  # (V)
    positions: str | None = None  # position table; None where the family never has one
    positions_after_padding: bool = False  # its usable rows begin after the padding row, not at 0
    projection: str | None = None  # embedding size to hidden size; absent where the sizes are equal
    norm_first: bool = False  # the embedding LayerNorm comes before the projection, not after it
    pre_norm: bool = False  # LayerNorm before attention and MLP, and once more after the last layer
    gated: bool = False  # MLP: activation(a) * b, with a and b from one matrix of twice the width
    intermediate: str = "intermediate_size"  # what the configuration calls the width of the MLP
    scratch: Mapping[str, Any] = field(default_factory=dict)  # settings of a model started from nothing
    tail: Tail | None = None  # None where the last layer cannot be told from the others


def _embeddings(base: str) -> dict[str, Any]:
    return {
        "base": base,
        "words": f"{base}.embeddings.word_embeddings",
        "norm": f"{base}.embeddings.LayerNorm",
        "positions": f"{base}.embeddings.position_embeddings",
    }


def _tail(base: str) -> Tail:
    """As BERT has it."""
    return Tail(f"{base}.encoder.layer", (("attention.output", "output"),))


def _decoder(path: str) -> dict[str, Any]:
    return {"weight": f"{path}.weight", "bias": f"{path}.bias"}


_BERT = Family(
    **_embeddings("bert"),
    transform=("cls.predictions.transform",),
    **_decoder("cls.predictions.decoder"),
    tail=_tail("bert"),
)
_ROBERTA = Family(
    **_embeddings("roberta"),
    positions_after_padding=True,
    transform=("lm_head.dense", functional.gelu, "lm_head.layer_norm"),
    **_decoder("lm_head.decoder"),
    scratch={"type_vocab_size": 1},
    tail=_tail("roberta"),
)
_DEBERTA = Family(
    **_embeddings("deberta"),
    projection="deberta.embeddings.embed_proj",
    transform=("cls.predictions.transform",),
    **_decoder("cls.predictions.decoder"),
    scratch={
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    tail=_tail("deberta"),
)
# The head that DeBERTa was trained with (`legacy: false`): it multiplies by the word embeddings themselves.
_DEBERTA_TRAINED_HEAD = replace(
    _DEBERTA,
    transform=tuple(f"lm_predictions.lm_head.{step}" for step in ("dense", "transform_act_fn", "LayerNorm")),
    weight="deberta.embeddings.word_embeddings.weight",
    bias="lm_predictions.lm_head.bias",
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        **_embeddings("distilbert"),
        transform=("vocab_transform", "activation", "vocab_layer_norm"),
        **_decoder("vocab_projector"),
        intermediate="hidden_dim",
        tail=Tail(
            "distilbert.transformer.layer",
            (("attention.out_lin", "attention.out_lin"), ("sa_layer_norm", "output_layer_norm")),
        ),
    ),
    "electra": Family(
        **_embeddings("electra"),
        projection="electra.embeddings_project",
        norm_first=True,
        transform=("generator_predictions",),
        **_decoder("generator_lm_head"),
        tail=_tail("electra"),
    ),
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "mpnet": replace(
        _ROBERTA,
        **_embeddings("mpnet"),
        scratch={},
        tail=Tail(
            "mpnet.encoder.layer",
            (("attention.attn.o", "attention.attn.o"), ("attention.LayerNorm", "output")),
        ),
    ),
    "albert": Family(
        **_embeddings("albert"),
        projection="albert.encoder.embedding_hidden_mapping_in",
        norm_first=True,
        transform=("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
        **_decoder("predictions.decoder"),
    ),
    "modernbert": Family(
        base="model",
        words="model.embeddings.tok_embeddings",
        norm="model.embeddings.norm",
        transform=("head",),
        **_decoder("decoder"),
        pre_norm=True,
        gated=True,
        scratch=dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
        tail=Tail("model.layers", (("attn.Wo", "attn.Wo"), ("mlp_norm", "mlp"))),
    ),
}


def find_family(model_type: str, *, trained_head: bool = False) -> Family:
    """The row of `model_type`; `trained_head` picks DeBERTa's other head (`legacy: false` in its config)."""
    if model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(
            f"the architecture '{model_type}' is not known here; "
            f"choose a masked language model of one of: {known}."
        )
    family = FAMILIES[model_type]
    return _DEBERTA_TRAINED_HEAD if trained_head and family is _DEBERTA else family


def table() -> list[dict[str, str]]:
    """One row of text per family, for the documentation."""
    return [
        {
            "family": name,
            "embeddings": family.words
            + (f", projected by {family.projection} where sizes differ" if family.projection else ""),
            "positions": family.positions or "none (the decoder learns its own)",
            "head": " → ".join(
                step if isinstance(step, str) else step.__name__
                for step in (*family.transform, family.weight)
            ),
            "layer": "pre-norm, gated MLP" if family.pre_norm else "post-norm",
        }
        for name, family in FAMILIES.items()
    ]
