"""Masked-LM models of transformers: read from a folder, a hub name or a state dict, or made from nothing.

What goes wrong becomes one sentence, and what a checkpoint lacks is returned in words instead of being
initialised behind the user's back. Used by `backbone.py` only.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from retromae.core.errors import UserError
from retromae.core.files import restore
from retromae.models.families import Family, find_family

_reports: Any = transformers_logging
_model_classes: Any = MODEL_FOR_MASKED_LM_MAPPING
_auto_model: Any = AutoModelForMaskedLM

_LOADING_ERRORS = (OSError, ValueError, RuntimeError, LookupError, AttributeError, SafetensorError)


@contextmanager
def opening(what: str, source: str | Path) -> Iterator[None]:
    """Turn what goes wrong while loading `what` into one sentence; keep transformers' own reports quiet."""
    verbosity, bar = _reports.get_verbosity(), _reports.is_progress_bar_enabled()
    _reports.set_verbosity_error()
    _reports.disable_progress_bar()
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"cannot open the {what} '{source}': its pickle needs code to be executed, which is refused; "
            "ask for the weights as safetensors."
        ) from error
    except _LOADING_ERRORS as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"cannot open the {what} '{source}': {reason}") from error
    finally:
        _reports.set_verbosity(verbosity)
        if bar:
            _reports.enable_progress_bar()


def read_config(source: str | Path, **hub: Any) -> PreTrainedConfig:
    """The configuration at a folder or hub name."""
    _check_local(str(source))
    with opening("model", source):
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(source), **hub)
    return config


def _check_local(source: str) -> None:
    """Say so when a path is meant that is not there, before the hub is asked for a model of that name."""
    path = Path(source)
    restore(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"{source} has no config.json, so it is not a model's folder; "
                "if it comes from another tool, convert it with `retromae import`."
            )
    elif path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"there is no folder {source}; give a model's folder or its name on the hub.")


def find_file(source: str | Path, name: str, **hub: Any) -> Path | None:
    """Where a file of a folder or hub name lies on this machine, or None if it has no such file."""
    with opening("file", f"{source}/{name}"):
        found = cached_file(
            str(source),
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub,
        )
    return None if found is None else Path(found)


@dataclass(frozen=True)
class Loaded:
    """A masked-LM model in float32, and how it and its checkpoint differ."""

    model: PreTrainedModel
    fresh: list[str]  # the parts that start from random weights, in words
    unused: list[str]  # names of weights that the checkpoint has and the model has not


def load_masked_lm(config: PreTrainedConfig, source: str, **how: Any) -> Loaded:
    """Read a masked-LM model.

    `how` goes to `from_pretrained`; with a `state_dict` in it no file is read and `source` is only a name.
    """
    family_of(config)  # refuse an unknown architecture before its weights are read
    path = None if "state_dict" in how else source
    how |= {"config": config, "dtype": torch.float32, "output_loading_info": True}
    model_class = _model_classes[type(config)]
    with opening("model", source):
        model, info = model_class.from_pretrained(path, **how)
        if any(key.startswith("lm_predictions.lm_head.") for key in info["unexpected_keys"]):
            # DeBERTa with the head it was trained with, which its configuration seldom mentions.
            config.legacy = False
            try:
                model, info = model_class.from_pretrained(path, **how)
            except AttributeError:  # transformers 5.17 cannot read that head: it starts fresh there
                config.legacy = True
    fresh = fresh_parts(family_of(config), info["missing_keys"], source)
    return Loaded(model, fresh, sorted(info["unexpected_keys"]))


def new_masked_lm(config: PreTrainedConfig, attn_implementation: str | None) -> Loaded:
    """Random float32 weights, drawn from torch's global generator as transformers does for the family."""
    family_of(config)
    with opening("model", f"{config.model_type} from its configuration"):
        model = _auto_model.from_config(config, attn_implementation=attn_implementation).float()
    return Loaded(model, ["encoder", "vocabulary head"], [])


def scratch_config(family: str, sizes: dict[str, int], settings: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of `family`. `sizes` go by BERT's names and count usable positions; `settings` win."""
    row = find_family(family)
    sizes = dict(sizes)
    sizes[row.intermediate] = sizes.pop("intermediate_size")
    if row.positions_after_padding:
        sizes["max_position_embeddings"] += sizes["pad_token_id"] + 1
    if row.norm_first:
        sizes["embedding_size"] = min(128, sizes["hidden_size"])
    with opening("model", f"{family} from scratch"):
        config: PreTrainedConfig = AutoConfig.for_model(family, **{**row.scratch, **sizes, **settings})
    return config


def set_dropout(config: PreTrainedConfig, dropout: float | None) -> dict[str, float]:
    """Set every dropout probability of `config`, None leaves them as they are; those that it had before."""
    if dropout is None:
        return {}
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout must be at least 0 and below 1, not {dropout}.")
    before: dict[str, float] = {}
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
            before[name] = value
            setattr(config, name, float(dropout))
    return before


def family_of(config: PreTrainedConfig) -> Family:
    """The table's row for a configuration, or a `UserError` that lists the known architectures."""
    return find_family(config.model_type, trained_head=not getattr(config, "legacy", True))


def fresh_parts(family: Family, missing: Iterable[str], source: str) -> list[str]:
    """The parts that missing weights belong to, in words; an encoder with holes is refused."""
    missing = sorted(missing)
    encoder = [key for key in missing if key.startswith(f"{family.base}.")]
    if encoder:
        raise UserError(
            f"{source} lacks {len(encoder)} weights of the encoder (the first is {encoder[0]}); "
            "if it comes from another tool, convert it with `retromae import`."
        )
    transform = tuple(f"{step}." for step in family.transform if isinstance(step, str))
    halves = {
        "transform" if key.startswith(transform) else "matrix" if key == family.weight else "bias"
        for key in missing
    }
    return [f"vocabulary head: {half}" for half in sorted(halves)]
