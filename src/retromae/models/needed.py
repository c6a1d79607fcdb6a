"""The last layer where it is read, and nowhere else.

After its attention a layer treats every position by itself. Of the last layer's output an objective reads [CLS] and the
masked words, a retriever [CLS] alone, so there the output projection, LayerNorm and MLP need not be computed anywhere
else. Where that part of a layer begins and ends is data: `families.Tail`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from retromae.models.families import Tail


def places_of(flags: Tensor) -> Tensor:
    """Flags of any shape → (n,) int64: where they are true, counted through all of them laid end to end."""
    return flags.flatten().nonzero()[:, 0]


class LastLayer:
    """An encoder's last layer: which one it is, and whether it may leave out what is not needed.

    It does not with gradient checkpointing, which computes the layer once more, where an MLP is cut into chunks of
    positions and must see them all, and inside a compiled graph, where shapes must not depend on values.
    """

    def __init__(self, model: PreTrainedModel, tail: Tail | None) -> None:
        config: Any = model.config
        self._model, self._tail = model, tail
        self.leaves_out = tail is not None and not getattr(config, "chunk_size_feed_forward", 0)

    @property
    def layers(self) -> list[nn.Module]:
        """All layers, [] where the last one cannot be told from the others."""
        return [] if self._tail is None else list(self._model.get_submodule(self._tail.layers).children())

    @property
    def may_leave_out(self) -> bool:
        checkpoints = any(getattr(part, "gradient_checkpointing", False) for part in self._model.modules())
        return self.leaves_out and not checkpoints

    def only(self, needed: Tensor, whole: tuple[int, ...]) -> AbstractContextManager[None]:
        """A pass in it over `whole` = (B, L) may leave out all but what is needed: flags (B, L), or places (n,)."""
        if self._tail is None or torch.compiler.is_compiling() or not self.may_leave_out:
            return nullcontext()
        places = places_of(needed) if needed.dtype == torch.bool else needed
        return only_at(places, (whole[0], whole[1]), self.layers[-1], self._tail)


@contextmanager
def only_at(places: Tensor, whole: tuple[int, int], layer: nn.Module, tail: Tail) -> Iterator[None]:
    """While it lasts, `layer` computes its tail at the needed positions only: `places` (n,) of `whole` = (B, L).

    What enters a part of the tail, (B, L, ·), goes on as (1, n, ·), the n needed positions of all rows; what leaves it
    is put back, with zeros elsewhere. Tensors of other shapes stay as they are. Dropout falls as in the whole pass.
    Hooks do it, which are gone afterwards, whatever happens, so no copy, no file and no later pass sees anything of it.
    Two threads must not use one model meanwhile.
    """
    packed = (1, len(places))

    def gather(states: Tensor) -> Tensor:
        return states.flatten(0, 1).index_select(0, places)[None] if states.shape[:2] == whole else states

    def enter(module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> Any:
        return tuple(map(gather, args)), {name: gather(states) for name, states in kwargs.items()}

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if output.shape[:2] != packed:
            return output
        states = output.new_zeros(math.prod(whole), output.shape[-1])
        return states.index_copy_(0, places, output[0]).view(*whole, -1)

    def dropping(dropout: nn.Dropout) -> Callable[[Tensor], Tensor]:
        plain = dropout.forward

        def forward(states: Tensor) -> Tensor:
            if states.shape[:2] != packed or states.ndim != 3:
                return plain(states)
            with torch.no_grad():
                kept = gather(plain(states.new_ones(*whole, states.shape[-1])))  # 0 or 1 / (1 - p)
            return states * kept

        return forward

    with ExitStack() as undo:
        if len(places) < math.prod(whole):
            for first, last in tail.parts:
                start, end = layer.get_submodule(first), layer.get_submodule(last)
                undo.enter_context(start.register_forward_pre_hook(enter, with_kwargs=True))
                undo.enter_context(end.register_forward_hook(leave))
            for dropout in layer.modules():
                if isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0:
                    dropout.forward = dropping(dropout)  # type: ignore[method-assign, assignment]
                    undo.callback(delattr, dropout, "forward")
        yield
