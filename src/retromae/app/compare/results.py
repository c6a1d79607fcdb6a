"""What a comparison found so far, read from its folder: means over seeds, intervals, tests, what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from retromae.app.compare.arms import BM25
from retromae.app.compare.finished import Finished, Inspection
from retromae.app.compare.ground import Ground
from retromae.app.compare.jobs import Job, jobs_of, test_folder
from retromae.app.compare.settings import Comparison, EvalSet
from retromae.core.runs import RunFolder
from retromae.evaluation.macro import macro_compare, macro_mean
from retromae.evaluation.metrics import Metric, Result
from retromae.evaluation.significance import Comparison as Pair
from retromae.training.session import measurements

PROBE, CLS_USE = "probe_ndcg@10", "cls_use"
Parts = list[Result]  # of one set; CQADupStack has twelve


@dataclass(frozen=True)
class Column:
    """One figure of every arm: a metric on a set, or the mean over several sets."""

    label: str
    tests: tuple[str, ...]
    metric: str


@dataclass(frozen=True)
class ArmFindings:
    """What one arm has reached. `results[test][seed]` are the parts of a set."""

    name: str
    objective: str
    described: str
    results: dict[str, dict[int, Parts]]
    stages: dict[int, dict[str, dict[str, Any]]]  # seed → stage → what it took
    curves: dict[int, list[tuple[int, dict[str, float]]]]

    def seeds(self, column: Column) -> list[int]:
        """Those that have everything that the column is made of."""
        found = [set(self.results.get(test, {})) for test in column.tests]
        return sorted(set.intersection(*found)) if found else []

    def averaged(self, column: Column) -> dict[str, Parts]:
        """Set → results whose value of every query is the mean over the seeds."""
        seeds = self.seeds(column)
        return {test: over_seeds([self.results[test][seed] for seed in seeds]) for test in column.tests}

    def by_seed(self, column: Column) -> dict[int, float]:
        return {
            seed: macro_mean({test: self.results[test][seed] for test in column.tests}, column.metric).mean
            for seed in self.seeds(column)
        }

    def spent(self, stage: str, name: str) -> float | None:
        """The mean over seeds."""
        found = [stages[stage][name] for stages in self.stages.values() if stage in stages]
        return mean(found) if found else None

    def last(self, name: str) -> float | None:
        """A figure of the last measurement while pre-training, the mean over the seeds that have ended it."""
        ended = [self.curves.get(seed, []) for seed, stages in self.stages.items() if "pretrained" in stages]
        found = [curve[-1][1][name] for curve in ended if curve and name in curve[-1][1]]
        return mean(found) if found else None


@dataclass(frozen=True)
class Figures:
    """One column: the mean of every arm that has it, and its difference from the reference."""

    column: Column
    means: dict[str, Metric]
    seeds: dict[str, dict[int, float]]
    reference: str | None
    pairs: dict[str, Pair]

    @property
    def best(self) -> str:
        return max(self.means, key=lambda name: self.means[name].mean)

    def deviation(self, arm: str) -> float | None:
        """The standard deviation over seeds."""
        values = list(self.seeds[arm].values())
        return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Findings:
    """Everything that a report says."""

    comparison: Comparison
    arms: list[ArmFindings]
    figures: list[Figures]
    facts: dict[str, dict[str, Any]]  # test → split, documents, queries
    remarks: list[str]

    @property
    def measured(self) -> bool:
        return any(figures.means for figures in self.figures)


def over_seeds(runs: Sequence[Parts]) -> Parts:
    """The mean of every query's value over several runs on one set."""
    return [
        Result.of(
            parts[0].name,
            {
                metric: {
                    query: mean(part.per_query[metric][query] for part in parts) for query in parts[0].queries
                }
                for metric in parts[0].per_query
            },
            sorted(set.intersection(*(set(part.missing) for part in parts))),
        )
        for parts in zip(*runs, strict=True)
    ]


