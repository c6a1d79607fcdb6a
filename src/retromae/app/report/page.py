"""The page: the verdict first, then what it rests on. One file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from retromae.app.report.curves import cls_panels, in_words, loss_panels, retrieval_panels
from retromae.app.report.data import AdaptRun, Queries, Stage, Verdict, read_run
from retromae.app.report.examples import examples_section
from retromae.app.report.markup import Markup, joined, tag
from retromae.app.report.palette import DARK, LIGHT, variables
from retromae.app.report.plots import Plots, draw_plots
from retromae.app.report.tables import metrics_table, systems_table
from retromae.app.report.words import count, interval, is_clear, nature, score, signed
from retromae.core.errors import UserError
from retromae.core.files import write_text
from retromae.core.words import duration

# The browser itself refuses whatever is not in the file.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LONG = 150  # characters from which on the verdict is set smaller
_CURVES = (
    (
        "losses",
        "Losses",
        loss_panels,
        "What each stage trained on, in its parts. Dashed: the same on text that was held out.",
    ),
    (
        "cls_use",
        "Use of [CLS]",
        cls_panels,
        "What the sentence vector is worth to the decoder: its loss with the vector of another passage, minus with "
        "the right one. Below 0.02 the vector carries next to nothing.",
    ),
    (
        "retrieval",
        "Retrieval while training",
        retrieval_panels,
        "Measured on few queries and a part of the passages, to choose between checkpoints: figures of different "
        "stages, and those above, do not compare. The probe makes its queries from held-out text.",
    ),
)


def write_report(run: str | Path) -> Path:
    """Write RUN/report.html and RUN/plots/*.svg, *.png, each whole or not at all; the page's path.

    The same run gives the same bytes. What the run does not hold is left out; what is damaged is a UserError.
    """
    found = read_run(run)
    target = found.path / "report.html"
    try:
        write_text(target, page(found, draw_plots(found, found.path / "plots")))
    except OSError as error:
        raise UserError(f"the report cannot be written to '{found.path}': {error.strerror}.") from None
    return target


def page(run: AdaptRun, plots: Plots) -> str:
    sections = [
        _verdict(run, plots),
        _systems(run, plots),
        examples_section(run),
        _training(run, plots),
        _time(run, plots),
        _judging(run.verdict),
        _manifest(run),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{run.name}: retromae adapt"),
        tag("style", _style()),
    )
    body = tag("body", tag("main", *sections), _footer(plots))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _style() -> Markup:
    sheet = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    light = f":root{{{variables(LIGHT)}}}"
    dark = f"@media screen and (prefers-color-scheme: dark){{:root{{{variables(DARK)}}}}}"
    return Markup(f"{light}\n{dark}\n{sheet}")


def _section(name: str, title: str, *content: Markup | None) -> Markup:
    return tag("section", tag("h2", title, id=name), *content, aria_labelledby=name)


def _verdict(run: AdaptRun, plots: Plots) -> Markup:
    verdict, winner = run.verdict, run.verdict.winner
    best = winner.metrics[verdict.metric]
    facts = [
        ("Returned", joined(winner.label, tag("small", nature(winner)))),
        (verdict.metric, joined(score(best.mean), tag("small", interval(best)))),
        *(
            (name, tag("code", f"{folder}/"))
            for name, folder in (("Encoder", "model"), ("Index", "index"))
            if (run.path / folder).is_dir()
        ),
    ]
    return tag(
        "section",
        tag("p", "retromae adapt", tag("span", run.name, class_="run"), class_="eyebrow"),
        tag("h1", verdict.sentence, id="verdict", class_="long" if len(verdict.sentence) > _LONG else None),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts"),
        plots.figure(
            "gains",
            _gains_in_words(verdict),
            "What is returned, against what needs no training, on the same queries. Lines: 95 % intervals.",
        ),
        class_="verdict",
        aria_labelledby="verdict",
    )


def _gains_in_words(verdict: Verdict) -> str:
    parts = []
    for reference in verdict.references:
        if found := verdict.comparison(verdict.returned, reference.name):
            gain = f"{signed(found.gain.mean)} {interval(found.gain, signs=True)}"
            parts.append(f"{gain} against {reference.label}")
    return f"Gain in {verdict.metric}: {'; '.join(parts)}."


def _systems(run: AdaptRun, plots: Plots) -> Markup:
    verdict = run.verdict
    values = "; ".join(f"{s.label} {score(s.metrics[verdict.metric].mean)}" for s in verdict.systems)
    more = metrics_table(verdict)
    clear = any(is_clear(comparison) for comparison in verdict.comparisons)
    return _section(
        "systems",
        "Every system" if len(verdict.systems) > 1 else "The only system",
        plots.figure(
            "systems",
            f"{verdict.metric} of every system: {values}.",
            f"{verdict.metric} on {count(verdict.queries.test, 'judging query', 'judging queries')}, "
            "with 95 % intervals. Dashed: the untouched base.",
        ),
        systems_table(verdict),
        tag("p", "Bold differences: zero lies outside the interval.", class_="aside") if clear else None,
        tag("details", tag("summary", "Other measures"), more) if more is not None else None,
    )


def _training(run: AdaptRun, plots: Plots) -> Markup:
    parts = []
    for name, title, panels, caption in _CURVES:
        if figure := plots.figure(name, f"{title}. {in_words(panels(run))}.", caption):
            parts += [tag("h3", title), figure]
    if not parts:
        parts = [tag("p", "No stage left a curve: nothing was trained, or too briefly.", class_="aside")]
    return _section("training", "Training", *parts)


def _time(run: AdaptRun, plots: Plots) -> Markup | None:
    if not run.stages:
        return None
    total = f"{duration(sum(stage.seconds for stage in run.stages))} in all"
    if run.budget_seconds is not None:
        total += f", of {duration(run.budget_seconds)} that were given"
    spent = "; ".join(f"{stage.title}: {_outcome(stage)}" for stage in run.stages)
    skipped = [
        tag("li", tag("b", stage.title), f" was {stage.state}" + (f": {stage.why}" if stage.why else "."))
        for stage in run.stages
        if stage.state != "finished"
    ]
    return _section(
        "time",
        "Where the time went",
        plots.figure("time", f"Time by stage. {spent}.", f"{total}."),
        tag("ul", *skipped) if skipped else None,
    )


def _outcome(stage: Stage) -> str:
    return stage.state if stage.state == "skipped" else duration(stage.seconds)


def _judging(verdict: Verdict) -> Markup:
    queries = verdict.queries
    facts = [
        (
            "Queries",
            f"{queries.train:,} to train on, {queries.dev:,} to choose by, {queries.test:,} to judge by",
        ),
        ("Made from", queries.made_from),
        ("Passages", f"{verdict.passages:,} in all, {verdict.passages_searched:,} searched when judging"),
        ("Split", _split(queries)),
        (
            "Chosen by",
            f"{verdict.metric} on the dev queries, in doubt for what needs no training; "
            "the figures here are of the judging queries alone",
        ),
        (
            "Intervals",
            "95 %: if judging were repeated with other queries of this kind, the mean would mostly stay inside "
            "(bootstrap over queries). They do not cover another training run.",
        ),
        (
            "p",
            "how often chance alone would give a difference as large (paired randomisation test, two-sided, corrected "
            "by Holm's method for the number of systems)",
        ),
        ("Seed", str(verdict.seed)),
    ]
    rows = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts)
    return _section("judging", "How it was judged", tag("dl", *rows, class_="list"))


def _split(queries: Queries) -> str:
    if queries.brought:
        return "by query: none is in two of the three parts"
    return "by document: no document has queries in two of the three parts"


def _manifest(run: AdaptRun) -> Markup | None:
    if not run.manifest:
        return None
    text = json.dumps(run.manifest, indent=2, ensure_ascii=False)
    shown = tag("pre", text, tabindex="0", role="region", aria_label="manifest.json")
    return _section("manifest", "Manifest", tag("details", tag("summary", "Versions, machine, data"), shown))


def _footer(plots: Plots) -> Markup:
    names = ", ".join(plots.drawn)
    return tag("footer", tag("p", f"The pictures as SVG and PNG: plots/ ({names}). ", class_="aside"))
