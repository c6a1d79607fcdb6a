"""Vocabulary losses as the equations say, one row and one word at a time, with full logits."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: int) -> Tensor:
    """−log softmax(W h + b)[target] of one row."""
    logits = weight @ hidden
    if bias is not None:
        logits = logits + bias
    return torch.logsumexp(logits, 0) - logits[target]


def max_pooled(hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor) -> Tensor:
    """μ of one passage: hidden (L, e), counted (L)."""
    best = torch.full((weight.shape[0],), -torch.inf, dtype=hidden.dtype)
    for token in range(hidden.shape[0]):
        if counted[token]:
            logits = weight @ hidden[token]
            best = torch.where(logits > best, logits, best)
    return best if bias is None else best + bias


def bag_of_words(pooled: Tensor, tokens: list[int], *, per_token: bool = False) -> Tensor:
    """mean over the distinct words x of −log softmax(μ)[x]."""
    log_p = pooled.log_softmax(0)
    distinct = sorted(set(tokens))
    total = -sum(log_p[word] for word in distinct)
    return total / (len(tokens) if per_token else len(distinct))
