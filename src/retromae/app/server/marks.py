"""Where in a passage the words of a query stand, so that a page can mark them."""

from __future__ import annotations

from collections.abc import Sequence

from bm25s.stopwords import STOPWORDS_EN_PLUS

from retromae.retrieval.lexical import WORD, stem

_LETTERS = 3  # shorter pieces of a vocabulary are hardly words
# BM25 counts "from" and "how"; to mark them everywhere would hide what matters
_UNMARKED = {"english": frozenset(STOPWORDS_EN_PLUS)}


def marks_of(
    text: str, query: str, terms: Sequence[tuple[str, float]], language: str = "english"
) -> list[tuple[int, int]]:
    """Starts and ends, in characters, of the words whose stem is that of a query's word or a matching term."""
    words = [*WORD.findall(query.lower()), *(term.lower() for term, _ in terms if len(term) >= _LETTERS)]
    plain = _UNMARKED.get(language, frozenset())
    wanted = {stem(word, language) for word in words if WORD.fullmatch(word) and word not in plain} - {None}
    return [
        (found.start(), found.end())
        for found in WORD.finditer(text)
        if stem(found[0].lower(), language) in wanted
    ]
