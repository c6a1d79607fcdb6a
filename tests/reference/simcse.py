"""SimCSE from its equation: one pair of rows at a time. Without dropout both views of a row are the same."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.objectives import Passage, Setting, mlm


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def chosen_over_others(scores: list[Tensor], own: int) -> Tensor:
    """−log of the share of exp(score) that is the right one's."""
    return -(scores[own].exp() / torch.stack(scores).exp().sum()).log()


def compared(setting: Setting, passages: list[Passage]) -> list[Passage]:
    return [p for p in passages if any(word >= 0 for word in setting.words(p.ids))]


def contrast(setting: Setting, passages: list[Passage]) -> Tensor:
    dense = setting.objective.projection.dense
    vectors = [
        torch.tanh(dense.weight @ setting.states(p.ids)[0] + dense.bias) for p in compared(setting, passages)
    ]
    losses = []
    for i, anchor in enumerate(vectors):
        scores = [cosine(anchor, other) / setting.objective.settings.temperature for other in vectors]
        losses.append(chosen_over_others(scores, i))
    return torch.stack(losses).mean()


def simcse(setting: Setting, passages: list[Passage]) -> Tensor:
    loss = contrast(setting, passages)
    weight = setting.objective.settings.mlm_weight
    return loss + weight * mlm(setting, passages) if weight else loss
