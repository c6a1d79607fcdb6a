"""Documents → passages of at most n tokens that begin and end with sentences where they can.

A document is tokenised once (in pieces of some thousand characters that end with sentences); a passage is a
run of its tokens. So the limit holds exactly, no token is lost or counted twice, and sentences longer than
the limit are cut between tokens, at a space if there is one near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from retromae.text.sentences import Splitter, split_sentences
from retromae.text.sources import Document

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

_PIECE = 8192
"""Characters that are tokenised at a time: bounds what the tokenizer's own bookkeeping needs."""


@dataclass(frozen=True, slots=True)
class Passage:
    id: str
    """The document's id, with #k behind it where the document gives more than one passage."""
    document: str
    title: str
    text: str
    start: int
    end: int
    """Characters in the document's text."""
    sentences: tuple[int, ...]
    """Where sentences start, in characters of the passage."""


@dataclass(frozen=True, slots=True)
class PassageRules:
    max_tokens: int = 148
    min_tokens: int = 0
    """A last passage shorter than this takes sentences over from the one before it, if that leaves both long
    enough; otherwise it is kept as it is."""
    split: bool = True
    """False: a document is one passage, cut off at `max_tokens`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text, with the characters [start, end) that each stands for."""

    ids: Ids
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PassageTokens:
    passage: Passage
    ids: Ids
    sentences: list[int]
    """Where sentences start, in tokens; the first is 0."""


def tokenise(
    texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]], tokenizer: Any
) -> list[Tokens]:
    """Tokens of each text; `spans` are its sentences. One batch for all, so call it with many short texts."""
    pieces = [_pieces(sentences) for sentences in spans]
    batch = [text[a:b] for text, cuts in zip(texts, pieces, strict=True) for a, b in cuts]
    encodings = iter(tokenizer.encode_batch(batch, add_special_tokens=False))
    return [_join([(a, next(encodings)) for a, _ in cuts]) for cuts in pieces]


