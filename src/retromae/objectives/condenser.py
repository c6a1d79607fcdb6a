"""Condenser: the last layers must put into [CLS] what the early states of the tokens lack (Gao and Callan, 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.models.decoders import CondenserHead
from retromae.objectives.base import Batch, Drawn, Encoded, Labelled, Vocabulary, count
from retromae.objectives.one_pass import OnePass


@dataclass
class CondenserConfig:
    encoder_mlm_probability: float = setting(0.15, "share of the words that encoder and head must guess")
    head_layers: int = setting(2, "layers of the Condenser head")
    early_layers: int | None = setting(
        None, "the layer of the encoder whose token states the head reads; half of its layers if left out"
    )


class Condenser(OnePass):
    """Two guesses at the same masked words: the encoder's own, and that of a head which sees [CLS] late, tokens early.

        h^early, h^late  the states of the masked passage after layer l/2 and after the last one
        h^cd = Head([h^late_CLS, h^early_1, …, h^early_N])
        L    = mean over masked x_i of CE(x_i | h^late_i)  +  mean over masked x_i of CE(x_i | h^cd_i)

    The vocabulary head is shared, the layers of the Condenser head are fresh.
    Rows: any text. Parts: `encoder`, `head`.
    """

    Config = CondenserConfig
    paper = "Condenser: a Pre-training Architecture for Dense Retrieval (2021)"
    settings: CondenserConfig

    def __init__(
        self, backbone: Backbone, settings: CondenserConfig, vocabulary: Vocabulary, seed: int = 0
    ) -> None:
        super().__init__(backbone, settings, vocabulary, seed)
        half = backbone.num_layers // 2
        self.early = half if settings.early_layers is None else settings.early_layers
        if not 0 <= self.early < backbone.num_layers:
            raise UserError(
                f"early_layers is {self.early}, but this encoder has {backbone.num_layers} layers; "
                f"choose 0 to {backbone.num_layers - 1}."
            )
        self.head = CondenserHead(backbone, settings.head_layers)

    def heads(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def draw(self, batch: Batch) -> Drawn:
        token_ids, labelled = self.mask_words(batch, self.settings.encoder_mlm_probability)
        masked = count(labelled)
        return Drawn({"token_ids": token_ids, "labelled": labelled}, {"encoder": masked, "head": masked})

    def encode(self, batch: Batch, drawn: Drawn) -> Encoded:
        states = self.backbone.encode(drawn.tensors["token_ids"], batch.mask, all_layers=True)
        late, early = states[-1], states[self.early]
        places = drawn.places("labelled")
        condensed = self.head(late[:, 0], early, batch.mask, places)
        return Encoded(
            late,
            [
                Labelled.at(places, "encoder", late, batch.token_ids),
                Labelled.taken(places, "head", condensed, batch.token_ids),
            ],
        )

    def flops(self, rows: int, length: int) -> float:
        labels = self.settings.encoder_mlm_probability * flops.ordinary_tokens(rows, length)
        return flops.TRAINING * (
            flops.encoder(self.backbone, rows, length)
            + flops.layers(self.backbone.style, self.settings.head_layers, rows, length, asked=labels)
            + flops.vocabulary(self.backbone, 2 * labels)
        )
