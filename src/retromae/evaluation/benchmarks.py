"""Conventions of the public benchmarks: split, metric, what is left out, how averages are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retromae.core.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """How one public set is measured.

    `exclude_self`: queries are documents of the corpus under the same id and must not find themselves. BEIR's
    own code drops such results everywhere; it matters in these sets, while equal ids elsewhere are chance.
    """

    name: str
    split: str = "test"
    metric: str = "nDCG@10"
    exclude_self: bool = False


# The 12 forums of CQADupStack, which count as one set: the plain mean of their figures.
CQADUPSTACK = (
    *("android", "english", "gaming", "gis", "mathematica", "physics"),
    *("programmers", "stats", "tex", "unix", "webmasters", "wordpress"),
)

# The 18 sets of the BEIR average, by the names of their folders. Four are not public (BioASQ, Signal-1M,
# TREC-NEWS, Robust04). BEIR's `msmarco` is the training domain of most models and never in the average.
BEIR = (
    *("trec-covid", "bioasq", "nfcorpus", "nq", "hotpotqa", "fiqa", "signal1m", "trec-news", "robust04"),
    *("arguana", "webis-touche2020", "cqadupstack", "quora", "dbpedia-entity", "scidocs", "fever"),
    *("climate-fever", "scifact"),
)

_SELF = frozenset({"arguana", "quora"})
_BENCHMARKS = {name: Benchmark(name, exclude_self=name in _SELF) for name in BEIR}
_BENCHMARKS |= {f"cqadupstack/{part}": Benchmark(f"cqadupstack/{part}") for part in CQADUPSTACK}
_BENCHMARKS["msmarco"] = Benchmark("msmarco", split="dev")
# The passage ranking task in its own TSV files, and Natural Questions in DPR's.
_BENCHMARKS["msmarco-passage"] = Benchmark("msmarco-passage", split="dev.small", metric="RR@10")
_BENCHMARKS["nq-dpr"] = Benchmark("nq-dpr", metric="Accuracy@20")

# Touché 2020's judgements were remade for the same 382,545 documents, and the corpus was later cleaned of
# short arguments: figures of different versions must not be compared (BM25: about .60 on v1, .35 on v2).
_TOUCHE_JUDGEMENTS = {2962: "v1", 2214: "v2"}
_TOUCHE_DOCUMENTS, _TOUCHE_CLEANED = 382545, 303732


def benchmark(name: str) -> Benchmark:
    """The conventions of a set by its folder's name; a set that is not known is measured as BEIR's are."""
    return _BENCHMARKS.get(name, Benchmark(name))


def touche_version(documents: int, judgements: int) -> str:
    """Which Touché 2020 this is, by its numbers of documents and of judged pairs (zeros included).

    `v1`, `v2` (BEIR's since September 2021), `v3` (the cleaned corpus), or `unknown`.
    """
    if documents == _TOUCHE_CLEANED:
        return "v3"
    if documents == _TOUCHE_DOCUMENTS:
        return _TOUCHE_JUDGEMENTS.get(judgements, "unknown")
    return "unknown"


@dataclass(frozen=True)
class BeirAverage:
    """The plain mean over `sets`. It is BEIR's average of 18 only where `absent` is empty."""

    mean: float
    sets: dict[str, float]
    absent: list[str]


def beir_average(means: Mapping[str, float]) -> BeirAverage:
    """Average one metric over BEIR's sets; CQADupStack may come whole, or as parts `cqadupstack/android`, ….

    Other names are refused, and so is CQADupStack with some of its parts missing.
    """
    sets = {name: value for name, value in means.items() if not name.startswith("cqadupstack/")}
    parts = {name.partition("/")[2]: value for name, value in means.items() if name not in sets}
    if parts:
        if "cqadupstack" in sets:
            raise UserError("CQADupStack is given both whole and in parts; give one of them.")
        sets["cqadupstack"] = cqadupstack_average(parts)
    strangers = sorted(sets.keys() - set(BEIR))
    if strangers or not sets:
        raise UserError(f"BEIR's average is over {', '.join(BEIR)}; got {', '.join(strangers) or 'no set'}.")
    ordered = {name: sets[name] for name in BEIR if name in sets}
    return BeirAverage(
        sum(ordered.values()) / len(ordered), ordered, [name for name in BEIR if name not in sets]
    )


def cqadupstack_average(parts: Mapping[str, float]) -> float:
    """The plain mean of the 12 forums' figures; all must be there and nothing else."""
    wrong = sorted(parts.keys() ^ set(CQADUPSTACK))
    if wrong:
        raise UserError(
            f"CQADupStack's average needs exactly its 12 forums; missing or not one: {', '.join(wrong)}."
        )
    return sum(parts.values()) / len(parts)
