"""Texts in examples: shortened to what matters, with the words marked that query and passage share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from retromae.app.report.markup import Markup, joined, tag

_STEM = 4  # from this length on a term may be a stem: "thread" marks "threads" too
_ENDING = 3  # letters that may follow a stem


def marked(text: str, terms: Iterable[str]) -> Markup:
    """`text` with every word marked that is one of the terms, or starts with one that may be a stem."""
    pattern = _pattern(terms)
    if pattern is None:
        return joined(text)
    pieces: list[str] = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [text[end : match.start()], tag("mark", match[0])]
        end = match.end()
    return joined(*pieces, text[end:])


def shortened(text: str, terms: Iterable[str], most: int) -> str:
    """At most about `most` characters, cut between words; from the start, or from shortly before the first term
    where that would otherwise be cut off."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    pattern = _pattern(terms)
    first = match.start() if pattern and (match := pattern.search(text)) else 0
    start = 0 if first < 0.7 * most else text.rfind(" ", 0, first - most // 4) + 1
    stop = start + most
    if stop < len(text):
        blank = text.rfind(" ", start + most // 2, stop)
        stop = blank if blank >= 0 else stop
    return ("… " if start else "") + text[start:stop].rstrip(" ,;:") + (" …" if stop < len(text) else "")


def _pattern(terms: Iterable[str]) -> re.Pattern[str] | None:
    found = sorted({term.strip() for term in terms if term.strip()}, key=lambda term: (-len(term), term))
    if not found:
        return None
    endings = (rf"\w{{0,{_ENDING}}}" if len(term) >= _STEM else "" for term in found)
    either = "|".join(re.escape(term) + ending for term, ending in zip(found, endings))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
