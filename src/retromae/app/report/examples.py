"""Judged queries that the returned system answers better than the base, and worse, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from retromae.app.report.data import BASE_NAME, AdaptRun, Example, Passage, System, Verdict
from retromae.app.report.highlight import marked, shortened
from retromae.app.report.markup import Markup, joined, tag
from retromae.app.report.words import count, named

_QUERY, _TITLE, _ANSWER, _FIRST = 300, 120, 320, 180  # characters that are shown of each
_TERMS = 8


def examples_section(run: AdaptRun) -> Markup | None:
    verdict = run.verdict
    examples = verdict.examples
    if examples is None or examples.against == verdict.returned:
        return None  # nothing has changed
    sides = _sides(verdict, verdict.system(examples.against))
    parts: list[Markup | None] = [_legend(verdict, sides)]
    for title, found in (("Won", examples.won), ("Lost", examples.lost)):
        parts.append(
            tag("h3", f"{title} ", tag("span", count(len(found), "example", "examples"), class_="aside"))
        )
        if found:
            parts.append(_list(found, sides, run.depth))
        else:
            parts.append(tag("p", f"No query that was {title.lower()} is on record.", class_="aside"))
    if not (examples.won or examples.lost):
        parts = [tag("p", "No query was answered better or worse than before.", class_="aside")]
    return tag("section", tag("h2", "Examples", id="examples"), *parts, aria_labelledby="examples")


def _sides(verdict: Verdict, other: System) -> tuple[str, str]:
    """What the two sides are called: nothing has changed where the base itself is returned."""
    return (other.label, verdict.winner.label) if verdict.returned == BASE_NAME else ("Before", "After")


def _legend(verdict: Verdict, sides: tuple[str, str]) -> Markup:
    assert verdict.examples is not None
    labels = verdict.system(verdict.examples.against).label, verdict.winner.label
    told = [joined(f"{side}: ", tag("b", label), ". ") for side, label in zip(sides, labels) if side != label]
    return tag(
        "p",
        "The judging queries whose answer moved most. ",
        *told,
        "Words that query and answer share are ",
        tag("mark", "marked"),
        ", with what each weighs in the match.",
    )


def _list(examples: Sequence[Example], sides: tuple[str, str], depth: int | None) -> Markup:
    return tag("ol", *(tag("li", _example(one, sides, depth)) for one in examples), class_="examples")


def _example(example: Example, sides: tuple[str, str], depth: int | None) -> Markup:
    terms = [word for word, _ in example.terms]
    return tag(
        "article",
        tag("h4", marked(shortened(example.query, terms, _QUERY), terms), dir="auto"),
        tag(
            "div",
            tag("span", "Answer", class_="role"),
            _passage(example.answer, terms, _ANSWER),
            _shared(example),
            class_="answer",
        ),
        tag(
            "div",
            _side(sides[0], example.rank_before, example.before_first, example, depth),
            _side(sides[1], example.rank_after, example.after_first, example, depth),
            class_="sides",
        ),
        class_="example",
    )


def _shared(example: Example) -> Markup:
    strongest = sorted(example.terms, key=lambda pair: (-pair[1], pair[0]))[:_TERMS]
    if not strongest:
        return tag("p", "Query and answer share no word.", class_="terms")
    words = [joined(tag("b", word), f" {weight:.1f}") for word, weight in strongest]
    separated = [part for word in words for part in (" · ", word)][1:]
    return tag("p", "Shared words: ", *separated, class_="terms")


def _side(title: str, rank: int | None, first: Passage, example: Example, depth: int | None) -> Markup:
    missed = f"not in the first {depth}" if depth else "not found"
    place = missed if rank is None else f"rank {rank:,}"
    heading = tag("p", tag("span", title, class_="role"), " ", tag("b", place), class_="place")
    if first.id == example.answer.id:
        return tag("div", heading, tag("p", "The answer is in first place.", class_="aside"))
    if not (first.id or first.text):
        return tag("div", heading, tag("p", "Nothing was found at all.", class_="aside"))
    terms = [word for word, _ in example.terms]
    return tag("div", heading, tag("p", "In first place", class_="role"), _passage(first, terms, _FIRST))


def _passage(passage: Passage, terms: Sequence[str], most: int) -> Markup:
    text = shortened(passage.text, terms, most)
    title = shortened(named(passage), terms, _TITLE)
    return tag(
        *("p", tag("cite", marked(title, terms)), " ", marked(text, terms)), class_="passage", dir="auto"
    )
