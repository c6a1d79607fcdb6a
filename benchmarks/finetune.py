"""A contrastive training step in passes of different sizes (`finetune --chunk_tokens`), in one process, in turn.

python -m benchmarks.finetune                        the offline all-MiniLM-L6-v2, where it is installed
python -m benchmarks.finetune --model FOLDER --batch 64 --chunk-tokens 1024 4096 --json finetune.json
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from benchmarks import common
from benchmarks.encode import made_up_texts, offline_model
from retromae.retrieval.encoder import Encoder
from retromae.training.contrast import GroupLoss, Part


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub name; the default is the offline package")
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step")
    parser.add_argument("--query-tokens", type=int, default=16)
    parser.add_argument("--device")
    parser.add_argument("--chunk-tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    encoder = Encoder.open(options.model or offline_model(), device=options.device)
    model = encoder.model.train()
    lengths = np.maximum(common.msmarco_like(options.batch, options.seed) - 2, 1)
    passages = made_up_texts(encoder, lengths, options.seed)
    queries = made_up_texts(encoder, np.full(options.batch, options.query_tokens), options.seed + 1)
    columns = [model.preprocess(queries, task="query"), model.preprocess(passages, task="document")]
    columns = [{k: v.to(model.device) for k, v in c.items() if torch.is_tensor(v)} for c in columns]
    tokens = int(sum(column["attention_mask"].sum() for column in columns))

    def step(chunk_tokens: int) -> Callable[[], None]:
        part = Part("contrastive", 1.0, MultipleNegativesRankingLoss(model))
        loss = GroupLoss(model, [part], chunk_tokens=chunk_tokens)

        def run() -> None:
            model.zero_grad(set_to_none=True)
            torch.stack(list(loss(columns, None).values())).sum().backward()
            if model.device.type == "cuda":
                torch.cuda.synchronize()

        return run

    timings = common.alternate({str(size): step(size) for size in options.chunk_tokens}, options.repeats)
    rows = [
        [name, f"{timing.median:.2f}", f"{tokens / timing.median:,.0f}"] for name, timing in timings.items()
    ]
    common.print_table(
        f"one step of {options.batch} pairs, {tokens} tokens",
        ["tokens of a pass", "seconds", "tokens/s"],
        rows,
    )
    if options.json:
        common.write_json(options.json, {"tokens": tokens, "timings": timings}, seed=options.seed)


if __name__ == "__main__":
    common.script(main)
