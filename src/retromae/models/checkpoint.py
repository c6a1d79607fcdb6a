"""One folder that can always be used and always be continued.

    config.json, model.safetensors, tokenizer files     AutoModel, AutoModelForMaskedLM, AutoTokenizer
    modules.json, 1_Pooling/, sentence_bert_config.json,
    config_sentence_transformers.json                   SentenceTransformer: pooling and dot product stated
    pretraining_heads.safetensors, pretraining.json     what the objective trained besides, and with what
    README.md                                           a model card

A plain encoder folder makes sentence-transformers pool by the mean without a word; these objectives train
[CLS], so the pooling is always written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json, write_text
from retromae.models.backbone import Backbone
from retromae.models.loading import find_file, opening

HEADS_FILE = "pretraining_heads.safetensors"
RECIPE_FILE = "pretraining.json"
SENTENCE_FILE = "sentence_bert_config.json"

Pooling = Literal["cls", "mean"]
_POOLING_FLAGS: dict[Pooling, str] = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder or hub name; `heads` and `recipe` are empty where nobody pre-trained with retromae."""

    backbone: Backbone
    tokenizer: PreTrainedTokenizerBase
    heads: dict[str, Tensor]
    recipe: dict[str, Any]
    fresh: list[str]  # the parts that start from random weights, in words
    max_seq_length: int  # as stated for sentence-transformers, else the backbone's own limit


def save(
    folder: str | Path,
    backbone: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    heads: Mapping[str, Tensor],
    recipe: Mapping[str, Any],
    max_seq_length: int,
    *,
    pooling: Pooling = "cls",
    name: str | None = None,
) -> None:
    """Write the folder described above in the place of whatever `folder` was, whole or not at all.

    `name` is the title of the model card, the folder's own name if left out.

    `recipe` is plain JSON: `objective`, its `settings`, and `provenance` (where data and weights came from).
    """
    if pooling not in get_args(Pooling):
        raise UserError(f"pooling must be one of {', '.join(get_args(Pooling))}, not '{pooling}'.")
    if not 0 < max_seq_length <= backbone.max_length:
        raise UserError(
            f"max_seq_length is {max_seq_length} but this model takes 1 to {backbone.max_length} tokens."
        )
    backbone.check_tokenizer(tokenizer)
    folder = Path(folder)
    with replacing_folder(folder) as temporary:
        backbone.save(temporary)
        tokenizer.save_pretrained(temporary)
        write_sentence_transformer(temporary, backbone.hidden_size, max_seq_length, pooling)
        if heads:
            tensors = {name: head.detach().cpu().contiguous() for name, head in heads.items()}
            save_file(tensors, temporary / HEADS_FILE, metadata={"format": "pt"})
        write_json(temporary / RECIPE_FILE, dict(recipe))
        card = model_card(name or folder.name, backbone, recipe, max_seq_length, pooling)
        write_text(temporary / "README.md", card)


def open_checkpoint(
    folder_or_name: str | Path,
    *,
    attn_implementation: str | None = None,
    dropout: float | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Open a folder written by `save`, or any masked-LM encoder's folder or hub name."""
    source = str(folder_or_name)
    hub: dict[str, Any] = {"revision": revision or "main", "local_files_only": local_files_only}
    backbone = Backbone.open(source, attn_implementation=attn_implementation, dropout=dropout, **hub)
    tokenizer = open_tokenizer(source, **hub)
    backbone.check_tokenizer(tokenizer)
    heads_file = find_file(source, HEADS_FILE, **hub)
    with opening("pre-training heads", source):
        heads = load_file(heads_file) if heads_file else {}
    recipe = _read_json(find_file(source, RECIPE_FILE, **hub))
    stated = _read_json(find_file(source, SENTENCE_FILE, **hub)).get("max_seq_length") or backbone.max_length
    fresh = [*backbone.fresh, *([] if heads else ["pre-training heads"])]
    return Checkpoint(backbone, tokenizer, heads, recipe, fresh, min(int(stated), backbone.max_length))


def open_tokenizer(source: str | Path, **hub: Any) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or hub name."""
    with opening("tokenizer", source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(source), **hub)
    # Where the files are missing, transformers makes up a tokenizer of special tokens alone, without a word.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{source} has no tokenizer; copy the one that the model was trained with there.")
    return tokenizer


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it or delete it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold one JSON object; restore it or delete it.")
    return content


def write_sentence_transformer(folder: Path, size: int, max_seq_length: int, pooling: Pooling) -> None:
    """The four files that SentenceTransformer reads, in the form that its old and new versions understand."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write_json(folder / SENTENCE_FILE, {"max_seq_length": max_seq_length, "do_lower_case": False})
    flags = {flag: mode == pooling for mode, flag in _POOLING_FLAGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **flags})
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )


def model_card(
    name: str, backbone: Backbone, recipe: Mapping[str, Any], max_seq_length: int, pooling: Pooling
) -> str:
    """README.md: what this is, how to load it in three lines, and the settings it was made with."""
    vector = {"cls": "the last hidden state of the first token", "mean": "the mean of all token states"}
    facts = {
        "architecture": backbone.config.model_type,
        "layers, hidden size, heads": f"{backbone.num_layers}, {backbone.hidden_size}, {backbone.num_heads}",
        "vocabulary": backbone.vocab_size,
        "longest input": f"{max_seq_length} tokens",
        "pooling": f"{pooling}: {vector[pooling]}",
        "similarity": "dot product",
        "objective": recipe.get("objective") or "none",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [retromae, sentence-transformers, feature-extraction, dense-retrieval]
---
# {name}

A text encoder written by `retromae`: texts become vectors of {backbone.hidden_size} numbers, and the dot
product of two vectors says how well the texts belong together. A pre-trained encoder is meant to be
fine-tuned for search; before that, judge it on your own data.

```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("path/to/this/folder")
vectors = model.encode(["a first text", "a second text"])
```

The same folder opens with `AutoModel`, with `AutoModelForMaskedLM`, and with `retromae pretrain` to go on.

| | |
|---|---|
{rows}

## How it was made

```json
{json.dumps(dict(recipe), indent=2, ensure_ascii=False, default=str)}
```
"""
