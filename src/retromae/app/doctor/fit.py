"""How the text looks to the base's tokenizer: does its vocabulary fit, and what passages does it give?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from retromae.text.corpus_facts import Excerpt, Survey
from retromae.text.passages import Ids, PassageRules, passages_of, sentence_tokens, tokenise
from retromae.text.sentences import split_sentences
from retromae.text.sources import Document
from retromae.text.vocabulary import bare
from retromae.text.words import backend_of

Counts = npt.NDArray[np.int64]
Verdict = Literal["fits", "strained", "does not fit"]

USUAL = (1.1, 1.6)
"""Tokens per word of prose, and of technical text, in a language that the vocabulary was made for."""
_STRAINED, _FOREIGN = 1.9, 2.6  # tokens per word
_FEW_UNKNOWN, _MANY_UNKNOWN = 0.01, 0.05
_LEAST_TOKENS = 16  # of a document's last passage, as `prepare` has it
_AT_ONCE = 64  # excerpts


@dataclass(frozen=True)
class Fit:
    """Of the vocabulary to the text, counted in the excerpts. Tokens without a letter or digit are left aside."""

    tokens_per_word: float
    unknown_share: float
    """Of the tokens."""
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class PassageFacts:
    """What the text gives when it is cut into passages of at most `longest` tokens, titles included."""

    longest: int
    number: int
    """Of passages, after exact duplicates are dropped; an estimate where the excerpts are not everything."""
    mean_tokens: float
    cut_share: float
    """Of the documents: longer than one passage, so that they are split."""
    lost_share: float
    """Of the tokens: what would never be read if documents were cut off instead of split."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A passage with its tokens, title first, without special ones."""

    title: str
    text: str
    ids: Ids


@dataclass(frozen=True)
class Tokenised:
    fit: Fit
    passages: PassageFacts
    samples: list[Sample]
    """In no order that means anything."""


def tokenised(survey: Survey, tokenizer: Any, longest: int) -> Tokenised:
    """The excerpts of a text cut into passages of at most `longest` tokens, and what that says of the whole."""
    backend = bare(tokenizer)
    excerpts, facts = survey.excerpts, survey.facts
    samples: list[Sample] = []
    counts = np.zeros(backend.get_vocab_size(with_added_tokens=True), dtype=np.int64)  # of every token
    titles = 0
    for start in range(0, len(excerpts), _AT_ONCE):
        cut, ids, of_titles = _cut(excerpts[start : start + _AT_ONCE], backend, longest)
        samples += cut
        counts += np.bincount(ids, minlength=len(counts))
        titles += of_titles
    words = max(sum(excerpt.words for excerpt in excerpts), 1)
    # Every document's tokens, from its words:
    lengths = survey.word_counts * (int(counts.sum()) / words) + titles / max(len(excerpts), 1)
    number = float(len(samples))
    if not survey.complete:
        number *= facts.words / words * (1 - facts.duplicates / facts.documents)
    passages = PassageFacts(
        longest=longest,
        number=round(number),
        mean_tokens=float(np.mean([len(sample.ids) for sample in samples])) if samples else 0.0,
        cut_share=float((lengths > longest).mean()) if len(lengths) else 0.0,
        lost_share=float(np.maximum(lengths - longest, 0).sum() / max(lengths.sum(), 1)),
    )
    return Tokenised(fit_of(counts, words, tokenizer), passages, samples)


def _cut(excerpts: Sequence[Excerpt], backend: Any, longest: int) -> tuple[list[Sample], Ids, int]:
    """(passages, the tokens of the texts one after the other, how many the titles have)."""
    spans = [split_sentences(excerpt.text) for excerpt in excerpts]
    tokens = tokenise([excerpt.text for excerpt in excerpts], spans, backend)
    encodings = backend.encode_batch([excerpt.title for excerpt in excerpts], add_special_tokens=False)
    titles = [np.array(encoding.ids[: longest // 2], dtype=np.int32) for encoding in encodings]
    samples = []
    for excerpt, sentences, of_text, title in zip(excerpts, spans, tokens, titles, strict=True):
        document = Document(excerpt.id, excerpt.title, excerpt.text, "")
        limit = longest - len(title)
        rules = PassageRules(limit, min(_LEAST_TOKENS, limit // 2))
        found = passages_of(document, of_text, sentence_tokens(of_text, sentences), rules, limit)
        samples += [Sample(excerpt.title, p.passage.text, np.concatenate([title, p.ids])) for p in found]
    return samples, np.concatenate([of_text.ids for of_text in tokens]), sum(map(len, titles))


def fit_of(counts: Counts, words: int, tokenizer: Any) -> Fit:
    """The verdict on `counts` of every token id in a text of so many words."""
    of_words = np.zeros(len(counts), dtype=np.bool_)
    for piece, number in backend_of(tokenizer).get_vocab(with_added_tokens=True).items():
        of_words[number] = any(character.isalnum() for character in piece)
    unknown_id = tokenizer.unk_token_id
    unknown = 0 if unknown_id is None else int(counts[unknown_id])
    per_word = float(counts[of_words].sum() / max(words, 1))
    share = unknown / max(int(counts.sum()), 1)
    verdict, sentence = _verdict(per_word, share)
    return Fit(per_word, share, verdict, sentence)


def _verdict(per_word: float, unknown: float) -> tuple[Verdict, str]:
    usual = f"{USUAL[0]} to {USUAL[1]} are usual"
    if unknown >= _MANY_UNKNOWN:
        return "does not fit", (
            f"{unknown:.0%} of the tokens are unknown to the base's vocabulary: it was not made for this language or "
            "script; take a base for this language, or start from nothing with a vocabulary of this text."
        )
    if per_word >= _FOREIGN:
        return "does not fit", (
            f"a word takes {per_word:.1f} tokens where {usual}: the base's vocabulary was not made for this language "
            "or script; take a base for this language, or start from nothing with a vocabulary of this text."
        )
    if per_word >= _STRAINED or unknown >= _FEW_UNKNOWN:
        return "strained", (
            f"a word takes {per_word:.1f} tokens where {usual}, and {unknown:.1%} of the tokens are unknown: the base "
            "reads this text with some loss, and pre-training on it pays more than elsewhere."
        )
    return "fits", f"a word takes {per_word:.2f} tokens where {usual}: the base's vocabulary fits this text."
