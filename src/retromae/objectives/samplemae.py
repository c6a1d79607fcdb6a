"""SampleMAE: RetroMAE that asks its decoder for a sample of the words, and reads more text for the same work."""

from __future__ import annotations

from dataclasses import dataclass

from retromae.core.config import setting
from retromae.objectives import retromae


@dataclass
class SampleMAEConfig(retromae.RetroMAEConfig):
    decoded_share: float = setting(
        0.25, "share of its tokens that the decoder is asked for in a step; the others cost nothing"
    )


class SampleMAE(retromae.RetroMAE):
    """RetroMAE's two losses, the decoder's over a random quarter of the places.

        A = {i ordinary : u_i < 1/4},  u_i drawn anew for each row and epoch
        L = CE of the masked words (encoder) + CE of x_i for i in A (decoder, Eq. 6)

    Every row of enhanced decoding is a question of its own and the loss is their mean, so its expectation is that of
    RetroMAE; but a budget of operations reads more text. With dense vectors that beats DupMAE for the same number of
    operations; with both of DupMAE's halves it does not (docs/results). Rows: any text. Parts: `encoder`, `decoder`.
    """

    Config = SampleMAEConfig
    paper = "none: measured in docs/results"
    settings: SampleMAEConfig
