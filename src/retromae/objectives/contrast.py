"""What contrastive objectives share: rows of one optimiser step are compared with each other, all of them.

A loss over in-batch negatives is no sum over rows, so cutting a step into micro-batches or dealing it out to processes
would change it. It does not here: `over_the_step` embeds the whole step once without a graph, takes the gradient of
the step's loss at its vectors, and leaves it with each batch's draws (gradient caching, Gao et al., 2021). The usual
forward pass then embeds a batch again, with a graph, and sends that gradient back through it. A step of one batch has
all rows at hand and needs none of this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retromae.core import distributed
from retromae.models.backbone import Backbone
from retromae.objectives.base import Batch, Drawn, Objective

GRADIENT, VALUE = "contrast_gradient", "contrast_value"  # where `over_the_step` leaves what it found


class Contrastive(Objective):
    """An objective with a part `contrast`, in which every row of a step is compared with all the others.

    `draw` counts the rows that are compared as "contrast": those without an ordinary word are not. `forward` calls
    `vectors` before anything else that draws dropout, so that both passes of gradient caching draw it alike.
    """

    @abstractmethod
    def vectors(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(n, V, d): the V vectors of each of the n compared rows of this batch.

        Where the draws hold `GRADIENT`, those that no gradient reaches may be left out, if they come last.
        """

    @abstractmethod
    def contrast(self, vectors: Tensor) -> Tensor:
        """(N, V, d), all rows of a step → the sum of their losses, 0-dim."""

    def begin_step(self) -> None:
        """Called by the trainer once per optimiser step, before its passes; for what changes as training goes on."""

    def remember(self, vectors: Tensor) -> None:
        """Called once per optimiser step, in training only, with all its vectors, after they have been compared."""

    def resting(self) -> list[nn.Parameter]:
        """Parameters that this step does not train, though other steps do. The trainer leaves them as they are."""
        return []

    def contrast_loss(
        self, vectors: Tensor, drawn: Drawn, totals: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """This batch's share of the step's mean loss, with gradient."""
        if GRADIENT not in drawn.tensors:
            loss = self.contrast(vectors) / (totals or drawn.counts)["contrast"].clamp(min=1)
            if self.training:
                self.remember(vectors.detach())
            return loss
        gradient = drawn.tensors[GRADIENT][:, : vectors.shape[1]]
        pull = (vectors.to(gradient.dtype) * gradient).sum()
        return drawn.tensors[VALUE] + (pull - pull.detach())

    def forward(
        self, batch: Batch, drawn: Drawn | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        drawn = drawn or self.draw(batch)
        loss = self.contrast_loss(self.vectors(batch, drawn), drawn, totals)
        return {"loss": self.reaching_all(loss), "contrast": loss.detach()}

    def reaching_all(self, loss: Tensor) -> Tensor:
        """The same loss; with several processes, which all wait for all gradients, one of zeros for those that rest."""
        resting = self.resting()
        if not resting or distributed.world_size() == 1:
            return loss
        return loss + torch.stack([parameter.flatten()[:0].sum() for parameter in resting]).sum()

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        drawn = self.draw(batch)
        return self.measure_vectors(self.vectors(batch, drawn), drawn)

    def measure_vectors(self, vectors: Tensor, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """The loss against the other rows of the same batch, and `row_cosine`, how alike the vectors of different
        rows are: near 1 they all point one way, and a search can hardly tell them apart."""
        first = F.normalize(full(vectors[:, 0]), dim=-1)
        rows = drawn.counts["contrast"]
        # The sum over all pairs is the square of the sum; each row's own cosine, which is 1, is taken off.
        others = first.sum(dim=0).square().sum() - rows
        return {
            "contrast_loss": (self.contrast(vectors), rows),
            "row_cosine": (others, rows * (rows - 1)),
        }


@torch.no_grad()
def over_the_step(
    objective: Contrastive,
    samples: Sequence[tuple[Batch, Drawn]],
    before_each: Callable[[int], None] = lambda number: None,
    gather: Callable[[Tensor], list[Tensor]] = lambda values: [values],
    turns: Sequence[int] | None = None,
) -> None:
    """First pass of gradient caching over one process's batches of a step: fills GRADIENT and VALUE in their draws.

    before_each  called with each batch's number before it is embedded: to seed dropout as the second pass will
    gather       one tensor → those of all processes, in the order of their numbers (`distributed.gather_rows`);
                 processes may have different numbers of batches
    turns        when each batch was dealt out, in rising order; left out, one after the other
    """
    mine = []
    for number, (batch, drawn) in enumerate(samples):
        before_each(number)
        mine.append(objective.vectors(batch, drawn))
    marks = [[len(vectors), turn] for vectors, turn in zip(mine, turns or range(len(mine)), strict=True)]
    processes = gather(torch.cat(mine))
    dealt = _dealt(processes, gather(torch.tensor(marks, device=mine[0].device)))
    together = torch.cat([vectors for _, _, vectors in dealt])
    with torch.enable_grad():
        leaf = together.requires_grad_()
        mean = objective.contrast(leaf) / max(1, len(leaf))
        (gradient,) = torch.autograd.grad(mean, leaf)
    gradients = torch.split(gradient, [len(vectors) for _, _, vectors in dealt])
    own = distributed.rank() if len(processes) > 1 else 0
    ours = [part for (_, process, _), part in zip(dealt, gradients) if process == own]
    for (_, drawn), part in zip(samples, ours, strict=True):
        drawn.tensors[GRADIENT] = part
        drawn.tensors[VALUE] = mean.detach() * (len(part) / max(1, len(leaf)))
    if objective.training:
        objective.remember(together.detach())


def _dealt(vectors: list[Tensor], marks: list[Tensor]) -> list[tuple[int, int, Tensor]]:
    """Every process's vectors (n, V, d), and (batches, 2) how many belong to each batch and its turn → (turn, process,
    vectors) of all batches, in the order in which one process would have had them."""
    parts = [
        (turn, process, part)
        for process, (rows, mark) in enumerate(zip(vectors, marks))
        for part, turn in zip(torch.split(rows, mark[:, 0].tolist()), mark[:, 1].tolist())
    ]
    return sorted(parts, key=lambda part: part[:2])  # stable: a process's batches of one turn stay in order


# -- pieces --------------------------------------------------------------------------------------------------------


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Σ_i −log softmax_j(⟨anchor_i, candidate_j⟩ / temperature)[i]: (N, d), (M ≥ N, d) → 0-dim.

    Candidate i is the right one for anchor i. In full precision, also under autocast.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        scores = full(anchors) @ full(candidates).t() / temperature  # (N, M)
        if not len(anchors):
            return scores.sum()
        own = torch.arange(len(anchors), device=anchors.device)
        return F.cross_entropy(scores, own, reduction="sum")


def full(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype == torch.float64 else values.float()


def nearest_is_own(anchors: Tensor, candidates: Tensor) -> Tensor:
    """How many anchors have the greatest dot product with their own candidate: (N, d), (N, d) → 0-dim float32."""
    if not len(anchors):
        return anchors.new_zeros((), dtype=torch.float32)
    best = (full(anchors) @ full(candidates).t()).argmax(dim=1)
    return (best == torch.arange(len(best), device=best.device)).sum().to(torch.float32)


class Projection(nn.Module):
    """SimCSE's layer between [CLS] and the comparison: dense and tanh. In training only: the model is without it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.dense = nn.Linear(backbone.hidden_size, backbone.hidden_size)
        nn.init.normal_(self.dense.weight, std=backbone.initializer_range)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden))


def freeze_vocabulary_head(backbone: Backbone) -> None:
    """For an objective that predicts no words: nothing waits for the head's gradients, and no decay shrinks it."""
    encoder = {id(parameter) for parameter in backbone.base.parameters()}
    for parameter in backbone.parameters():
        if id(parameter) not in encoder:
            parameter.requires_grad_(False)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def token_of_word(words: Tensor, word: Tensor) -> Tensor:
    """(B, L) numbers of words as `Objective.words` gives them, (B,) one number each → (B,) where that word begins;
    L where the row has no such word."""
    reached = words >= word[:, None]
    length = words.shape[1]
    return torch.where(reached.any(dim=1), reached.to(torch.uint8).argmax(dim=1), length)


def row_ends(attention_mask: Tensor) -> Tensor:
    """(B, L) bool: [CLS] and [SEP]."""
    place = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (place == 0) | (place == attention_mask.sum(dim=1, keepdim=True) - 1)


def keep_tokens(kept: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Take tokens out of rows and close the gaps: the new attention mask (B, L'), and each of `others` (B, L) alike.

    kept (B, L) bool: the tokens that stay, [CLS] and [SEP] among them. L' is the longest row's `kept_width`. Behind
    a row's end stands what was taken out.
    """
    counts = kept.sum(dim=1)
    width = kept_width(int(counts.max()), kept.shape[1])
    where = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    mask = torch.arange(width, device=kept.device) < counts[:, None]
    return mask.to(torch.int64), *(other.gather(1, where) for other in others)


def kept_width(longest: int, before: int) -> int:
    """To how many columns rows are padded whose longest is left with `longest` tokens of `before`: rounded up, so
    that few shapes exist."""
    return min(-(-longest // 8) * 8, before)
