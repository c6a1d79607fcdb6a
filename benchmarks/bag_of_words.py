"""DupMAE's bag of words: max-pooled logits in chunks against plain logits of every token; memory and time.

python -m benchmarks.bag_of_words --json benchmarks/results/bag-of-words.json
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks import common
from retromae.models.bag_of_words import max_pooled_logits

ROWS, LENGTH, WIDTH, WORDS, SEED = 32, 150, 384, 30522, 0


def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(SEED)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    weight = torch.randn(WORDS, WIDTH, requires_grad=True)
    bias = torch.zeros(WORDS, requires_grad=True)
    return hidden, weight, bias, torch.ones(ROWS, LENGTH, dtype=torch.bool)


def plain() -> None:
    hidden, weight, bias, _ = _inputs()
    (hidden @ weight.t() + bias).amax(dim=1).logsumexp(dim=1).sum().backward()


def chunked() -> None:
    hidden, weight, bias, counted = _inputs()
    max_pooled_logits(hidden, weight, bias, counted).logsumexp(dim=1).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    memory = {fn.__name__: common.peak_memory_cpu(fn).added / 2**20 for fn in (plain, chunked)}
    timings = common.alternate({"plain": plain, "chunked": chunked}, arguments.rounds)
    common.print_table(
        f"bag of words, {ROWS} x {LENGTH} tokens, {WORDS} words",
        ["", "peak MiB", "seconds"],
        [[name, f"{memory[name]:,.0f}", f"{timings[name].median:.2f}"] for name in memory],
    )
    if arguments.json:
        common.write_json(arguments.json, {"peak_mib": memory, "seconds": timings}, seed=SEED)


if __name__ == "__main__":
    common.script(main)
