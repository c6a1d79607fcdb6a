"""Condenser from its equations: one passage, one position, one score at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import decoding
from reference.objectives import Passage, Setting


def layer_states(setting: Setting, ids: list[int]) -> tuple[Tensor, Tensor]:
    """(L, d) after half of the layers, and after the last one, from transformers' own model."""
    backbone = setting.objective.backbone
    row = torch.tensor([ids])
    output = backbone.base(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True)
    early = setting.objective.settings.early_layers
    early = backbone.config.num_hidden_layers // 2 if early is None else early
    return output.hidden_states[early][0], output.last_hidden_state[0]


def condense(setting: Setting, early: Tensor, late: Tensor) -> list[Tensor]:
    head = setting.objective.head
    rows = [late[0], *early[1:]]
    everything = list(range(len(rows)))
    for layer in head.layers:
        rows = [decoding.layer_row(row, rows, everything, layer) for row in rows]
    return [decoding.finish(row, head.final_norm) for row in rows]


def condenser(setting: Setting, passages: list[Passage]) -> Tensor:
    encoder, head = [], []
    for passage in passages:
        ids, labelled = setting.mask(passage, setting.objective.settings.encoder_mlm_probability)
        early, late = layer_states(setting, ids)
        condensed = condense(setting, early, late)
        encoder += [setting.loss_at(late[i], passage.ids[i]) for i in labelled]
        head += [setting.loss_at(condensed[i], passage.ids[i]) for i in labelled]
    return torch.stack(encoder).mean() + torch.stack(head).mean()
