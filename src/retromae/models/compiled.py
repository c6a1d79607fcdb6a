"""What a compiler makes one kernel of, for runs that ask for it.

Compiling costs seconds to a minute at the start of a run, so only the pieces that take the time are compiled: the
layers of a model one by one, which are alike, and a few functions of tensors. Shapes are taken as variable, since
batches differ in theirs. Everything is written as plain torch and gives the same without a compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import nn

F = TypeVar("F", bound=Callable[..., Any])

_VARIANTS = (
    64  # of one piece: training and measuring, with and without padding, several families in one process
)


def compiled(function: F) -> F:
    """A function of tensors, compiled once for the whole process."""
    return cast(F, _compiled(function))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    _allow_variants()
    return torch.compile(function, dynamic=True)


def compile_module(module: nn.Module) -> None:
    """In place: parameters, names and hooks stay as they are."""
    _allow_variants()
    module.compile(dynamic=True)


def _allow_variants() -> None:
    """Beyond this number torch runs plain code, and says so."""
    import torch._dynamo.config as config

    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
