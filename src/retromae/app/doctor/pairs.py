"""How many pairs there are: counted from the source, without the store that training makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from retromae.core.errors import UserError
from retromae.text.pair_formats import Judged, find

_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class PairFacts:
    source: str
    queries: dict[str, int]
    """Split → queries with an answer."""
    answers: int


def count_pairs(source: str) -> PairFacts:
    """Reads queries and judgements of a collection, but not its corpus; of other layouts every example."""
    queries: dict[str, int] = {}
    answers = 0
    refusal: UserError | None = None
    for split in _SPLITS:
        try:
            answered = _answered(source, split)
        except UserError as error:
            refusal = refusal or error
            continue
        queries[split] = len(set(answered))
        answers += len(answered)
    if not queries:
        assert refusal is not None
        raise refusal
    return PairFacts(source, queries, answers)


def _answered(source: str, split: str) -> list[str]:
    """The query of every answer."""
    content = find(source, split).content
    if isinstance(content, Judged):
        parts = content.read()
        return [query for query, _, grade in parts.judgements if grade > 0 and query in parts.queries]
    return [
        example.query.id or example.query.text for example in content.examples() for _ in example.positives
    ]
