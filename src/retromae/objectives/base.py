"""What every pre-training objective is: one file, one settings dataclass, one module.

An objective sees a `Batch` of token rows, draws its masks from it (a pure function, see `core.draws`), and returns
its loss in named parts. Means are taken over a whole optimiser step, not over a batch: the trainer adds up the
`counts` of all micro-batches on all ranks and hands them back as `totals`; what `forward` returns are this batch's
contributions, which add up to the step's mean. So neither accumulation nor the number of processes changes the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retromae.core.draws import Stream, at_positions, below, choose_words, row_keys, stream_keys
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.compiled import compile_module
from retromae.models.layers import DecoderLayer
from retromae.models.losses import Backend, vocabulary_cross_entropy, vocabulary_scores
from retromae.models.needed import places_of
from retromae.text.words import ordinary_ids, word_starts


@dataclass
class Batch:
    """Token rows with their special tokens, padded to one length."""

    token_ids: Tensor  # (B, L) int64: [CLS] x1 … xN [SEP] [PAD] …
    attention_mask: Tensor  # (B, L) int64: 1 for tokens, 0 for padding
    row_ids: Tensor  # (B,) int64: which row of the data; masks depend on it
    epochs: Tensor  # (B,) int64: which pass over the data; masks depend on it
    progress: float = 0.0  # how much of the training is done, in [0, 1]; for schedules
    full: bool = False  # known to hold no padding

    @property
    def mask(self) -> Tensor | None:
        """(B, L) attention mask, None where it is known to hide nothing: attention without one is faster."""
        return None if self.full else self.attention_mask

    def pin_memory(self) -> Batch:
        """In memory that a device reads while the processor goes on; the data loader asks for it."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def tensors(self) -> list[Tensor]:
        return [value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            f.name: change(value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class Vocabulary:
    """What an objective needs to know of the tokenizer."""

    mask_id: int
    word_starts: Tensor  # (V,) bool: the id begins a word
    ordinary: Tensor  # (V,) bool: the id is no special token

    @classmethod
    def of(cls, tokenizer: Any, backbone: Backbone) -> Vocabulary:
        """Ids that only the model has count as special."""
        if tokenizer.mask_token_id is None:
            raise UserError(
                "The tokenizer has no mask token, which masked auto-encoding needs; choose another model."
            )

        def table(flags: NDArray[np.bool_]) -> Tensor:
            out = torch.zeros(backbone.vocab_size, dtype=torch.bool)
            out[: len(flags)] = torch.from_numpy(flags)
            return out

        return cls(tokenizer.mask_token_id, table(word_starts(tokenizer)), table(ordinary_ids(tokenizer)))


class Drawn(NamedTuple):
    """An objective's random choices for one batch, and how many items each named part will count."""

    tensors: dict[str, Tensor]
    counts: dict[str, Tensor]  # part → number of items, 0-dim float32

    def places(self, name: str) -> Tensor:
        """(n,): where the flags of that name are true. Found once, since a device must be waited for."""
        found = f"places of {name}"
        if found not in self.tensors:
            self.tensors[found] = places_of(self.tensors[name])
        return self.tensors[found]


class Labelled(NamedTuple):
    """The rows of one part that have a label: decoded states and the words they should predict."""

    name: str
    hidden: Tensor  # (n, d), before the vocabulary head's transform
    targets: Tensor  # (n,) int64

    @classmethod
    def at(cls, places: Tensor, name: str, hidden: Tensor, token_ids: Tensor) -> Labelled:
        """The rows of (B, L, d) at these places (n,), and what stands there in (B, L)."""
        return cls.taken(places, name, hidden.flatten(0, 1).index_select(0, places), token_ids)

    @classmethod
    def taken(cls, places: Tensor, name: str, hidden: Tensor, token_ids: Tensor) -> Labelled:
        """The states (n, d) of these places already, and what stands there in (B, L)."""
        return cls(name, hidden, token_ids.flatten().index_select(0, places))


class Encoded(NamedTuple):
    """One pass through the encoder, and through a decoder where there is one, before any loss."""

    hidden: Tensor  # (B, L, d) states of the masked passage, where read; position 0 is the sentence vector
    parts: list[Labelled]


class Objective(nn.Module, ABC):
    """Base of all objectives. A subclass gives `Config`, `draw`, `labelled` or `forward`, and its own parts."""

    Config: ClassVar[type]
    paper: ClassVar[str] = ""
    needs_dropout: ClassVar[bool] = False
    """Is dropout what makes a difference between two views of a text, without which there is nothing to learn?"""

    def __init__(self, backbone: Backbone, settings: Any, vocabulary: Vocabulary, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.seed = seed
        self.mask_id = vocabulary.mask_id
        self.loss_backend: Backend = "chunked"
        self.compiled = False
        self.register_buffer("word_starts", vocabulary.word_starts, persistent=False)
        self.register_buffer("ordinary", vocabulary.ordinary, persistent=False)
        self.register_buffer("ordinary_ids", vocabulary.ordinary.nonzero()[:, 0], persistent=False)

    @abstractmethod
    def draw(self, batch: Batch) -> Drawn:
        """All random choices of this batch, as a pure function of (seed, epoch, row, position)."""

    def draw_ahead(self, batch: Batch) -> Drawn:
        """`draw`, and all that `forward` would otherwise wait for a device for: where the flags are true."""
        drawn = self.draw(batch)
        for name in [name for name, tensor in drawn.tensors.items() if tensor.dtype == torch.bool]:
            drawn.places(name)
        return drawn

    @abstractmethod
    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """{"loss": scalar, part: its contribution to the step's mean, without gradient, …}.

        `totals` are the counts of the whole step; left out, the batch stands for itself.
        """

    def flops(self, rows: int, length: int) -> float:
        """The floating-point operations of one training step on a full batch of `rows` rows of `length` tokens,
        forward and backward: its matrix products (see `models.flops`), with the number of labels to be expected."""
        raise UserError(
            f"{type(self).__name__} does not say how many operations a step takes (its method `flops`); write it, or "
            "give a budget in tokens, steps or minutes."
        )

    def compile_parts(self) -> None:
        """Compile what takes the time of a step: the layers of encoder and decoder, and what is done per word."""
        for part in self.modules():
            if isinstance(part, Backbone):
                part.compile_layers()
            elif isinstance(part, DecoderLayer):
                compile_module(part)
        self.compiled, self.loss_backend = True, "fused"

    def heads(self) -> dict[str, nn.Module]:
        """The parts besides the backbone that a checkpoint must keep so that training can go on."""
        return {}

    def head_tensors(self) -> dict[str, Tensor]:
        """The tensors of `heads` under the names that a checkpoint keeps them by; one with two names once."""
        tensors: dict[int, tuple[str, Tensor]] = {}
        for part, module in self.heads().items():
            for name, tensor in module.state_dict(keep_vars=True).items():
                tensors.setdefault(id(tensor), (f"{part}.{name}", tensor))
        return dict(tensors.values())

    @torch.no_grad()
    def take_heads(self, heads: Mapping[str, Tensor]) -> bool:
        """Copy a checkpoint's heads in where all of them fit; else the fresh ones stay, and it says False."""
        mine = self.head_tensors()
        fits = all(name in heads and heads[name].shape == tensor.shape for name, tensor in mine.items())
        if fits:
            for name, tensor in mine.items():
                tensor.copy_(heads[name])
        return fits

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """For watching: name → (sum, count) over this batch, to be added up over batches and divided."""
        drawn = self.draw(batch)
        parts = self(batch, drawn)
        return {
            f"{name}_loss": (value * drawn.counts[name], drawn.counts[name])
            for name, value in parts.items()
            if name in drawn.counts
        }

    # -- shared pieces ---------------------------------------------------------------------------------------

    def is_ordinary(self, batch: Batch) -> Tensor:
        """(B, L) bool: a token of the text: neither special nor padding."""
        ordinary: Tensor = self.ordinary  # type: ignore[assignment]
        return ordinary[batch.token_ids] & batch.attention_mask.bool()

    def row_keys(self, batch: Batch) -> Tensor:
        """(B,) int32: where all draws of a row start from."""
        return row_keys(self.seed, batch.epochs, batch.row_ids)

    def words(self, batch: Batch) -> Tensor:
        """(B, L) int64: the number of the word that a token belongs to, counted from 0 in its row; else −1."""
        inside = self.is_ordinary(batch)
        starts: Tensor = self.word_starts  # type: ignore[assignment]
        begins = inside & starts[batch.token_ids]
        begins[:, 1:] |= inside[:, 1:] & ~inside[:, :-1]  # after a special token a word begins in any case
        begins[:, 0] |= inside[:, 0]
        return (begins.cumsum(dim=1) - 1).masked_fill(~inside, -1)

    def mask_words(self, batch: Batch, share: float, *, decoder: bool = False) -> tuple[Tensor, Tensor]:
        """Mask `share` of the words of every row, whole words at a time.

        Returns the masked token ids (B, L) and which positions are labelled (B, L) bool. Of the labelled tokens
        80 % become [MASK], 10 % a random ordinary token, 10 % stay. Encoder and decoder draw independently.
        """
        streams = _DECODER_STREAMS if decoder else _ENCODER_STREAMS
        batch_size, length = batch.token_ids.shape
        keys = stream_keys(self.row_keys(batch), *streams).flatten()
        which, counts, kinds, tokens = at_positions(keys, length).view(4, batch_size, length)
        labelled = choose_words(self.words(batch), share, which, counts[:, 0])
        masked = labelled & below(kinds, 0.8)
        random = labelled & below(kinds, 0.9) & ~masked
        ids: Tensor = self.ordinary_ids  # type: ignore[assignment]
        substitutes = ids[tokens.remainder(ids.shape[0])]
        token_ids = batch.token_ids.masked_fill(masked, self.mask_id)
        return torch.where(random, substitutes, token_ids), labelled

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it makes its own gradients, in one buffer
    def vocabulary_losses(
        self, parts: list[Labelled], totals: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The parts' cross-entropies in one pass through the vocabulary head: their sum, and each by name."""
        hidden = self.backbone.head_transform(torch.cat([part.hidden for part in parts]))
        scales = torch.stack([1.0 / totals[part.name].clamp(min=1) for part in parts])
        loss, sums = vocabulary_cross_entropy(
            hidden,
            self.backbone.head_weight,
            self.backbone.head_bias,
            torch.cat([part.targets for part in parts]),
            [part.targets.shape[0] for part in parts],
            scales,
            backend=self.loss_backend,
        )
        return loss, {part.name: value for part, value in zip(parts, (sums * scales).detach())}

    def vocabulary_measures(self, parts: list[Labelled]) -> dict[str, tuple[Tensor, Tensor]]:
        """Loss and accuracy of every part, as (sum, count)."""
        measures: dict[str, tuple[Tensor, Tensor]] = {}
        for part in parts:
            nll, hits = vocabulary_scores(
                self.backbone.head_transform(part.hidden),
                self.backbone.head_weight,
                self.backbone.head_bias,
                part.targets,
            )
            count = torch.tensor(float(part.targets.shape[0]), device=nll.device)
            measures[f"{part.name}_loss"] = (nll.sum(), count)
            measures[f"{part.name}_accuracy"] = (hits.sum(), count)
        return measures


_ENCODER_STREAMS = (
    Stream.ENCODER_WORDS,
    Stream.ENCODER_COUNT,
    Stream.ENCODER_KIND,
    Stream.ENCODER_TOKEN,
)
_DECODER_STREAMS = (
    Stream.DECODER_WORDS,
    Stream.DECODER_COUNT,
    Stream.DECODER_KIND,
    Stream.DECODER_TOKEN,
)


def count(flags: Tensor) -> Tensor:
    """How many are true, as a 0-dim float32 tensor that stays on its device."""
    return flags.sum().to(torch.float32)
