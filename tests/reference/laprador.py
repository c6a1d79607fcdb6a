"""LaPraDoR from its equations: one row cut, one pair of texts compared at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import draws
from reference.objectives import Passage, Setting
from reference.simcse import chosen_over_others, compared, cosine
from retromae.core.draws import Stream


def inverse_cloze(setting: Setting, passage: Passage) -> tuple[list[int], list[int]]:
    """The query and its document, both with [CLS] and [SEP]."""
    config = setting.objective.settings
    size_draw, start_draw, removal = (
        draws.at_position(draws.row_key(setting.objective.seed, int(stream), passage.epoch, passage.row), 0)
        for stream in (Stream.RUN_WORDS, Stream.RUN_START, Stream.RUN_REMOVED)
    )
    words = setting.words(passage.ids)
    number = max(words) + 1
    most = min(max(1, number // 2), config.query_words)
    size = most - draws.signed(size_draw) % (most // 2 + 1)
    start = draws.signed(start_draw) % (number - size + 1)
    first = words.index(start)
    behind = words.index(start + size) if start + size < number else len(words) - 1
    query = passage.ids[first:behind]
    removed = draws.below(removal, config.removed_probability) and number > size
    document = passage.ids[:first] + passage.ids[behind:] if removed else passage.ids
    return [passage.ids[0], *query, passage.ids[-1]], document


def step(setting: Setting, passages: list[Passage], documents_turn: bool, pool: list[Tensor]) -> Tensor:
    """The loss of one step without dropout; `pool` holds what the frozen tower made before."""
    objective = setting.objective

    def sentence(encoder: torch.nn.Module, ids: list[int]) -> Tensor:
        row = torch.tensor([ids])
        states: Tensor = encoder(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state
        return states[0, 0]

    anchors, keys = [], []
    for passage in compared(setting, passages):
        query, document = inverse_cloze(setting, passage)
        towers = [(objective.backbone.base, document), (objective.query.base, query)]
        trained, frozen = towers if documents_turn else towers[::-1]
        anchors.append(sentence(*trained))
        with torch.no_grad():
            keys.append(sentence(*frozen))
    config = objective.settings
    losses = []
    for i, anchor in enumerate(anchors):
        partners = [cosine(anchor, key) / config.temperature for key in keys + pool]
        itself = [cosine(anchor, other) / config.temperature for other in anchors]
        losses.append(chosen_over_others(partners, i) + config.dropout_weight * chosen_over_others(itself, i))
    return torch.stack(losses).mean()


def laprador(setting: Setting, passages: list[Passage]) -> Tensor:
    """As measured: queries look for documents."""
    return step(setting, passages, False, [])
