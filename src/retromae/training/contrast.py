"""The loss of fine-tuning: groups of texts embedded in few padded tokens, and the losses that compare them.

What is compared with what, and how, is sentence-transformers' business: its losses are called with embeddings.
What it lacks is here:

* all passages of a batch are embedded in chunks of similar length under a token budget (its own order pads every
  text to the longest of the batch);
* **gradient caching for any sum of losses** (Gao et al., 2021): embed without a graph, take the losses' gradients
  at the embeddings, embed again chunk by chunk with a graph. Memory is that of one chunk, the gradient is the same;
* several losses over one embedding of the texts, each with its weight and its figure in the log;
* Matryoshka: the same losses over the leading dimensions;
* a pre-training objective that rides along in the same encoder passes (the unified framework's second stage).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from sentence_transformers.base.losses.merged_forward import merge_feature_batches
from torch import Tensor, nn

from retromae.core import distributed
from retromae.core.packing import by_length
from retromae.objectives.unified import Reconstruction, reconstruction_loss, total_counts
from retromae.retrieval.first_token import FirstToken

Features = dict[str, Any]


class EmbeddingLoss(Protocol):
    """A loss of sentence-transformers: columns of embeddings (B, d) and labels → a scalar."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor: ...


@dataclass
class Part:
    """One of the losses that are added up."""

    name: str
    weight: float
    loss: EmbeddingLoss


@dataclass
class Rider:
    """A pre-training objective whose losses come out of the same encoder passes (`objectives.unified`)."""

    weight: float
    parts: Mapping[str, float]  # its losses by name, and their weights
    queries: bool  # are queries rebuilt too?
    passages: int  # how many there are: queries are numbered after them


@dataclass
class _Chunk:
    """Some rows of one tower's texts, cut to their longest."""

    features: Features
    rows: Tensor  # (n,) where they stand among the tower's texts


class GroupLoss(nn.Module):
    """Queries, positives and negatives → {part: its weighted loss}, which the trainer logs and adds up."""

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[Part],
        *,
        chunk_tokens: int,
        cached: bool = False,
        dimensions: Sequence[int] = (),
        rider: Rider | None = None,
        first: FirstToken | None = None,
    ) -> None:
        """`chunk_tokens` of one forward pass, padding included. `cached` turns gradient caching on. `dimensions`
        are those of Matryoshka, the whole vector among them. With a `rider` the model holds a `UnifiedEncoder`,
        and the last columns of the labels say which pass, query and passages these are. `first` lets the model's
        last layer be computed at [CLS] alone, where that is what it pools."""
        super().__init__()
        self.model = model
        self.parts = list(parts)
        self.chunk_tokens, self.cached, self.dimensions = chunk_tokens, cached, list(dimensions)
        self.rider, self.first = rider, first
        self.progress = 0.0  # of the training, for schedules
        self.tokens_seen = 0
        self.replayed: Tensor | None = None  # the rider's loss, which gradient caching knows only afterwards

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> dict[str, Tensor]:
        queries, *passages = sentence_features
        if self.rider is not None and labels is not None:
            self._number(queries, passages, labels)
        towers = [self._chunks([queries]), self._chunks(passages)]
        scores = None if labels is None else labels[:, : len(passages)].float()
        if self.cached and torch.is_grad_enabled():
            return self._with_cache(towers, len(passages), scores)
        runs = [[self._embed(chunk) for chunk in tower] for tower in towers]
        embeddings = [_in_order([run[0] for run in tower], chunks) for tower, chunks in zip(runs, towers)]
        losses = self._compare(embeddings, len(passages), scores)
        rebuilt = [run[1] for tower in runs for run in tower if run[1] is not None]
        return {**losses, **self._rebuilding(rebuilt, self._totals(rebuilt))}

    # -- embedding ----------------------------------------------------------------------------------------------

    def _chunks(self, columns: list[Features]) -> list[_Chunk]:
        """All texts of the columns, column after column, in chunks of similar length."""
        merged = merge_feature_batches(columns) if len(columns) > 1 else columns[0]
        if merged is None:  # texts that cannot stand in one batch: a chunk per column
            starts = [0]
            for column in columns:
                starts.append(starts[-1] + _rows(column))
                self.tokens_seen += int(column["attention_mask"].sum())
            return [_Chunk(c, torch.arange(a, b)) for c, a, b in zip(columns, starts, starts[1:])]
        mask = merged["attention_mask"].cpu()  # once: every look at the device would wait for it
        lengths = mask.sum(dim=1).numpy()
        self.tokens_seen += int(lengths.sum())
        parts = [torch.from_numpy(rows) for rows in by_length(lengths, self.chunk_tokens)]
        return [_Chunk(_cut(merged, mask, rows, int(lengths[rows.numpy()].max())), rows) for rows in parts]

    def _embed(self, chunk: _Chunk, **more: Any) -> tuple[Tensor, Reconstruction | None]:
        with self.first.alone(chunk.features["input_ids"]) if self.first else nullcontext():
            out = self.model({**chunk.features, **more})
        return out["sentence_embedding"], out.get("reconstruction")

    # -- comparing ----------------------------------------------------------------------------------------------

    def _compare(self, towers: Sequence[Tensor], group: int, labels: Any) -> dict[str, Tensor]:
        queries, passages = towers
        columns = [queries, *passages.view(group, -1, passages.shape[-1])]
        widths = self.dimensions or [queries.shape[-1]]
        losses = {}
        for part in self.parts:
            values = [
                part.loss.compute_loss_from_embeddings([column[:, :width] for column in columns], labels)
                for width in widths
            ]
            losses[part.name] = part.weight * torch.stack(values).mean()
        return losses

    # -- rebuilding the texts -----------------------------------------------------------------------------------

    def _number(self, queries: Features, passages: list[Features], labels: Tensor) -> None:
        """Tell the encoder which texts these are: its masks are a pure function of that."""
        assert self.rider is not None
        numbers = labels[:, -(2 + len(passages)) :].to(torch.int64)
        passes, query, rows = numbers[:, 0], numbers[:, 1], numbers[:, 2:]
        for column, features in enumerate([queries, *passages]):
            features["row_ids"] = rows[:, column - 1].clone() if column else query + self.rider.passages
            features["epochs"] = passes.clone()
            features["progress"] = self.progress
            features["mask"] = bool(column) or self.rider.queries

    def _totals(self, chunks: Sequence[Reconstruction]) -> dict[str, Tensor]:
        """Items of every part over the batches of all processes."""
        if self.rider is None:
            return {}
        counts = total_counts(chunk.counts for chunk in chunks)
        summed = distributed.sum_over_ranks(torch.stack([counts[name] for name in self.rider.parts]))
        return dict(zip(self.rider.parts, summed.unbind()))

    def _rebuilding(self, chunks: Sequence[Reconstruction], totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rider's loss as one part; processes average their gradients, and these are shares of one mean."""
        if self.rider is None:
            return {}
        loss = reconstruction_loss(chunks, self.rider.parts, totals)["loss"]
        return {"reconstruction": self.rider.weight * distributed.world_size() * loss}

    # -- gradient caching ---------------------------------------------------------------------------------------

    def _with_cache(self, towers: list[list[_Chunk]], group: int, labels: Any) -> dict[str, Tensor]:
        chunks = [chunk for tower in towers for chunk in tower]
        states: list[_RandomState] = []
        runs: list[tuple[Tensor, Reconstruction | None]] = []
        more = {"reconstruct": False} if self.rider is not None else {}
        with torch.no_grad():
            for chunk in chunks:
                states.append(_RandomState(chunk.features))
                runs.append(self._embed(chunk, **more))
        vectors = [run[0] for run in runs]
        first = len(towers[0])
        embeddings = [
            _in_order(vectors[:first], towers[0]).requires_grad_(),
            _in_order(vectors[first:], towers[1]).requires_grad_(),
        ]
        with torch.enable_grad():
            losses = self._compare(embeddings, group, labels)
            gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), embeddings)
        totals = self._totals([run[1] for run in runs if run[1] is not None])
        parts = [
            gradient[chunk.rows.to(gradient.device)]
            for tower, gradient in zip(towers, gradients)
            for chunk in tower
        ]
        values = {name: value.detach() for name, value in losses.items()}
        name = next(iter(values))  # the trainer adds the parts up: one of them carries the gradient of all
        values[name] = values[name].requires_grad_()
        replay = _Replay(self, chunks, parts, states, totals)
        values[name].register_hook(replay)  # type: ignore[no-untyped-call]
        return values


