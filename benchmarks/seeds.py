"""Several runs of one recipe that differ in the seed, as one table: every query counts with its mean over the seeds.

python -m benchmarks.seeds runs/s1/measured runs/s2/measured runs/s3/measured \
    --systems bm25,untrained,dpr,hard,refreshed,distilled --pairs dpr:untrained,hard:dpr --json steps.json

The folders are those of `retromae evaluate --out`. Each pair is tested over the same queries (paired randomisation,
Holm's correction over all pairs), with a bootstrap interval of the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import stdev

from benchmarks import common
from retromae.app.compare.results import over_seeds
from retromae.core.errors import UserError
from retromae.core.statistics import holm
from retromae.evaluation.metrics import Result
from retromae.evaluation.significance import Comparison, compare


def read(folders: Sequence[Path], system: str) -> list[Result]:
    """One system's result in every folder, on the one set that all of them were measured on."""
    found = []
    for folder in folders:
        files = list(folder.glob(f"per_query/*/{system}.json"))
        if len(files) != 1:
            raise UserError(
                f"{folder} has {len(files)} results of {system!r} under per_query; one is needed."
            )
        found.append(Result.load(files[0]))
    return found


def pair_up(results: dict[str, Result], pairs: Sequence[tuple[str, str]], metric: str) -> list[Comparison]:
    """(system, what it is compared with) → their differences, corrected over all of them."""
    found = [compare([results[other], results[system]], metric)[0] for system, other in pairs]
    adjusted = holm([pair.p for pair in found])
    return [replace(pair, adjusted=float(p)) for pair, p in zip(found, adjusted)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--systems", type=lambda text: text.split(","), required=True)
    parser.add_argument("--pairs", type=lambda text: text.split(","), default=[])
    parser.add_argument("--metric", default="nDCG@10")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    metric = options.metric
    seeds = {system: read(options.folders, system) for system in options.systems}
    results = {
        system: replace(over_seeds([[result] for result in runs])[0], name=system)
        for system, runs in seeds.items()
    }
    pairs = [tuple(pair.split(":")) for pair in options.pairs]
    compared = pair_up(results, pairs, metric)
    rows = []
    for system, result in results.items():
        value, each = result.metrics[metric], [run[metric] for run in seeds[system]]
        deviation = f"{stdev(each):.4f}" if len(each) > 1 else "–"
        rows.append([system, f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]", deviation])
    count = len(next(iter(results.values())).queries)
    common.print_table(
        f"{count} queries, {len(options.folders)} seeds", ["", metric, "deviation over seeds"], rows
    )
    common.print_table(
        "paired",
        ["", "difference", "p (Holm)"],
        [
            [
                f"{pair.system} − {pair.baseline}",
                f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]",
                f"{pair.adjusted:.4f}",
            ]
            for pair in compared
        ],
    )
    if options.json:
        facts = {
            system: {**asdict(result.metrics[metric]), "seeds": [run[metric] for run in seeds[system]]}
            for system, result in results.items()
        }
        common.write_json(
            options.json,
            {
                "metric": metric,
                "queries": count,
                "systems": facts,
                "pairs": [asdict(pair) for pair in compared],
            },
            seed=0,
        )


if __name__ == "__main__":
    common.script(main)
