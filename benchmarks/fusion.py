"""How much of a fusion should be vectors, and how much BM25, for queries of people? nDCG@10 by weight and set.

python -m benchmarks.fusion data/mine data/yours --json fusion.json

Sets are BEIR folders; of each, `--queries` test queries over all their answers, BM25's best and random passages,
`--passages` in all. The model is the offline package, untouched, unless `--model` names another.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

from benchmarks import common
from benchmarks.people import METRIC, add_arguments, queries_of
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.adapt.start import default_base, open_base
from retromae.app.dev import DevSet
from retromae.evaluation.metrics import mean_of
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.fusion import weighted

DEPTH = 100
WEIGHTS = [tenths / 10 for tenths in range(11)]  # of the vectors; 0 is BM25 alone


def by_weight(queries: DevSet, model: Encoder) -> dict[float, float]:
    runs = [queries.rank(model), queries.bm25("english")]
    return {
        weight: mean_of(queries.qrels, weighted(runs, [weight, 1 - weight], depth=DEPTH), METRIC)
        for weight in WEIGHTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--passage-max-len", type=int, default=126)
    add_arguments(parser)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    config = AdaptConfig(passage_max_len=options.passage_max_len)
    model = open_base(options.model or default_base(), config)
    with tempfile.TemporaryDirectory() as cache:
        found = {
            Path(folder).name: by_weight(queries_of(folder, options, cache), model) for folder in options.sets
        }
    rows = [[str(weight), *(f"{values[weight]:.3f}" for values in found.values())] for weight in WEIGHTS]
    common.print_table(f"{METRIC} by the share of the vectors", ["", *found], rows)
    if options.json:
        figures = {
            name: {str(weight): value for weight, value in values.items()} for name, values in found.items()
        }
        common.write_json(options.json, {"metric": METRIC, "sets": figures}, seed=options.seed)


if __name__ == "__main__":
    common.script(main)
