"""From the records of the stages to lines that can be drawn: losses, [CLS] use, retrieval while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retromae.app.report.data import AdaptRun, Record, Stage

# What stands in a record beside the loss and its parts.
_BESIDE = {"epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second", "tokens", "seconds"}
_WORDS = {"bow": "bag of words", "loss": "loss"}
_PROBE = "eval_probe_ndcg@10"


@dataclass(frozen=True)
class Line:
    """One curve, with the interval of every point where it was measured."""

    name: str
    steps: list[int]
    values: list[float]
    held_out: bool = False
    band: tuple[list[float], list[float]] | None = None


@dataclass(frozen=True)
class Panel:
    """The curves of one stage."""

    title: str
    measure: str  # what the y axis shows
    lines: list[Line]


def loss_panels(run: AdaptRun) -> list[Panel]:
    """The parts of each stage's loss, and the same on held-out text where that was measured."""
    return _panels(run, "loss", _losses)


def cls_panels(run: AdaptRun) -> list[Panel]:
    return _panels(run, "nats per token", lambda stage: _lines(stage, "eval_cls_use", "[CLS] use"))


def retrieval_panels(run: AdaptRun) -> list[Panel]:
    """Retrieval that was measured while a stage trained: the judging metric on dev queries, or the probe."""
    panels = []
    for stage in run.stages:
        for name, measure in (
            (f"eval_{run.verdict.metric}", f"{run.verdict.metric}, dev queries"),
            (_PROBE, "nDCG@10, probe"),
        ):
            if lines := _lines(stage, name, "retrieval"):
                panels.append(Panel(stage.title, measure, lines))
                break
    return panels


def in_words(panels: Sequence[Panel]) -> str:
    """The curves for whoever does not see them: where each starts and where it ends."""
    return ". ".join(
        f"{panel.title}, {panel.measure}: "
        + "; ".join(
            f"{line.name}{' held out' * line.held_out} from {line.values[0]:.3g} to {line.values[-1]:.3g}"
            for line in panel.lines
        )
        for panel in panels
    )


def _panels(run: AdaptRun, measure: str, lines_of: Callable[[Stage], list[Line]]) -> list[Panel]:
    return [Panel(stage.title, measure, lines) for stage in run.stages if (lines := lines_of(stage))]


def _losses(stage: Stage) -> list[Line]:
    training = [record for record in stage.records if "loss" in record.values]
    names = dict.fromkeys(name for record in training for name in record.values)
    parts = [name for name in names if name not in _BESIDE and not name.startswith("eval_")]
    trained = [_line(training, name, _WORDS.get(name, name)) for name in parts or ["loss"]]
    held_out = [_line(stage.records, f"eval_{n}_loss", _WORDS.get(n, n), held_out=True) for n in parts]
    return [line for line in trained + held_out if line.steps]


def _lines(stage: Stage, name: str, label: str) -> list[Line]:
    line = _line(stage.records, name, label)
    return [line] if line.steps else []


def _line(records: Sequence[Record], name: str, label: str, *, held_out: bool = False) -> Line:
    """One value a step: a run that was resumed may have measured a step twice, and the later one counts."""
    at = {record.step: record.values for record in records if name in record.values}
    edges = [[values.get(name + end) for values in at.values()] for end in ("_low", "_high")]
    low, high = ([edge for edge in side if edge is not None] for side in edges)
    band = (low, high) if at and len(low) == len(high) == len(at) else None
    return Line(label, list(at), [values[name] for values in at.values()], held_out, band)
