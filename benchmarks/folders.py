"""A made-up model and rows on disk, for benchmarks that start the library as people do."""

from __future__ import annotations

from pathlib import Path

import datasets
import torch
from tokenizers import Tokenizer, models
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from benchmarks import common
from benchmarks.loop import SEED, Case


def made_up_folder(case: Case, folder: Path, number: int) -> dict[str, str]:
    """A model with a tokenizer of made-up words, and rows on disk."""
    vocabulary = {name: place for place, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    starts = common.word_starts(case.vocabulary)
    for place in range(common.ORDINARY, case.vocabulary):
        vocabulary[f"w{place}" if starts[place] else f"##w{place}"] = place
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")),
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    torch.manual_seed(SEED)
    BertForMaskedLM(case.config()).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = common.random_rows(case.lengths(number, SEED), case.vocabulary, SEED)
    datasets.Dataset.from_dict({"token_ids": rows}).save_to_disk(str(folder / "rows"))
    return {"model_name_or_path": str(folder / "model"), "rows": str(folder / "rows")}
