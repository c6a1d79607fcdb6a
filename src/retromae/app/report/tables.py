"""The figures behind the charts, as tables."""

from __future__ import annotations

from retromae.app.report.data import Comparison, Estimate, System, Verdict
from retromae.app.report.markup import Markup, joined, tag
from retromae.app.report.words import interval, is_clear, nature, probability, score, signed


def systems_table(verdict: Verdict) -> Markup:
    """Every system in the judging metric, and its differences to the base and to BM25."""
    head = [tag("th", "System", scope="col"), tag("th", verdict.metric, scope="col")]
    head += [tag("th", f"against {_short(one)}", scope="col") for one in verdict.references]
    return _table(
        f"{verdict.metric} of every system, with 95 % intervals",
        head,
        [(system, verdict, _cells(system, verdict)) for system in verdict.systems],
    )


def metrics_table(verdict: Verdict) -> Markup | None:
    """What else was measured, and the figures on the dev queries that the choice was made by."""
    others = [
        name
        for name in dict.fromkeys(name for system in verdict.systems for name in system.metrics)
        if name != verdict.metric
    ]
    chosen = any(system.dev is not None for system in verdict.systems)
    if not (others or chosen):
        return None
    head = [tag("th", name, scope="col") for name in ["System", *others]]
    head += [tag("th", f"dev {verdict.metric}", scope="col")] if chosen else []
    rows = []
    for system in verdict.systems:
        cells = [_estimate(system.metrics.get(name)) for name in others]
        if chosen:
            cells.append(tag("td", "–" if system.dev is None else score(system.dev)))
        rows.append((system, verdict, cells))
    return _table("Other measures", head, rows)


def _short(system: System) -> str:
    return "BM25" if system.kind == "bm25" else "the base"


def _table(caption: str, head: list[Markup], rows: list[tuple[System, Verdict, list[Markup]]]) -> Markup:
    """A table that scrolls by itself where the screen is too narrow, by keyboard too."""
    table = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *(_row(system, verdict, cells) for system, verdict, cells in rows)),
    )
    return tag("div", table, class_="scrolls", tabindex="0", role="region", aria_label=caption)


def _row(system: System, verdict: Verdict, cells: list[Markup]) -> Markup:
    returned = system.name == verdict.returned
    name = tag(
        "th",
        system.label,
        joined(" ", tag("span", "returned", class_="badge")) if returned else None,
        tag("small", nature(system)),
        scope="row",
    )
    return tag("tr", name, *cells, class_="returned" if returned else None)


def _cells(system: System, verdict: Verdict) -> list[Markup]:
    cells = [_estimate(system.metrics[verdict.metric])]
    for reference in verdict.references:
        found = verdict.comparison(system.name, reference.name)
        cells.append(_difference(found) if found is not None else tag("td", "–"))
    return cells


def _estimate(estimate: Estimate | None) -> Markup:
    if estimate is None:
        return tag("td", "–")
    return tag("td", score(estimate.mean), tag("small", interval(estimate)))


def _difference(comparison: Comparison) -> Markup:
    gain = signed(comparison.gain.mean)
    kind = ("better" if comparison.gain.low > 0 else "worse") if is_clear(comparison) else None
    return tag(
        "td",
        tag("b", gain) if kind else gain,
        tag("small", interval(comparison.gain, signs=True)),
        tag("small", probability(comparison.p)),
        class_=kind,
    )
