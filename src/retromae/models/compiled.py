"""What a compiler makes one kernel of, for runs that ask for it.

Compiling costs seconds to a minute at the start of a run, so only the pieces that take the time are compiled: the
layers of a model one by one, which are alike, and a few functions of tensors. Shapes are taken as variable, since
batches differ in theirs. Everything is written as plain torch and gives the same without a compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch import nn

P, R = ParamSpec("P"), TypeVar("R")

_VARIANTS = 64  # of one piece: training and measuring, with and without padding, several families in one process


@cache
def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """A function of tensors, compiled once for the whole process."""
    _allow_variants()
    result: Callable[P, R] = torch.compile(function, dynamic=True)
    return result


def compile_module(module: nn.Module) -> None:
    """In place: parameters, names and hooks stay as they are."""
    _allow_variants()
    module.compile(dynamic=True)


def _allow_variants() -> None:
    """Beyond this number torch runs plain code, and says so."""
    import torch._dynamo.config as config

    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