@dataclass
class _Replay:
    """Embeds again, chunk by chunk and with a graph, when the gradient of the loss is asked for."""

    loss: GroupLoss
    chunks: list[_Chunk]
    gradients: list[Tensor]  # of each chunk's embeddings
    states: list[_RandomState]
    totals: dict[str, Tensor]

    def __call__(self, scale: Tensor) -> None:
        """Under DDP only the last chunk's backward pass exchanges gradients."""
        unsynchronised = getattr(self.loss.model, "no_sync", nullcontext)
        for place, (chunk, gradient, state) in enumerate(zip(self.chunks, self.gradients, self.states)):
            last = place == len(self.chunks) - 1
            with nullcontext() if last else unsynchronised(), torch.enable_grad(), state:
                embedding, rebuilt = self.loss._embed(chunk)
                value = (embedding * gradient.to(embedding.dtype)).sum()
                if rebuilt is not None:
                    part = self.loss._rebuilding([rebuilt], self.totals)["reconstruction"]
                    value = value + part
                    known = self.loss.replayed
                    self.loss.replayed = part.detach() if known is None else known + part.detach()
                torch.autograd.backward([value * scale])


class _RandomState:
    """Draws dropout again as it was drawn when this was made."""

    def __init__(self, features: Features) -> None:
        device = features["input_ids"].device
        self.devices = [device] if device.type == "cuda" else []
        self.host = torch.get_rng_state()
        self.accelerators = [torch.cuda.get_rng_state(device) for device in self.devices]

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=self.devices)
        self._fork.__enter__()
        torch.set_rng_state(self.host)
        for device, state in zip(self.devices, self.accelerators):
            torch.cuda.set_rng_state(state, device)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def _rows(features: Features) -> int:
    return int(features["input_ids"].shape[0])


def _cut(features: Features, mask: Tensor, rows: Tensor, length: int) -> Features:
    """Some rows of padded texts, without the columns that only longer texts need; `mask` lies on the host."""
    size, width = mask.shape
    mask = mask[rows]
    kept = slice(0, width)
    if not mask[:, length:].any():
        kept = slice(0, length)
    elif not mask[:, : width - length].any():
        kept = slice(width - length, width)
    cut: Features = {}
    for name, value in features.items():
        if isinstance(value, Tensor) and value.ndim >= 1 and value.shape[0] == size:
            chosen = value[rows.to(value.device)]
            cut[name] = chosen[:, kept] if value.ndim >= 2 and value.shape[1] == width else chosen
        else:
            cut[name] = value
    return cut


def _in_order(vectors: list[Tensor], chunks: list[_Chunk]) -> Tensor:
    """The chunks' embeddings in the order of the texts."""
    rows = torch.cat([chunk.rows for chunk in chunks])
    joined = torch.cat(vectors)
    return joined[torch.argsort(rows).to(joined.device)]
