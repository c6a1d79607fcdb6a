"""Other tools' checkpoints, brought into the folder layout of `checkpoint.py`.

    hub folder                  config.json and model.safetensors or pytorch_model.bin
    sentence-transformers       the same at the root or in a folder that modules.json names; pooling is read
    RetroMAE, as released       a hub folder, or a training dump: `lm.` before the encoder's names, and the
                                decoder's layer under `c_head.`
    Condenser                   a hub folder with the head in model.pt, or a dump; the head is `c_head.0.` …

Pickles are read with `weights_only` or not at all. Nothing is dropped in silence: the report names what was
read, what starts fresh, what was ignored and why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import (
    HEADS_FILE,
    RECIPE_FILE,
    SENTENCE_FILE,
    Pooling,
    open_tokenizer,
    save,
)
from retromae.models.decoders import EnhancedDecoder
from retromae.models.folders import read_tensors, weight_files
from retromae.models.loading import read_config

DECODER_PREFIX = "decoder."  # the enhanced decoder's place among the heads of a checkpoint
_HEAD_KEYS = ("c_head.", "decoder_embeddings.")

# RetroMAE's `c_head` is a BERT layer with separate queries; the names of its parts there and in DecoderLayer.
_RETROMAE_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp.inner",
    "output.dense": "mlp.outer",
    "output.LayerNorm": "mlp_norm",
}

_UNUSED_REASONS = {
    "pooler": "the sentence vector is the token state itself",
    "seq_relationship": "there is no next-sentence objective",
    "sop_classifier": "there is no sentence-order objective",
    "discriminator_predictions": "there is no replaced-token objective",
}
_MODULE_REASONS = {
    "Normalize": "vectors keep their length: the similarity is the dot product",
    "Dense": "the vector is the pooled state itself",
}


@dataclass(frozen=True)
class Ignored:
    """A part that was found and not taken over."""

    part: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What became of a foreign checkpoint."""

    source: str
    layout: str
    read: list[str]
    fresh: list[str]
    ignored: list[Ignored]
    pooling_before: str | None  # what the source stated; None where it stated nothing
    pooling: Pooling
    max_seq_length: int

    def lines(self) -> list[str]:
        """The report for people."""
        before = self.pooling_before or "not stated"
        return [
            f"{self.source}: {self.layout}",
            *(f"read     {part}" for part in self.read),
            *(f"fresh    {part}" for part in self.fresh),
            *(f"ignored  {item.part}: {item.reason}" for item in self.ignored),
            f"pooling  {self.pooling} (before: {before}), dot product, up to {self.max_seq_length} tokens",
        ]


@dataclass(frozen=True)
class _Layout:
    """Where the parts of a source folder lie."""

    model: Path  # config.json and weights
    pooling: str | None
    other_modules: list[str]  # sentence-transformers modules besides transformer and pooling


def import_checkpoint(
    source: str | Path,
    out: str | Path,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    pooling: Literal["cls", "mean", "keep"] = "cls",
) -> ImportReport:
    """Read the folder `source`, write `out` as `checkpoint.save` does, and say what was done.

    `tokenizer` is taken instead of the source's own. `pooling="keep"` stays with what the source states,
    and is "cls" where it states nothing.
    """
    folder, out = Path(source), Path(out)
    if not folder.is_dir():
        raise UserError(f"there is no folder {source}; download the checkpoint first and give its folder.")
    if out.resolve() == folder.resolve():
        raise UserError(f"{out} is the source itself; choose another folder for the result.")
    layout = _find_parts(folder)
    chosen = _choose_pooling(pooling, layout.pooling)
    config = read_config(layout.model)
    encoder, head = _split(_read_weights(layout.model))
    backbone = Backbone.from_state(config, encoder, str(layout.model))
    heads, head_ignored = _decoder_heads(backbone, head)
    own = _json(folder / RECIPE_FILE) or {} if (folder / HEADS_FILE).is_file() else {}
    if own:  # one of our own checkpoints
        heads = load_file(folder / HEADS_FILE)
    words = _open_tokenizer(tokenizer, layout.model, folder)
    max_seq_length = _max_seq_length(layout.model, words, backbone)
    kind = _name_layout(folder, encoder, head)
    report = ImportReport(
        source=str(source),
        layout=kind,
        read=_parts_read(backbone, heads),
        fresh=[*backbone.fresh, *([] if heads else ["decoder"])],
        ignored=[
            *_unused(backbone.unused),
            *head_ignored,
            *_modules_ignored(layout),
            *_pickles(layout.model),
        ],
        pooling_before=layout.pooling,
        pooling=chosen,
        max_seq_length=max_seq_length,
    )
    recipe: dict[str, Any] = {
        "objective": own.get("objective", "retromae" if heads else None),
        "settings": own.get("settings", {"decoder_embedding_norm": "context"} if heads else {}),
        "provenance": {"imported_from": str(source), "layout": kind, "pooling_before": layout.pooling},
    }
    save(out, backbone, words, heads, recipe, max_seq_length, pooling=chosen)
    return report


# Finding things


def _find_parts(folder: Path) -> _Layout:
    modules = _json(folder / "modules.json") or []
    kinds = [(str(module.get("type", "")).rpartition(".")[2], module.get("path", "")) for module in modules]
    paths = dict(kinds)
    model = folder / paths.get("Transformer", "")
    if not (model / "config.json").is_file():
        raise UserError(
            f"{model} has no config.json; put the one of the model that was pre-trained beside its weights."
        )
    pooling = None
    if "Pooling" in paths:
        stated = _json(folder / paths["Pooling"] / "config.json") or {}
        pooling = stated_pooling(stated)
    return _Layout(model, pooling, [kind for kind, _ in kinds if kind not in ("Transformer", "Pooling")])


