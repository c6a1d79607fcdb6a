"""What a run folder of `retromae adapt` holds, read for the report.

verdict.json                   who won, by how much, and how it was judged; without it there is no report
adapt.json                     the stages, in order, and the time each took
stages/NAME/metrics.jsonl      losses, [CLS] use and retrieval while training
manifest.json, system.json     versions and data; the search depth. Both may be absent
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retromae.app.report.reading import Fields
from retromae.core.errors import UserError

STATES = ("finished", "skipped", "interrupted")
BASE_NAME = "base"
REPORT = "report"  # the stage that writes the report cannot tell how it ended


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class System:
    name: str
    label: str
    kind: str  # dense, bm25, fusion, dense+lexical
    stage: str | None  # that trained its encoder
    weight: float | None  # the dense share of a fusion
    dev: float | None  # the figure that systems are chosen by
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    system: str
    against: str
    gain: Estimate
    p: float

    def turned(self) -> Comparison:
        """The same comparison, seen from the other side."""
        gain = Estimate(-self.gain.mean, -self.gain.high, -self.gain.low)
        return Comparison(self.against, self.system, gain, self.p)


@dataclass(frozen=True)
class Passage:
    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Example:
    """One judged query, before and after; a rank of None means that the answer was not found."""

    query: str
    answer: Passage
    rank_before: int | None
    rank_after: int | None
    before_first: Passage
    after_first: Passage
    terms: list[tuple[str, float]]  # words that query and answer share, with their weights


@dataclass(frozen=True)
class Examples:
    against: str
    won: list[Example]
    lost: list[Example]


@dataclass(frozen=True)
class Queries:
    train: int
    dev: int
    test: int
    made_from: str  # "your …" where the user brought them

    @property
    def brought(self) -> bool:
        return self.made_from.startswith("your")


@dataclass(frozen=True)
class Verdict:
    sentence: str
    returned: str
    metric: str
    seed: int
    queries: Queries
    passages: int
    passages_searched: int
    systems: list[System]
    comparisons: list[Comparison]
    examples: Examples | None

    def system(self, name: str) -> System:
        return next(system for system in self.systems if system.name == name)

    @property
    def winner(self) -> System:
        return self.system(self.returned)

    @property
    def references(self) -> list[System]:
        """What everything is measured against: the untouched base and BM25, as far as they were judged."""
        return [system for system in self.systems if system.name == BASE_NAME or system.kind == "bm25"]

    def comparison(self, system: str, against: str) -> Comparison | None:
        """As it was written down, or turned round; None where the two were not compared."""
        for one in self.comparisons:
            if (one.system, one.against) == (system, against):
                return one
            if (one.system, one.against) == (against, system):
                return one.turned()
        return None


@dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    state: str  # one of STATES
    why: str  # it was skipped
    seconds: float
    records: list[Record]


@dataclass(frozen=True)
class AdaptRun:
    path: Path
    verdict: Verdict
    stages: list[Stage]
    budget_seconds: float | None
    depth: int | None = None  # results that were looked at for every query
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_run(path: str | Path) -> AdaptRun:
    """All of it, or a UserError that names the file that is damaged or missing."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"There is no run folder '{path}'; give the --output_dir of `retromae adapt`.")
    job = Fields.open(
        path / "adapt.json",
        f"'{path}' is no run of `retromae adapt`: it holds no adapt.json; give another folder.",
    )
    verdict = Fields.open(
        path / "verdict.json",
        f"'{path}' holds no verdict.json: the run has not come to its judging; let `retromae adapt` finish it.",
    )
    return AdaptRun(
        path,
        _verdict(verdict),
        [stage for fields in job.parts("stages") if (stage := _stage(fields, path)).name != REPORT],
        job.maybe_number("budget_seconds"),
        _open_if_there(path / "system.json").maybe_whole("depth"),
        _open_if_there(path / "manifest.json").values,
    )


def _open_if_there(path: Path) -> Fields:
    return Fields.open(path, "") if path.exists() else Fields({}, path)


def _stage(fields: Fields, run: Path) -> Stage:
    state = fields.text("state")
    if state not in STATES:
        raise fields.damaged(f"has the unknown state {state!r}")
    folder = fields.maybe_text("run")
    return Stage(
        fields.text("name"),
        fields.text("title"),
        state,
        fields.maybe_text("why") or "",
        fields.maybe_number("seconds") or 0.0,
        _records(run / folder / "metrics.jsonl") if folder else [],
    )


def _records(path: Path) -> list[Record]:
    """The lines that are whole: an interrupted run may have cut the last one off. Oldest first, by step."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            logged = json.loads(line)
            step = int(logged.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        values = {
            name: float(v) for name, v in logged.items() if isinstance(v, int | float) and math.isfinite(v)
        }
        found.append(Record(step, values))
    return sorted(found, key=lambda record: record.step)


def _verdict(fields: Fields) -> Verdict:
    metric, returned = fields.text("metric"), fields.text("returned")
    systems = [_system(part, metric) for part in fields.parts("systems")]
    names = {system.name for system in systems}
    comparisons = [_comparison(part) for part in fields.parts("comparisons")]
    examples = _examples(fields.part("examples")) if fields.has("examples") else None
    named = {returned, *(name for one in comparisons for name in (one.system, one.against))}
    if examples is not None:
        named.add(examples.against)
    if unknown := sorted(named - names):
        raise fields.damaged(f"speaks of '{unknown[0]}', which is not among its systems")
    queries = fields.part("queries")
    return Verdict(
        fields.text("sentence"),
        returned,
        metric,
        fields.whole("seed"),
        Queries(
            queries.whole("train"), queries.whole("dev"), queries.whole("test"), queries.text("made_from")
        ),
        fields.whole("passages"),
        fields.whole("passages_searched"),
        systems,
        comparisons,
        examples,
    )


def _system(fields: Fields, metric: str) -> System:
    metrics = fields.part("metrics")
    metrics.part(metric)  # what everything is judged by must be there
    return System(
        fields.text("name"),
        fields.text("label"),
        fields.text("kind"),
        fields.maybe_text("stage"),
        fields.maybe_number("weight"),
        fields.maybe_number("dev"),
        {name: _estimate(metrics.part(name), "mean") for name in metrics.values},
    )


def _estimate(fields: Fields, mean: str) -> Estimate:
    return Estimate(fields.number(mean), fields.number("low"), fields.number("high"))


def _comparison(fields: Fields) -> Comparison:
    gain = _estimate(fields, "difference")
    return Comparison(fields.text("system"), fields.text("against"), gain, fields.number("p"))


def _examples(fields: Fields) -> Examples:
    won, lost = ([_example(part) for part in fields.parts(name)] for name in ("won", "lost"))
    return Examples(fields.text("against"), won, lost)


def _example(fields: Fields) -> Example:
    return Example(
        fields.text("query"),
        _passage(fields.part("answer")),
        fields.maybe_whole("rank_before"),
        fields.maybe_whole("rank_after"),
        _passage(fields.part("before_first")),
        _passage(fields.part("after_first")),
        fields.weights("terms") if fields.has("terms") else [],
    )


def _passage(fields: Fields) -> Passage:
    return Passage(fields.text("id"), fields.maybe_text("title") or "", fields.text("text"))
