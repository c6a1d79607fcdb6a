"""SEED from its equations."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import causal
from reference.objectives import Passage, Setting


def seed(setting: Setting, passages: list[Passage]) -> Tensor:
    config = setting.objective.settings
    encoder, decoder = [], []
    for passage in passages:
        masked, labelled = setting.mask(passage, config.encoder_mlm_probability)
        states = setting.states(masked)
        encoder += [setting.loss_at(states[i], passage.ids[i]) for i in labelled]
        decoder += causal.losses(setting, states[0], passage, config.decoder_span)
    return torch.stack(encoder).mean() + torch.stack(decoder).mean()
