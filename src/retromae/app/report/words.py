"""Figures in words, the same in pictures and on the page."""

from __future__ import annotations

from retromae.app.report.data import Comparison, Estimate, Passage, System


def score(value: float) -> str:
    return f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def interval(estimate: Estimate, *, signs: bool = False) -> str:
    write = signed if signs else score
    return f"[{write(estimate.low)}, {write(estimate.high)}]"


def probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def is_clear(comparison: Comparison) -> bool:
    """Zero lies outside the interval."""
    return comparison.gain.low > 0 or comparison.gain.high < 0


def count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def named(passage: Passage) -> str:
    """What to call a passage in a line."""
    return passage.title or passage.id


def nature(system: System) -> str:
    """What kind of search a system is, in a few words."""
    if system.kind == "bm25":
        return "words alone, no model"
    if system.kind == "fusion" and system.weight is not None:
        return f"{100 * system.weight:.0f} % dense, {100 - 100 * system.weight:.0f} % BM25"
    kinds = {"dense": "vectors", "dense+lexical": "vectors and word weights of the same model"}
    return kinds.get(system.kind, system.kind)
