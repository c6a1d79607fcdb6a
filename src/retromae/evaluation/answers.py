"""Top-k accuracy of open-domain question answering, by answer strings (Natural Questions as DPR measures it).

A passage answers a question when the words of one of its answer strings stand in it, one after another. Both
are normalised the same way: Unicode NFD, split into runs of letters, digits and marks or single other visible
characters, and lower-cased.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby

from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.evaluation.metrics import Result

ANSWERS_AT = (1, 5, 20, 100)  # what is measured unless something else is asked for


def accuracy_cut(metric: str) -> int | None:
    """The k of `Accuracy@k`; None for any other metric."""
    found = re.fullmatch(r"accuracy@([1-9]\d*)", metric, re.IGNORECASE)
    return int(found[1]) if found else None


def answer_accuracy(
    run: Run,
    answers: Mapping[str, Sequence[str]],
    texts: Mapping[str, str],
    *,
    ks: Sequence[int] = ANSWERS_AT,
    name: str = "",
) -> Result:
    """`Accuracy@k`: the share of questions with an answer string in one of the first k passages.

    `texts` (document id → text) must cover the run's first max(ks) results; DPR looks at the text alone, not
    at the title. A question without results counts as wrong and is listed in `Result.missing`.
    """
    if not answers:
        raise UserError("there are no answer strings to look for.")
    if not ks or min(ks) < 1:
        raise UserError(f"each k must be at least 1, got {list(ks)}.")
    per_query: dict[str, dict[str, float]] = {f"Accuracy@{k}": {} for k in ks}
    missing = []
    for query, wanted in answers.items():
        found = run[query].ids[: max(ks)] if query in run else []
        if not found:
            missing.append(query)
        first = _first_hit(wanted, found, texts)
        for k in ks:
            per_query[f"Accuracy@{k}"][query] = float(first < k)
    return Result.of(name, per_query, missing)


def _first_hit(answers: Sequence[str], ids: Sequence[str], texts: Mapping[str, str]) -> float:
    """The position of the first passage with an answer, infinity if there is none."""
    needles = _needles(answers)
    for position, document in enumerate(ids):
        if document not in texts:
            raise UserError(f"the run ranks document {document!r}, whose text was not given.")
        if _occurs(needles, texts[document]):
            return position
    return float("inf")


def has_answer(answers: Sequence[str], text: str) -> bool:
    """Whether one of the answer strings occurs in the text. An answer without a word in it never does."""
    return _occurs(_needles(answers), text)


def _needles(answers: Sequence[str]) -> list[str]:
    return [needle for needle in map(_words, answers) if needle.strip()]


def _occurs(needles: Sequence[str], text: str) -> bool:
    words = _words(text)
    return any(needle in words for needle in needles)


def _words(text: str) -> str:
    """The lower-cased words of a text, each between two spaces: a run of words is then a substring.

    A word holds no space, because spaces are separators (Z) and neither alternative of the pattern takes one.
    """
    return f" {' '.join(_pattern().findall(unicodedata.normalize('NFD', text)))} ".lower()


@cache
def _pattern() -> re.Pattern[str]:
    """Runs of letters, numbers and marks, or one character that is neither a separator nor a control (Z, C).

    Python's `re` has no Unicode categories, so they are spelled out as ranges.
    """
    return re.compile(f"[{_ranges('LNM')}]+|[^{_ranges('ZC')}]")


def _ranges(categories: str) -> str:
    points = range(sys.maxunicode + 1)
    runs = groupby(points, key=lambda point: unicodedata.category(chr(point))[0] in categories)
    bounds = [(span[0], span[-1]) for inside, span in ((key, list(run)) for key, run in runs) if inside]
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in bounds)
