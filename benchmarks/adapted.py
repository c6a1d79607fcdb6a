"""An adapt run judged by queries of people that it never saw: is what won on made-up queries better for them, too?

python -m benchmarks.adapted runs/notes data/mine --split test --json adapted.json

The set is a BEIR folder with the same text. Searched are all answers, BM25's best and random passages, `--passages` of
them in all.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

from benchmarks import common
from benchmarks.people import METRIC, add_arguments, queries_of
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.adapt.start import open_base
from retromae.app.adapt.telling import SYSTEM, VERDICT
from retromae.app.adapt.verdict import DEPTH, FUSED
from retromae.app.dev import DevSet
from retromae.core.config import from_dict, read_yaml
from retromae.core.ranking import Run
from retromae.evaluation.metrics import evaluate_run
from retromae.evaluation.significance import compare
from retromae.retrieval.fusion import weighted


def rankings(run: Path, queries: DevSet, config: AdaptConfig) -> dict[str, Run]:
    """Every model of the run, reading as much of a text as the base does, BM25, and what the run returned."""
    found = {"bm25": queries.bm25(config.language)}
    if config.model_name_or_path:
        found["base"] = queries.rank(open_base(config.model_name_or_path, config))
    for stage in ("pretrained", "contrastive", "hard", "averaged"):
        if (folder := run / "stages" / stage / "model").is_dir():
            found[stage] = queries.rank(open_base(str(folder), config), dense_only=True)
    returned = json.loads((run / VERDICT).read_text(encoding="utf-8"))["returned"]
    stated = json.loads((run / SYSTEM).read_text(encoding="utf-8"))
    if stated["kind"] == "fusion":
        parts = [found[returned.removesuffix(FUSED)], found["bm25"]]
        found[f"returned: {returned}"] = weighted(
            parts, [stated["weight"], 1 - stated["weight"]], depth=DEPTH
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("set", type=Path)
    add_arguments(parser)
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    config = from_dict(AdaptConfig, read_yaml(options.run / "config.yaml"))
    queries = queries_of(options.set, options, str(options.run / "pairs"))
    results = [
        evaluate_run(queries.qrels, ranking, [METRIC], name=name)
        for name, ranking in rankings(options.run, queries, config).items()
    ]
    reference = "base" if config.model_name_or_path else "bm25"
    pairs = {pair.system: pair for pair in compare(results, METRIC, baseline=reference)}
    rows = []
    for result in results:
        value, pair = result.metrics[METRIC], pairs.get(result.name)
        gap = f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}] p {pair.p:.4f}" if pair else ""
        rows.append([result.name, f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]", gap])
    common.print_table(
        f"{len(queries.queries)} queries, {len(queries.passages)} passages",
        ["", METRIC, f"against {reference}"],
        rows,
    )
    if options.json:
        facts = {result.name: asdict(result.metrics[METRIC]) for result in results}
        compared = {name: asdict(pair) for name, pair in pairs.items()}
        common.write_json(options.json, {"results": facts, "compared": compared}, seed=options.seed)


if __name__ == "__main__":
    common.script(main)
