"""A guess at the language of texts, without a model and without a download.

The script says a lot (Unicode ranges of the letters) and for some languages everything. Within the Latin and the
Cyrillic script a language is told by its most frequent words and letter triples, each counting less the more
languages have it. A text that has too little of any, or nearly as much of a second one, is "unknown".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from retromae.text.language_marks import CYRILLIC, LATIN, Marks

UNKNOWN = "unknown"
_LETTERS = 800  # of a text that are looked at
_MOST_TEXTS = 1500
_LEAST_WORDS = 5
_LEAST_SCORE, _LEAD = 0.06, 1.15
_WORD = re.compile(r"[^\W\d_]+")

# First and last character, script.
_RANGES = (
    (0x0041, 0x024F, "Latin"),
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0531, 0x058F, "Armenian"),
    (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x07BF, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x0DFF, "another Indian"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x1E00, 0x1EFF, "Latin"),
    (0x1F00, 0x1FFF, "Greek"),
    (0x3040, 0x30FF, "Kana"),
    (0x3100, 0x312F, "Han"),
    (0x3130, 0x318F, "Hangul"),
    (0x31F0, 0x31FF, "Kana"),
    (0x3400, 0x9FFF, "Han"),
    (0xAC00, 0xD7AF, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0xFB50, 0xFDFF, "Arabic"),
    (0xFE70, 0xFEFF, "Arabic"),
    (0x20000, 0x323AF, "Han"),
)
_FIRST = np.array([first for first, _, _ in _RANGES], dtype=np.uint32)
_LAST = np.array([last for _, last, _ in _RANGES], dtype=np.uint32)
_LANGUAGE_OF_SCRIPT = {
    "Greek": "Greek",
    "Armenian": "Armenian",
    "Hebrew": "Hebrew",
    "Thai": "Thai",
    "Georgian": "Georgian",
    "Hangul": "Korean",
    "Kana": "Japanese",
    "Han": "Chinese",
}


@dataclass(frozen=True)
class LanguageShare:
    language: str
    """A name in English, or "unknown", with the script where only that is known."""
    share: float
    """Of the words."""


def languages_of(texts: Iterable[tuple[str, int]]) -> list[LanguageShare]:
    """The languages of (text, number of words), the most frequent first; the shares add up to 1 (or there is none).

    The first 1,500 texts are looked at, so give them in an order that means nothing.
    """
    weights: Counter[str] = Counter()
    for text, words in list(texts)[:_MOST_TEXTS]:
        weights[guess_language(text)] += words
    total = weights.total()
    ranked = sorted(weights.items(), key=lambda found: (-found[1], found[0]))
    return [LanguageShare(language, weight / total) for language, weight in ranked if weight]


def guess_language(text: str) -> str:
    """The language of one text; "unknown" where its beginning does not tell."""
    beginning = text[:_LETTERS].lower()
    scripts = scripts_of(beginning)
    if not scripts:
        return UNKNOWN
    script = max(scripts, key=lambda name: (scripts[name], name))
    if script == "Han" and scripts.get("Kana", 0.0) > 0.1:
        script = "Kana"
    if script in _LANGUAGE_OF_SCRIPT:
        return _LANGUAGE_OF_SCRIPT[script]
    if script not in ("Latin", "Cyrillic"):
        return f"{UNKNOWN} ({script} script)"
    best, score, second = _best(beginning, script)
    if score < _LEAST_SCORE or score < _LEAD * second:
        return UNKNOWN if script == "Latin" else f"{UNKNOWN} ({script} script)"
    return best


def scripts_of(text: str) -> dict[str, float]:
    """Script → its share of the letters that belong to a known one."""
    letters = "".join(_WORD.findall(text))
    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    places = np.searchsorted(_FIRST, codes, side="right") - 1
    known = places[(places >= 0) & (codes <= _LAST[np.maximum(places, 0)])]
    counts: Counter[str] = Counter()
    for place, count in zip(*np.unique(known, return_counts=True), strict=True):
        counts[_RANGES[place][2]] += int(count)
    return {script: count / len(known) for script, count in counts.items()}


def _best(text: str, script: str) -> tuple[str, float, float]:
    """(the language with the highest score, its score, the score of the next one)."""
    words = _WORD.findall(text)
    if len(words) < _LEAST_WORDS:
        return UNKNOWN, 0.0, 0.0
    framed = f"_{'_'.join(words)}_"
    scores: dict[str, float] = defaultdict(float)
    triples = len(framed) - 2
    _count(scores, (f" {word}" for word in words), script, 1 / len(words))
    _count(scores, (framed[start : start + 3] for start in range(triples)), script, 1 / triples)
    ranked = sorted(scores.items(), key=lambda found: (-found[1], found[0]))
    (best, first), (_, second) = [*ranked, (UNKNOWN, 0.0), (UNKNOWN, 0.0)][:2]
    return best, first, second


def _count(scores: dict[str, float], marks: Iterable[str], script: str, weight: float) -> None:
    """Add to every language's score what the marks say for it."""
    languages = _languages_by_mark(script)
    for mark, times in Counter(marks).items():
        owners = languages.get(mark, ())
        for language in owners:
            scores[language] += weight * times / len(owners)


@cache
def _languages_by_mark(script: str) -> dict[str, list[str]]:
    """Mark → the languages that have it. Words begin with a space here, triples do not."""
    marks: Mapping[str, Marks] = LATIN if script == "Latin" else CYRILLIC
    owners: dict[str, list[str]] = {}
    for language, found in marks.items():
        for mark in {*(f" {word}" for word in found.words.split()), *found.triples.split()}:
            owners.setdefault(mark, []).append(language)
    return owners
