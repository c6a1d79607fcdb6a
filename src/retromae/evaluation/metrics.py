"""Retrieval metrics, computed by ir-measures (trec_eval's own code), per query and with intervals.

**Ties.** trec_eval orders equal scores by document id, *descending*; here they are ordered ascending, as
everywhere in this library (`core.ranking`). trec_eval is therefore handed the rank instead of the score,
which leaves it no tie to break: the figures are trec_eval's, of the order that `Run` states.

**Missing queries.** A judged query without results counts as zero, and is listed in `Result.missing`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import ir_measures

from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.core.ranking import Run
from retromae.core.statistics import bootstrap_interval
from retromae.text.layouts import Qrels

DEFAULT_METRICS = ("nDCG@10", "RR@10", "R@10", "R@100")

# The names that people use → the names of ir-measures.
_ALIASES = {"mrr": "RR", "rr": "RR", "recall": "R", "r": "R", "map": "AP", "ap": "AP", "ndcg": "nDCG"}
_ALIASES |= {"success": "Success", "p": "P", "precision": "P"}
_QUERIES_AT_ONCE = 512  # as nested dictionaries, which cost some hundred bytes a result


@dataclass(frozen=True)
class Metric:
    """A mean over queries and its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What one system reached on one set: the means, and every query's value behind them.

    `per_query[metric][query]` covers the same queries, in the same order, for every metric. `missing` lists
    the queries that the system gave no result for.
    """

    name: str
    metrics: dict[str, Metric]
    per_query: dict[str, dict[str, float]]
    missing: list[str]

    @classmethod
    def of(cls, name: str, per_query: dict[str, dict[str, float]], missing: Sequence[str] = ()) -> Result:
        """Means and 95 % intervals from per-query values."""
        metrics = {}
        for metric, values in per_query.items():
            numbers = list(values.values())
            metrics[metric] = Metric(sum(numbers) / len(numbers), *bootstrap_interval(numbers))
        return cls(name, metrics, per_query, list(missing))

    @property
    def queries(self) -> list[str]:
        return list(next(iter(self.per_query.values())))

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric if metric in self.metrics else metric_name(metric)].mean

    def save(self, path: str | Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Result:
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            metrics = {name: Metric(**metric) for name, metric in saved["metrics"].items()}
            return cls(saved["name"], metrics, saved["per_query"], saved["missing"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a saved evaluation result ({error}).") from None


def metric_name(name: str) -> str:
    """The one spelling of a metric: `MRR@10` and `rr@10` are `RR@10`, `Recall@100` is `R@100`, `MAP` is `AP`.

    >>> metric_name("Recall@100")
    'R@100'
    """
    stem, at, cut = name.partition("@")
    proper = _ALIASES.get(stem.lower(), stem)
    if not re.fullmatch(r"(RR|R|AP|nDCG|Success|P)(@[1-9]\d*)?", proper + at + cut):
        raise UserError(f"metric {name!r} is not known; use nDCG@k, MRR@k, Recall@k, MAP, Success@k or P@k.")
    if proper in ("R", "Success", "P") and not cut:
        raise UserError(f"metric {name!r} needs a cut-off, for example {proper}@10.")
    return proper + at + cut


def evaluate_run(
    qrels: Qrels,
    run: Run,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    name: str = "",
    exclude_self: bool = False,
) -> Result:
    """Measure a run against graded judgements; every judged query counts, and no other.

    `exclude_self` leaves out the document whose id is the query's own (ArguAna, Quora): search for one
    document more than the deepest cut-off then.
    """
    if not qrels:
        raise UserError("there are no judgements to measure against.")
    if exclude_self:
        run = run.without_self()
    names = [metric_name(metric) for metric in metrics]
    per_query = {metric: dict.fromkeys(qrels, 0.0) for metric in names}
    for metric, query, value in _measure(qrels, run, names):
        per_query[metric][query] = value
    return Result.of(name, per_query, [query for query in qrels if query not in run or not run[query].ids])


def mean_of(qrels: Qrels, run: Run, metric: str) -> float:
    """One mean and nothing else, for whoever tries many runs."""
    return sum(value for _, _, value in _measure(qrels, run, [metric_name(metric)])) / len(qrels)


def _measure(qrels: Qrels, run: Run, names: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    measures = {ir_measures.parse_measure(metric): metric for metric in names}
    found = [query for query in qrels if query in run]
    for start in range(0, len(found), _QUERIES_AT_ONCE):
        queries = found[start : start + _QUERIES_AT_ONCE]
        judged = {query: qrels[query] for query in queries}
        ranked = {query: _ranks_as_scores(run[query].ids) for query in queries}
        for value in ir_measures.iter_calc(list(measures), judged, ranked):
            yield measures[value.measure], value.query_id, float(value.value)


def _ranks_as_scores(ids: Sequence[str]) -> dict[str, float]:
    return {document: float(len(ids) - rank) for rank, document in enumerate(ids)}