def _pieces(sentences: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs of whole sentences of about `_PIECE` characters."""
    pieces: list[tuple[int, int]] = []
    for start, end in sentences:
        if pieces and end - pieces[-1][0] <= _PIECE:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((start, end))
    return pieces


def _join(pieces: Sequence[tuple[int, Any]]) -> Tokens:
    """The tokens of a text from the encodings of its pieces and where these begin."""
    ids: list[Ids] = []
    offsets: list[Ints] = []
    for shift, encoding in pieces:
        count = len(encoding)
        ids.append(np.fromiter(encoding.ids, dtype=np.int32, count=count))
        pairs = np.fromiter(chain.from_iterable(encoding.offsets), dtype=np.int64, count=2 * count)
        offsets.append(pairs.reshape(count, 2) + shift)
    if len(pieces) != 1:
        ids = [np.concatenate([np.empty(0, dtype=np.int32), *ids])]
        offsets = [np.concatenate([np.empty((0, 2), dtype=np.int64), *offsets])]
    return Tokens(ids[0], offsets[0][:, 0], offsets[0][:, 1])


def sentence_tokens(tokens: Tokens, sentences: Sequence[tuple[int, int]]) -> Ints:
    """Index of the first token of each sentence, each once: strictly rising, the first one 0."""
    if not len(tokens):
        return np.empty(0, dtype=np.int64)
    starts = np.array([start for start, _ in sentences], dtype=np.int64)
    # The first token that ends behind the sentence's start: a token may take the space before its word along.
    first = np.searchsorted(np.maximum.accumulate(tokens.ends), starts, side="right")
    first[0] = 0
    rising = np.ones(len(first), dtype=np.bool_)
    np.not_equal(first[1:], first[:-1], out=rising[1:])
    return first[rising & (first < len(tokens))]


def cut(
    text: str, tokens: Tokens, sentence_starts: Ints, limit: int, minimum: int = 0
) -> list[tuple[int, int]]:
    """Token runs [a, b) of at most `limit` that together are all tokens: whole sentences, as many as fit.

    `sentence_starts` as from `sentence_tokens`.
    """
    if len(tokens) <= limit:
        return [(0, len(tokens))] if len(tokens) else []
    bounds = np.append(sentence_starts, len(tokens))
    cuts = [0]
    while cuts[-1] < len(tokens):
        last = cuts[-1]
        reach = int(bounds[np.searchsorted(bounds, last + limit, side="right") - 1])
        cuts.append(reach if reach > last else _cut_inside(text, tokens, last, limit))
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < minimum:
        cuts[-2] = _fairer_cut(bounds, cuts[-3:], limit, minimum)
    return list(pairwise(cuts))


def _cut_inside(text: str, tokens: Tokens, first: int, limit: int) -> int:
    """Where to cut a sentence that is too long: before a word in the last quarter, else between characters."""
    candidates = np.arange(first + limit, first + limit - max(limit // 4, 1), -1)
    starts, before = tokens.starts[candidates], tokens.ends[candidates - 1]
    for place, start, end in zip(candidates.tolist(), starts.tolist(), before.tolist(), strict=True):
        if place > first and (start > end or text[start : start + 1].isspace()):
            return int(place)
    whole = candidates[(starts >= before) & (candidates > first)]  # not between the bytes of one character
    return int(whole[0]) if len(whole) else first + limit


def _fairer_cut(bounds: Ints, cuts: list[int], limit: int, minimum: int) -> int:
    """The last sentence start before the middle cut that leaves both sides long enough; else the middle cut."""
    start, middle, end = cuts
    inside = bounds[(bounds >= max(start + minimum, end - limit)) & (bounds <= end - minimum)]
    return int(inside[-1]) if len(inside) else middle


def split_document(
    document: Document, tokenizer: Any, rules: PassageRules, splitter: Splitter = split_sentences
) -> list[Passage]:
    """The passages of one document; `tokenizer` is a `tokenizers.Tokenizer`."""
    spans = splitter(document.text)
    tokens = tokenise([document.text], [spans], tokenizer)[0]
    starts = sentence_tokens(tokens, spans)
    return [cut_out.passage for cut_out in passages_of(document, tokens, starts, rules, rules.max_tokens)]


def passages_of(
    document: Document, tokens: Tokens, sentence_starts: Ints, rules: PassageRules, limit: int
) -> list[PassageTokens]:
    """Passages of at most `limit` tokens; those of nothing but white space are left out."""
    if not len(tokens):
        return []
    runs = (
        cut(document.text, tokens, sentence_starts, limit, rules.min_tokens)
        if rules.split
        else [(0, min(limit, len(tokens)))]
    )
    placed = [(_trimmed(document.text, tokens, a, b), a, b) for a, b in runs]
    kept = [(start, end, a, b) for (start, end), a, b in placed if start < end]
    found: list[PassageTokens] = []
    for number, (start, end, a, b) in enumerate(kept):
        first, last = np.searchsorted(sentence_starts, (a + 1, b)).tolist()
        inside = sentence_starts[first:last]
        passage = Passage(
            document.id if len(kept) == 1 else f"{document.id}#{number}",
            document.id,
            document.title,
            document.text[start:end],
            start,
            end,
            _sentence_characters(document.text, tokens.starts[inside].tolist(), start),
        )
        found.append(PassageTokens(passage, tokens.ids[a:b], [0, *(inside - a).tolist()]))
    return found


def _trimmed(text: str, tokens: Tokens, a: int, b: int) -> tuple[int, int]:
    """Characters that tokens [a, b) stand for, without white space around them; empty if there is nothing else."""
    start, end = int(tokens.starts[a]), int(tokens.ends[b - 1])
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def _sentence_characters(text: str, starts: list[int], passage_start: int) -> tuple[int, ...]:
    """Sentence starts in the passage; a token can begin with the space before its sentence."""
    found = {0}
    for start in starts:
        while text[start].isspace():
            start += 1
        found.add(max(start - passage_start, 0))
    return tuple(sorted(found))