def stated_pooling(config: dict[str, Any]) -> str:
    """The pooling in a sentence-transformers config, by old flags or new names; several joined by '+'."""
    modes = config.get("pooling_mode")
    if modes is None:
        names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
        modes = [names.get(key, key) for key, on in config.items() if on and key.startswith("pooling_mode_")]
    return "+".join([modes] if isinstance(modes, str) else modes) or "mean"


def _choose_pooling(asked: str, before: str | None) -> Pooling:
    chosen = (before or "cls") if asked == "keep" else asked
    for known in get_args(Pooling):
        if chosen == known:
            return known  # type: ignore[no-any-return]
    raise UserError(f"the pooling '{chosen}' cannot be written; choose cls or mean.")


def _max_seq_length(model: Path, tokenizer: PreTrainedTokenizerBase, backbone: Backbone) -> int:
    stated = (_json(model / SENTENCE_FILE) or {}).get("max_seq_length") or tokenizer.model_max_length
    return min(int(stated), backbone.max_length)


def _open_tokenizer(
    given: str | Path | PreTrainedTokenizerBase | None, *folders: Path
) -> PreTrainedTokenizerBase:
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if given is not None:
        return open_tokenizer(given)
    for folder in folders:
        if any(
            (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
        ):
            return open_tokenizer(folder)
    raise UserError(f"{folders[-1]} has no tokenizer; name the one that the model was trained with.")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error


# Reading weights


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, and of a Condenser head beside them."""
    files = weight_files(folder)
    if not files:
        raise UserError(
            f"{folder} has neither model.safetensors nor pytorch_model.bin; copy the weights there."
        )
    if (folder / "model.pt").is_file():
        files.append(folder / "model.pt")
    return {key: tensor for file in files for key, tensor in read_tensors(file).items()}


def _split(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masked-LM model's weights by their plain names, and those of a pre-training head."""
    weights = {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    head = {key: tensor for key, tensor in weights.items() if key.startswith(_HEAD_KEYS)}
    encoder = {key.removeprefix("lm."): tensor for key, tensor in weights.items() if key not in head}
    return encoder, head


def _decoder_heads(backbone: Backbone, head: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Ignored]]:
    """RetroMAE's decoder under our names where it fits, and what is left out."""
    ignored = []
    if any(key.startswith("decoder_embeddings.") for key in head):
        ignored.append(Ignored("decoder_embeddings", "the decoder uses the encoder's own embeddings"))
    layer = {key.removeprefix("c_head."): tensor for key, tensor in head.items() if key.startswith("c_head.")}
    if not layer:
        return {}, ignored
    if all(key.partition(".")[0].isdigit() for key in layer):
        ignored.append(Ignored("c_head", "Condenser's head has no counterpart in RetroMAE's decoder"))
        return {}, ignored
    renamed: dict[str, Tensor] = {}
    for key, tensor in layer.items():
        part, _, kind = key.rpartition(".")
        renamed[f"layer.{_RETROMAE_LAYER.get(part, part)}.{kind}"] = tensor
    wanted = {key: value.shape for key, value in EnhancedDecoder(backbone).state_dict().items()}
    if {key: value.shape for key, value in renamed.items()} != wanted:
        ignored.append(Ignored("c_head", "its parts or sizes differ from a decoder layer of this model"))
        return {}, ignored
    return {f"{DECODER_PREFIX}{key}": tensor for key, tensor in renamed.items()}, ignored


# Saying what was done


def _name_layout(folder: Path, encoder: dict[str, Tensor], head: dict[str, Tensor]) -> str:
    if any(key.startswith("c_head.0.") for key in head):
        return "Condenser checkpoint"
    if head:
        return "RetroMAE training dump"
    return "sentence-transformers folder" if (folder / "modules.json").is_file() else "hub folder"


def _parts_read(backbone: Backbone, heads: dict[str, Tensor]) -> list[str]:
    missing = {"vocabulary head: transform", "vocabulary head: bias"} & set(backbone.fresh)
    head = [["vocabulary head"], ["vocabulary head, in part"], []][len(missing)]
    return ["encoder", *head, *(["decoder layer"] if heads else [])]


def _unused(keys: list[str]) -> list[Ignored]:
    """Weights without a place here, by part; position ids are no weights and are left out."""
    parts: dict[str, str] = {}
    for key in keys:
        name = next(
            (name for name in _UNUSED_REASONS if name in key.split(".")), key.rpartition(".")[0] or key
        )
        if not key.endswith("position_ids"):
            parts[name] = _UNUSED_REASONS.get(name, "it is no part of this masked language model")
    return [Ignored(part, reason) for part, reason in parts.items()]


def _modules_ignored(layout: _Layout) -> list[Ignored]:
    default = "only the encoder and its pooling are taken over"
    return [Ignored(kind, _MODULE_REASONS.get(kind, default)) for kind in layout.other_modules]


def _pickles(folder: Path) -> list[Ignored]:
    found = [name for name in ("args.pt", "training_args.bin", "optimizer.pt") if (folder / name).is_file()]
    return [Ignored(name, "state of another program's training") for name in found]
