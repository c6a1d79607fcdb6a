"""TSDAE from its equations."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import causal, draws
from reference.objectives import Passage, Setting
from retromae.core.draws import Stream


def remaining(setting: Setting, passage: Passage) -> list[int]:
    """The passage without its deleted tokens; [CLS], [SEP] and one token at least stay."""
    which, count = (
        draws.row_key(setting.objective.seed, int(stream), passage.epoch, passage.row)
        for stream in (Stream.ENCODER_WORDS, Stream.ENCODER_COUNT)
    )
    share = 1.0 - setting.objective.settings.deletion_ratio
    u = ((draws.at_position(count, 0) >> 8) & 0xFFFFFF) / 2**24
    inner = range(1, len(passage.ids) - 1)
    number = max(1, int(len(inner) * share + u))
    order = sorted(inner, key=lambda i: (draws.signed(draws.at_position(which, i)) << 16) | i)
    kept = {0, len(passage.ids) - 1, *order[:number]}
    return [token for i, token in enumerate(passage.ids) if i in kept]


def tsdae(setting: Setting, passages: list[Passage]) -> Tensor:
    losses = []
    for passage in passages:
        sentence = setting.states(remaining(setting, passage))[0]
        losses += causal.losses(setting, sentence, passage, None)
    return torch.stack(losses).mean()