def collect(comparison: Comparison, ground: Ground | None = None) -> Findings:
    """Read what is finished; what is not, or was made in another way, is said in a remark."""
    inspection = Inspection(comparison, ground)
    arms, facts, strange = [], dict[str, dict[str, Any]](), list[str]()
    jobs = [(job, inspection.of(job)) for job in jobs_of(comparison)]
    for arm in comparison.arms:
        own = {job.seed: (job, finished) for job, finished in jobs if job.arm is arm}
        results: dict[str, dict[int, Parts]] = {}
        for seed, (job, finished) in own.items():
            if finished.strange:
                strange.append(f"{job}: left out, for {finished.strange}; make it again with --restart.")
            for test in comparison.tests:
                told = finished.results.get(f"test {test.name}")
                parts = _read(job, test) if told else []
                if told and parts:
                    results.setdefault(test.name, {})[seed] = parts
                    facts.setdefault(
                        test.name, {name: told[name] for name in ("split", "documents", "queries")}
                    )
        arms.append(
            ArmFindings(
                arm.name,
                arm.objective,
                comparison.described(arm),
                results,
                {seed: _trainings(finished) for seed, (_, finished) in own.items()},
                {seed: _curve(job, finished) for seed, (job, finished) in own.items()},
            )
        )
    columns = columns_of(comparison.tests)
    figures = [_figures(column, arms, comparison.reference) for column in columns]
    leaked = [f"{leak} (Looked up for one arm; all have read the same.)" for leak in inspection.leaks()]
    remarks = [*_remarks(comparison, arms, columns), *strange, *leaked]
    return Findings(comparison, arms, [found for found in figures if found.means], facts, remarks)


def columns_of(tests: Sequence[EvalSet]) -> list[Column]:
    """One for each metric of each set, and the mean of the sets that nothing was fine-tuned on."""
    found = [
        Column(f"{test.name} {metric}", (test.name,), metric) for test in tests for metric in test.metrics
    ]
    zero_shot = [test for test in tests if test.zero_shot]
    if len(zero_shot) > 1 and len({test.metrics[0] for test in zero_shot}) == 1:
        metric = zero_shot[0].metrics[0]
        found.append(Column(f"zero-shot mean {metric}", tuple(test.name for test in zero_shot), metric))
    return found


def _figures(column: Column, arms: Sequence[ArmFindings], reference: str | None) -> Figures:
    """Without a reference every arm is tested against the best trained one of the column."""
    systems = {arm.name: arm.averaged(column) for arm in arms if arm.seeds(column)}
    means = {name: macro_mean(results, column.metric) for name, results in systems.items()}
    seeds = {arm.name: arm.by_seed(column) for arm in arms if arm.name in systems}
    against = reference if reference in systems else None
    if reference is None and means:
        trained = [arm.name for arm in arms if arm.name in means and arm.objective != BM25] or list(means)
        against = max(trained, key=lambda name: means[name].mean)
    pairs = macro_compare(systems, column.metric, baseline=against) if against and len(systems) > 1 else []
    return Figures(column, means, seeds, against, {pair.system: pair for pair in pairs})


def _read(job: Job, test: EvalSet) -> Parts:
    return [Result.load(file) for file in sorted(test_folder(job, test).glob("[0-9]*.json"), key=_number)]


def _number(file: Path) -> int:
    return int(file.stem)


def _trainings(finished: Finished) -> dict[str, dict[str, Any]]:
    return {name: finished.results[name] for name in ("pretrained", "finetuned") if name in finished.results}


def _curve(job: Job, finished: Finished) -> list[tuple[int, dict[str, float]]]:
    """Of a pre-training that may still go on."""
    if finished.strange and "pretrained" not in finished.results:
        return []
    return measurements(RunFolder(job.folder / "pretrained"))


def _remarks(comparison: Comparison, arms: Sequence[ArmFindings], columns: Sequence[Column]) -> list[str]:
    """What must be known beside the figures."""
    remarks = []
    wanted = {arm.name: len(comparison.seeds) if arm.trains else 1 for arm in comparison.arms}
    for arm in arms:
        done = min((len(arm.seeds(column)) for column in columns), default=0)
        if done < wanted[arm.name]:
            remarks.append(f"{arm.name}: {done} of {wanted[arm.name]} seeds are finished.")
    processes = {
        stages[stage].get("processes") for arm in arms for stages in arm.stages.values() for stage in stages
    }
    if len(processes) > 1:
        remarks.append(
            "Not all arms ran on as many processes, so the batches differ; compare arms that ran alike."
        )
    if len(comparison.seeds) == 1:
        remarks.append("One seed: how much a figure changes from seed to seed is not known.")
    return remarks
