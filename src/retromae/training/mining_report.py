"""What mining found, for people: numbers, and examples to read before anything is trained on them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from retromae.core.draws import order
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs

_QUERIES, _SHOWN, _CHARACTERS = 20, 3, 300


def summary(found: Candidates, folder: Path) -> str:
    """A few lines for the screen."""
    facts = found.facts
    queries = max(1, int(facts["queries"]))
    lines = [
        f"{facts['candidates']:,} candidates for {facts['queries']:,} queries: {folder}",
        *(
            f"  dropped, {name}: {number:,} ({number / queries:.1f} per query)"
            for name, number in facts["dropped"].items()
            if number
        ),
    ]
    empty = int((np.diff(found.lists.starts) == 0).sum())
    if empty:
        lines.append(f"  {empty:,} queries are left without candidates")
    return "\n".join([*lines, f"  read {folder / 'sample.md'}: are they really wrong?"])


def sample(found: Candidates, pairs: Pairs) -> str:
    """Markdown: some queries, an answer of each, and the first candidates that were kept."""
    chosen = np.sort(order(len(pairs), 0)[:_QUERIES]).astype(np.int32)
    lines = [
        "# Are these really wrong?",
        "",
        "Training will push the candidates below away from their query. Where many of them answer it, mine again "
        "with a margin, or with a teacher.",
    ]
    for query, text in zip(chosen.tolist(), pairs.queries.texts(chosen)):
        answers = pairs.positives[query]
        kept = found.lists[query][:_SHOWN]
        start = int(found.lists.starts[query])
        lines += ["", f"## {text}", "", f"**answer:** {_short(pairs, int(answers[0]))}"]
        if len(answers) > 1:
            lines += ["", f"and {len(answers) - 1} more"]
        for rank, passage in enumerate(kept.tolist()):
            lines += ["", f"{rank + 1}. ({found.scores[start + rank]:.3f}) {_short(pairs, passage)}"]
        if not len(kept):
            lines += ["", "no candidate was kept"]
    return "\n".join(lines) + "\n"


def _short(pairs: Pairs, passage: int) -> str:
    text = pairs.passages.texts(np.array([passage], dtype=np.int32))[0]
    return textwrap.shorten(text, _CHARACTERS, placeholder=" …")
