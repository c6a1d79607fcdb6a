"""coCondenser from its equations: one span, one pair of spans at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import draws
from reference.condenser import condense, layer_states
from reference.objectives import Passage, Setting
from reference.simcse import chosen_over_others
from retromae.core.draws import Stream


def spans(setting: Setting, passage: Passage) -> list[list[int]]:
    """The positions of each span in the row, [CLS] and [SEP] among them; one span where there is one word."""
    words = setting.words(passage.ids)
    number = max(words) + 1
    inner = list(range(1, len(words) - 1))
    ends = [0], [len(words) - 1]
    if number < 2:
        return [ends[0] + inner + ends[1]]
    least = -(-number // 4)
    key = draws.row_key(setting.objective.seed, int(Stream.CUT), passage.epoch, passage.row)
    cut = least + draws.signed(draws.at_position(key, 0)) % (number - 2 * least + 1)
    first = words.index(cut)
    return [
        ends[0] + [i for i in inner if i < first] + ends[1],
        ends[0] + [i for i in inner if i >= first] + ends[1],
    ]


def cocondenser(setting: Setting, passages: list[Passage]) -> Tensor:
    config = setting.objective.settings
    encoder, head, vectors = [], [], []
    for passage in passages:
        ids, labelled = setting.mask(passage, config.encoder_mlm_probability)
        pair = []
        for positions in spans(setting, passage):
            early, late = layer_states(setting, [ids[i] for i in positions])
            condensed = condense(setting, early, late)
            for place, i in enumerate(positions):
                if i in labelled:
                    encoder.append(setting.loss_at(late[place], passage.ids[i]))
                    head.append(setting.loss_at(condensed[place], passage.ids[i]))
            pair.append(late[0])
        if len(pair) == 2:
            vectors.append(pair)
    everything = [(i, j) for i in range(len(vectors)) for j in range(2)]
    contrast = []
    for i, j in everything:
        others = [(k, m) for k, m in everything if (k, m) != (i, j)]
        scores = [vectors[i][j] @ vectors[k][m] / config.temperature for k, m in others]
        contrast.append(chosen_over_others(scores, others.index((i, 1 - j))))
    losses = [torch.stack(part).mean() for part in (encoder, head, contrast)]
    return losses[0] + losses[1] + config.contrast_weight * losses[2]
