"""What objectives share that rebuild a passage from its sentence vector."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from retromae.models.decoders import CausalDecoder
from retromae.objectives.base import Batch, Drawn, Encoded, Labelled
from retromae.objectives.one_pass import OnePass


class AutoEncoder(OnePass):
    """An objective with a part `decoder` that rebuilds the passage from its sentence vector."""

    @abstractmethod
    def rebuild(self, sentence: Tensor, batch: Batch, drawn: Drawn) -> Labelled:
        """Decode the passages of the batch from sentence vectors (B, d)."""

    def measure_encoded(
        self, batch: Batch, drawn: Drawn, encoded: Encoded
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Losses, accuracies, and `cls_use`: the decoder's loss with another row's sentence vector minus with its
        own. Near zero means that [CLS] carries nothing, however healthy the losses look."""
        measures = super().measure_encoded(batch, drawn, encoded)
        right, items = measures["decoder_loss"]
        wrong, alone = right, batch.token_ids.shape[0] == 1  # no other row's vector to try
        if not alone:
            shuffled = self.rebuild(encoded.hidden[:, 0].roll(1, dims=0), batch, drawn)
            wrong, _ = self.vocabulary_measures([shuffled])["decoder_loss"]
        measures["cls_use"] = (wrong - right, items * (not alone))
        return measures


class LeftToRight(AutoEncoder):
    """One whose decoder writes every word from the sentence vector and the words before it."""

    decoder: CausalDecoder

    def heads(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def rebuild(self, sentence: Tensor, batch: Batch, drawn: Drawn) -> Labelled:
        embeddings = self.backbone.token_embeddings(batch.token_ids)
        positions = self.backbone.position_embeddings(batch.token_ids.shape[1])
        labelled = drawn.places("ordinary")
        decoded = self.decoder(sentence, embeddings, positions)
        return Labelled.at(labelled, "decoder", decoded, batch.token_ids)
