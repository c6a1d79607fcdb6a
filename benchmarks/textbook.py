"""RetroMAE as its paper's equations read, with the plain engineering of 2022: the baseline of our timings.

The maths is right and nothing is slowed down on purpose, but nothing is clever either: masks are drawn per
token in Python, a batch is drawn at random and padded to its longest row, both losses take the logits of
every position, attention is eager under a float mask, and AdamW is the foreach one.

Choices where the paper (sections 3.1 to 3.3) leaves room:
- Eq. 4 is taken literally: queries h + p_i, keys and values [h, e_1 + p_1, ...], without LayerNorm, token
  type or dropout on those sums.
- The losses are means (over masked tokens, over ordinary tokens), summed with equal weight.
- [CLS] and [SEP] are never masked, hidden (but for the diagonal and for row 0's view of itself) or predicted.
- The share of words is reached as BERT's whole-word masking does it: shuffled words are taken while they fit
  into the budget of tokens, so a row falls short of its share by less than one word.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

IGNORED = -100  # the label that cross-entropy skips


class SpecialIds(NamedTuple):
    """Ids of the special tokens; the defaults are those of the made-up vocabulary in `common.random_rows`."""

    pad: int = 0
    cls: int = 2
    sep: int = 3
    mask: int = 4


def random_batches(rows: Sequence[list[int]], size: int, seed: int) -> Iterator[list[list[int]]]:
    """One epoch of batches of `size` rows in random order, whatever their length; the last may be smaller."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    for start in range(0, len(order), size):
        yield [rows[index] for index in order[start : start + size]]


class TextbookCollator:
    """Rows of ordinary token ids (no special tokens) → one padded batch with both masks.

    `word_start[id]` says whether that vocabulary entry begins a word (a row's first token always does).
    Two collators with the same seed draw the same masks.
    """

    def __init__(
        self,
        word_start: Sequence[bool],
        special: SpecialIds = SpecialIds(),  # noqa: B008 - immutable
        *,
        encoder_share: float = 0.3,
        decoder_share: float = 0.5,
        mask_sets: int = 256,
        max_length: int = 512,
        seed: int = 0,
    ) -> None:
        self.word_start = [bool(start) for start in word_start]  # a list: NumPy scalars are slow one by one
        self.special = special
        self.encoder_share = encoder_share
        self.decoder_share = decoder_share
        self.mask_sets = mask_sets
        self.max_length = max_length
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Tensors (B, L): input_ids, attention_mask, labels, decoder_input_ids, decoder_labels;
        (B, L, L): decoder_visible, 1 where row i may look at position j."""
        originals, encoder_masks, decoder_labels, visibles = [], [], [], []
        for row in rows:
            ids = [self.special.cls, *row[: self.max_length - 2], self.special.sep]
            originals.append(torch.tensor(ids))
            encoder_masks.append(torch.tensor(self.whole_word_mask(ids, self.encoder_share)))
            decoder_labels.append(torch.tensor([IGNORED, *ids[1:-1], IGNORED]))
            visibles.append(1 - torch.tensor(self.hidden_matrix(ids)))
        originals_batch = _padded(originals, self.special.pad)  # (B, L)
        input_ids, labels = self._corrupt(originals_batch, _padded(encoder_masks, 0).bool())
        return {
            "input_ids": input_ids,
            "attention_mask": _padded([torch.ones_like(ids) for ids in originals], 0),
            "labels": labels,
            "decoder_input_ids": originals_batch,
            "decoder_labels": _padded(decoder_labels, IGNORED),
            "decoder_visible": _padded_square(visibles),
        }

    def whole_word_mask(self, ids: Sequence[int], share: float) -> list[int]:
        """1 at the positions of randomly chosen whole words that make up `share` of the ordinary tokens."""
        words: list[list[int]] = []
        for position in range(1, len(ids) - 1):  # without [CLS] and [SEP]
            if self.word_start[ids[position]] or not words:
                words.append([position])
            else:
                words[-1].append(position)
        self._random.shuffle(words)
        budget = max(1, round(share * (len(ids) - 2)))
        chosen: set[int] = set()
        for word in words:
            if len(chosen) >= budget:
                break
            if chosen and len(chosen) + len(word) > budget:
                continue
            chosen.update(word)
        return [1 if position in chosen else 0 for position in range(len(ids))]

    def hidden_matrix(self, ids: Sequence[int]) -> list[list[int]]:
        """Eq. 7 for one passage: 1 where row i may not look at position j. Each row takes one mask set."""
        sets = [self.whole_word_mask(ids, self.decoder_share) for _ in range(min(len(ids), self.mask_sets))]
        matrix = []
        for position in range(len(ids)):
            hidden = list(sets[self._random.randrange(len(sets))])
            hidden[position] = 1  # never itself; position 0 stays visible to all rows but row 0
            matrix.append(hidden)
        return matrix

    def _corrupt(self, ids: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """BERT's 80/10/10 at the masked positions: [MASK], a random entry, unchanged → ids and labels."""
        labels = ids.masked_fill(~masked, IGNORED)
        draw = torch.rand(ids.shape, generator=self._generator)
        others = torch.randint(len(self.word_start), ids.shape, generator=self._generator)
        corrupted = ids.masked_fill(masked & (draw < 0.8), self.special.mask)
        return torch.where(masked & (draw >= 0.9), others, corrupted), labels


