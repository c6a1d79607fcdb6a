"""Opens an encoder of any origin as a SentenceTransformer whose pooling is known, and says who it is.

Three kinds of folders (or hub names): a model of sentence-transformers, ours included; DupMAE's representation;
and a plain encoder of transformers, which states no pooling.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from retromae.core.errors import UserError
from retromae.core.files import restore
from retromae.models.loading import find_file, opening, read_config
from retromae.retrieval.representation import DupMAERepresentation, as_sentence_transformer

PoolingMode = Literal["cls", "mean"]
_OURS = "retromae."
# What a configuration says about its file or the library, not about the vectors.
_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "tokenizer_class",
}


def model_folder(source: str | Path) -> str:
    """The folder of the model itself where `source` is a run's; anything else as it is."""
    inner = Path(source) / "model"
    restore(inner)
    run = all((Path(source) / name).is_file() for name in ("manifest.json", "config.yaml"))
    if run and not inner.is_dir():
        raise UserError(f"the run in '{source}' has no model yet; finish it with --resume.")
    is_run = inner.is_dir() and not any(
        (Path(source) / name).is_file() for name in ("config.json", "modules.json")
    )
    return str(inner) if is_run else str(source)


def open_model(
    source: str | Path, *, pooling: PoolingMode | None, lexical_terms: int | None, device: str | None
) -> SentenceTransformer:
    """Weights in float32. `pooling` overrules what the folder states; `lexical_terms` makes DupMAE's
    representation of a pre-trained checkpoint."""
    if pooling not in (None, "cls", "mean"):
        raise UserError(f"pooling must be cls or mean, not {pooling!r}.")
    if device is None and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"  # under torchrun every process has its own
    name = model_folder(source)
    modules = _stated_modules(name)
    if lexical_terms is not None or any(kind.startswith(_OURS) for kind in modules):
        return _open_representation(name, pooling, lexical_terms, stored=bool(modules), device=device)
    if not modules:
        return _open_plain(name, pooling, device)
    with opening("encoder", name):
        model = SentenceTransformer(name, device=device, model_kwargs={"dtype": torch.float32})
    if pooling:
        _set_pooling(model, pooling, name)
    return model


def _stated_modules(name: str) -> list[str]:
    """The classes that modules.json lists, [] where there is none."""
    local = Path(name).is_dir()
    if not (local and (Path(name) / "modules.json").is_file()):
        read_config(name)  # one sentence for what is no model at all
    found = find_file(name, "modules.json")
    if found is None:
        return []
    try:
        return [str(module["type"]) for module in json.loads(found.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{found} is damaged; restore it, or delete it and state the pooling.") from None


def _open_representation(
    name: str, pooling: PoolingMode | None, terms: int | None, *, stored: bool, device: str | None
) -> SentenceTransformer:
    if pooling == "mean":
        raise UserError("DupMAE's dense half is [CLS]; leave pooling out.")
    ready = stored and find_file(name, DupMAERepresentation.config_file_name) is not None
    if not ready:
        return as_sentence_transformer(
            DupMAERepresentation.from_checkpoint(name, terms=terms or 384), device=device
        )
    module = DupMAERepresentation.load(name)
    if terms is not None:
        module.terms = min(terms, module.backbone.vocab_size)
    model = as_sentence_transformer(module, device=device)
    config = find_file(name, "config_sentence_transformers.json")
    if config is not None:
        stated = json.loads(config.read_text(encoding="utf-8"))
        model.prompts.update(stated.get("prompts") or {})
        model.default_prompt_name = stated.get("default_prompt_name")
    return model


def _open_plain(name: str, pooling: PoolingMode | None, device: str | None) -> SentenceTransformer:
    if pooling is None:
        warnings.warn(
            f"{name} is a plain encoder that does not state its pooling: its [CLS] is taken, which is what "
            "RetroMAE and its relatives train; if it was trained with another, state pooling='mean'.",
            stacklevel=4,
        )
    with opening("encoder", name):
        transformer = Transformer(name, model_kwargs={"dtype": torch.float32})
    pooler = Pooling(transformer.get_embedding_dimension(), pooling or "cls")
    return SentenceTransformer(modules=[transformer, pooler], similarity_fn_name="dot", device=device)


def _set_pooling(model: SentenceTransformer, pooling: PoolingMode, name: str) -> None:
    poolers = [module for module in model if isinstance(module, Pooling)]
    if len(poolers) != 1 or not isinstance(poolers[0].pooling_mode, str):
        raise UserError(
            f"{name} does not pool tokens in one way, so its pooling cannot be set; leave it out."
        )
    poolers[0].pooling_mode = pooling


def pooling_of(model: SentenceTransformer | CrossEncoder) -> str:
    """The pooling in words; "own" where the modules do something else."""
    modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    if any(isinstance(module, DupMAERepresentation) for module in model):
        return "cls"
    return "+".join(str(mode) for mode in modes) if modes else "own"


def fingerprint(model: SentenceTransformer | CrossEncoder, **settings: Any) -> str:
    """32 hexadecimal digits that change whenever a vector or score would: weights, modules, vocabulary, `settings`.

    It does not depend on the folder, the machine or the device; so an index made elsewhere can be searched.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if ".pooler." in name and isinstance(model, SentenceTransformer):
            continue  # BERT's own, which only cross-encoders read; made up at random where a folder lacks it
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    config = getattr(model.transformers_model, "config", None)
    facts = {
        "modules": [type(module).__name__ for module in model],
        "pooling": pooling_of(model),
        "terms": [module.terms for module in model if isinstance(module, DupMAERepresentation)],
        "truncated to": getattr(model, "truncate_dim", None),
        "config": {k: v for k, v in config.to_diff_dict().items() if k not in _VOLATILE} if config else {},
        "vocabulary": sorted(model.tokenizer.get_vocab().items())
        if hasattr(model.tokenizer, "get_vocab")
        else [],
        **settings,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]
