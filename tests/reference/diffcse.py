"""DiffCSE from its equations: one replaced word, one judged token at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from reference import draws
from reference.objectives import Passage, Setting
from reference.simcse import simcse
from retromae.core.draws import Stream


def edited(setting: Setting, passage: Passage) -> list[int]:
    """The passage with the generator's words in its gaps."""
    objective = setting.objective
    ids, replaced = setting.mask(passage, objective.settings.replaced_probability, decoder=True)
    with torch.no_grad():
        row = torch.tensor([ids])
        logits = objective.generator.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
    key = draws.row_key(objective.seed, int(Stream.REPLACEMENT), passage.epoch, passage.row)
    result = list(passage.ids)
    for i in replaced:
        weights = [float(logit.exp()) if flag else 0.0 for logit, flag in zip(logits[i], setting.ordinary)]
        level = (draws.at_position(key, i) >> 8) / 2**24 * sum(weights)
        passed = 0.0
        for word, weight in enumerate(weights):
            passed += weight
            if passed > level:
                result[i] = word
                break
    return result


def judged(setting: Setting, sentence: Tensor, ids: list[int]) -> Tensor:
    """(L,): how surely each token is a replaced one."""
    discriminator = setting.objective.discriminator
    encoder = discriminator.encoder.base
    words = encoder.get_input_embeddings()(torch.tensor(ids))
    embeddings = torch.stack([discriminator.narrow(sentence), *words[1:]])[None]
    mask = torch.ones(1, len(ids), dtype=torch.int64)
    states = encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state[0]
    return torch.stack([discriminator.score.weight[0] @ s + discriminator.score.bias[0] for s in states])


def diffcse(setting: Setting, passages: list[Passage]) -> Tensor:
    losses = []
    for passage in passages:
        ids = edited(setting, passage)
        scores = judged(setting, setting.states(passage.ids)[0], ids)
        for i, word in enumerate(setting.words(passage.ids)):
            if word >= 0:
                replaced = torch.sigmoid(scores[i])
                right = replaced if ids[i] != passage.ids[i] else 1 - replaced
                losses.append(-right.log())
    return simcse(setting, passages) + setting.objective.settings.rtd_weight * torch.stack(losses).mean()