def textbook_collator(
    rows: Sequence[Sequence[int]], word_start: Sequence[bool], **settings: Any
) -> dict[str, Tensor]:
    """One batch from a fresh `TextbookCollator`; for many batches build the collator once."""
    return TextbookCollator(word_start, **settings)(rows)


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    batch = torch.full((len(rows), max(len(row) for row in rows)), value)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    return batch


def _padded_square(matrices: Sequence[Tensor]) -> Tensor:
    longest = max(len(matrix) for matrix in matrices)
    batch = torch.zeros((len(matrices), longest, longest), dtype=torch.long)
    for index, matrix in enumerate(matrices):
        batch[index, : len(matrix), : len(matrix)] = matrix
    return batch


class TextbookDecoderLayer(nn.Module):
    """One BERT layer whose queries come from one stream and whose keys and values from another (Eq. 5)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_output = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def _split(self, states: Tensor) -> Tensor:
        """(B, L, d) → (B, heads, L, d / heads)"""
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """queries, context: (B, L, d); mask: (B, 1, L, L), added to the scores → (B, L, d)"""
        query, key, value = (
            self._split(self.query(queries)),
            self._split(self.key(context)),
            self._split(self.value(context)),
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask  # (B, heads, L, L)
        mixed = self.attention_dropout(scores.softmax(dim=-1)) @ value
        mixed = mixed.transpose(1, 2).reshape(queries.shape)
        attended = self.attention_norm(queries + self.hidden_dropout(self.attention_output(mixed)))
        widened = functional.gelu(self.intermediate(attended))
        out: Tensor = self.output_norm(attended + self.hidden_dropout(self.output(widened)))
        return out


class TextbookRetroMAE(nn.Module):
    """BERT with masked-LM head + enhanced decoder; embeddings and vocabulary head are shared by both."""

    def __init__(self, config: BertConfig, encoder: BertForMaskedLM | None = None) -> None:
        super().__init__()
        if encoder is None:
            encoder = BertForMaskedLM(config)
        encoder.set_attn_implementation("eager")
        self.encoder = encoder
        self.decoder = TextbookDecoderLayer(config)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of `TextbookCollator` → {"loss", "encoder_loss", "decoder_loss"}."""
        encoded = self.encoder(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            output_hidden_states=True,
        )
        cls = encoded.hidden_states[-1][:, :1]  # (B, 1, d)
        decoded = self.decode(cls, batch["decoder_input_ids"], batch["decoder_visible"])
        logits = self.encoder.cls(decoded[:, 1:])  # (B, L-1, V)
        decoder_loss = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            batch["decoder_labels"][:, 1:].reshape(-1),
            ignore_index=IGNORED,
        )
        return {
            "loss": encoded.loss + decoder_loss,
            "encoder_loss": encoded.loss.detach(),
            "decoder_loss": decoder_loss.detach(),
        }

    def decode(self, cls: Tensor, ids: Tensor, visible: Tensor) -> Tensor:
        """Eq. 4 and 5. cls: (B, 1, d), ids: (B, L), visible: (B, L, L) → (B, L, d)"""
        embeddings = self.encoder.bert.embeddings
        positions = embeddings.position_embeddings(torch.arange(ids.shape[1], device=ids.device))  # (L, d)
        tokens = embeddings.word_embeddings(ids) + positions  # (B, L, d)
        queries = cls + positions  # (B, L, d)
        context = torch.cat([cls, tokens[:, 1:]], dim=1)  # (B, L, d)
        hidden = 1.0 - visible[:, None].float()  # (B, 1, L, L)
        decoded: Tensor = self.decoder(queries, context, hidden * torch.finfo(torch.float32).min)
        return decoded


def textbook_optimizer(
    model: nn.Module, learning_rate: float = 1e-4, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=True)


def textbook_step(
    model: TextbookRetroMAE,
    batch: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    clip: float = 1.0,
) -> Tensor:
    """Forward, backward, clip the gradient's norm, update → the loss, without waiting for the device."""
    optimizer.zero_grad()
    loss: Tensor = model(batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()
