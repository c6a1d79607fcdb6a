"""Averages of models that have one ancestor: weight by weight, in float32, into a folder that loads like the first.

Fine-tuning moves a model towards its training data and away from what it knew. The models on the straight line
between the two often keep most of both (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022; for
dense retrieval LM-Cocktail, 2023). Models without a common ancestor have no such line: their average is noise,
and no check of shapes can tell.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json, write_text
from retromae.models.checkpoint import SENTENCE_FILE, Pooling, write_sentence_transformer
from retromae.models.families import FAMILIES
from retromae.models.folders import MODULES_FILE, SENTENCE_MODEL_FILE, ModelFolder, Weights, read_object
from retromae.models.likeness import check_alike, usage_differences

RECIPE_FILE = "averaging.json"


@dataclass(frozen=True)
class Source:
    """One model of an average, and its share."""

    folder: str
    fingerprint: str
    weight: float


@dataclass(frozen=True)
class Recipe:
    """How an average was made. `kept` are the weights that are the first's alone: others lack them."""

    sources: list[Source]
    kept: list[str]


def average_states(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float], names: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Σ weight · state, tensor by tensor, computed in float32 and stored in the first state's types.

    The names and shapes of all floating-point tensors must be those of the first state. Other tensors (counters,
    position ids) are the first's. `names` are what the states are called in a refusal.
    """
    shares = check_weights(weights, len(states))
    called = list(names) or [f"model {number}" for number in range(1, len(states) + 1)]
    for state, name in zip(states[1:], called[1:]):
        _check_same(states[0], state, called[0], name)
    return {
        key: _mean(key, [state[key] for state in states], shares) if tensor.is_floating_point() else tensor
        for key, tensor in states[0].items()
    }


def check_weights(weights: Sequence[float], models: int) -> list[float]:
    """The weights if they are shares of so many models, otherwise a refusal."""
    if models < 2:
        raise UserError(f"an average needs at least two models, got {models}.")
    if len(weights) != models:
        raise UserError(f"{models} models need {models} weights, got {len(weights)}.")
    wrong = [weight for weight in weights if not 0 <= weight <= 1]
    if wrong or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise UserError(f"the weights must lie between 0 and 1 and add up to 1, got {listed}.")
    return [float(weight) for weight in weights]


def _check_same(first: Mapping[str, Tensor], other: Mapping[str, Tensor], here: str, there: str) -> None:
    for key, tensor in first.items():
        if not tensor.is_floating_point():
            continue
        if key not in other:
            raise UserError(
                f"{there} lacks the weight '{key}' of {here}; only models of one architecture can be averaged."
            )
        if other[key].shape != tensor.shape:
            raise UserError(
                f"the weight '{key}' has the shape {tuple(tensor.shape)} in {here} and "
                f"{tuple(other[key].shape)} in {there}; only models of one architecture can be averaged."
            )
    for key, tensor in other.items():
        if key not in first and tensor.is_floating_point():
            raise UserError(
                f"{here} lacks the weight '{key}' of {there}; only models of one architecture can be averaged."
            )


def _mean(key: str, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    exact = torch.promote_types(tensors[0].dtype, torch.float32)
    total = torch.zeros(tensors[0].shape, dtype=exact)
    for tensor, share in zip(tensors, shares):
        if share:
            total.add_(tensor.to(exact), alpha=share)
    if total.isnan().any():
        raise UserError(f"the average of the weight '{key}' holds a NaN; one of the models is broken.")
    return total.to(tensors[0].dtype)


def average(
    sources: Sequence[str | Path],
    out: str | Path,
    weights: Sequence[float],
    *,
    pooling: Pooling | None = None,
) -> Recipe:
    """Write the weighted average of model folders to `out`, in the place of an earlier average there.

    The result has the first model's configuration, tokenizer, modules, prompts and types of numbers. Weights that
    no vector depends on (a vocabulary head, pre-training heads) are averaged where all models have them and
    are the first's otherwise. A first model that is a plain encoder gets the modules of the first that states
    any; where none does, `pooling` says how tokens become a vector, and may not be left out.
    """
    shares = check_weights(weights, len(sources))
    folders = [ModelFolder.open(source) for source in sources]
    out = Path(out)
    _check_free(out, folders)
    check_alike(folders)
    stated = next((folder for folder in folders if folder.modules), None)
    if stated is None and pooling not in get_args(Pooling):
        raise UserError(
            f"neither {folders[0]} nor the others state how tokens become a vector; say so with pooling cls (what "
            "RetroMAE and its relatives train) or mean."
        )
    for sentence in usage_differences(folders):
        warnings.warn(sentence, stacklevel=2)
    read = [folder.weights() for folder in folders]
    merged, kept = _merge(read, shares, [str(folder) for folder in folders])
    recipe = Recipe([Source(str(f), f.fingerprint, share) for f, share in zip(folders, shares)], sorted(kept))
    with replacing_folder(out) as temporary:
        _copy_small_files(folders[0], temporary)
        if stated is None:
            assert pooling is not None
            first = folders[0]
            write_sentence_transformer(temporary, first.config.hidden_size, longest_input(first), pooling)
        elif not folders[0].modules:
            _copy_modules(stated, temporary)
        _write_weights(temporary, merged, read[0])
        write_json(temporary / RECIPE_FILE, asdict(recipe))
        write_text(temporary / "README.md", _card(out.name, recipe))
    return recipe


def read_recipe(folder: str | Path) -> Recipe | None:
    """How the average in a folder was made; None where there is none."""
    found = read_object(Path(folder) / RECIPE_FILE)
    try:
        return Recipe([Source(**source) for source in found["sources"]], found["kept"]) if found else None
    except (KeyError, TypeError):
        raise UserError(f"{Path(folder) / RECIPE_FILE} is damaged; make the average anew.") from None


def longest_input(folder: ModelFolder) -> int:
    """Of a plain encoder: as long as its tokenizer says and its position table allows."""
    config: Any = folder.config
    family = FAMILIES.get(config.model_type)
    before = config.pad_token_id + 1 if family is not None and family.positions_after_padding else 0
    return int(min(folder.tokenizer.model_max_length, config.max_position_embeddings - before))


def _check_free(out: Path, folders: Sequence[ModelFolder]) -> None:
    """Only an earlier average, or nothing, may be replaced: never a model or a folder of other things."""
    if any(out.resolve() == folder.path.resolve() for folder in folders):
        raise UserError(f"{out} is one of the models themselves; choose another folder for the average.")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / RECIPE_FILE).is_file()):
        raise UserError(f"{out} is there already and is no average of models; choose another folder.")


def _merge(
    read: Sequence[Weights], shares: Sequence[float], names: Sequence[str]
) -> tuple[dict[str, Tensor], set[str]]:
    """All tensors of the first model, averaged, and the names of those that are the first's alone."""
    first = read[0].beside
    shared = {
        name
        for name, tensor in first.items()
        if all(name in other.beside and other.beside[name].shape == tensor.shape for other in read)
    }
    merged = average_states([weights.vital for weights in read], shares, names)
    merged |= average_states([{name: w.beside[name] for name in shared} for w in read], shares, names)
    kept = first.keys() - shared
    return merged | {name: first[name] for name in kept}, kept


def _copy_small_files(folder: ModelFolder, target: Path) -> None:
    for name in folder.small_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.path / name, target / name)


def _copy_modules(stated: ModelFolder, target: Path) -> None:
    """Give a plain encoder the modules of another model, with the encoder itself at the root."""
    for module in stated.modules[1:]:
        if module.path and (stated.path / module.path).is_dir():
            shutil.copytree(stated.path / module.path, target / module.path, dirs_exist_ok=True)
    for file in (stated.encoder / SENTENCE_FILE, stated.path / SENTENCE_MODEL_FILE):
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    entries = json.loads((stated.path / MODULES_FILE).read_text(encoding="utf-8"))
    write_json(target / MODULES_FILE, [{**entries[0], "path": ""}, *entries[1:]])


def _write_weights(target: Path, merged: Mapping[str, Tensor], first: Weights) -> None:
    files: dict[Path, dict[str, Tensor]] = {}
    for name, tensor in merged.items():
        file, own = first.places[name]
        files.setdefault(file, {})[own] = tensor.contiguous()
    for file, tensors in files.items():
        (target / file.parent).mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / file, metadata={"format": "pt"})


def _card(name: str, recipe: Recipe) -> str:
    rows = "\n".join(f"| {s.folder} | {s.weight:g} | {s.fingerprint} |" for s in recipe.sources)
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [retromae, sentence-transformers, feature-extraction, dense-retrieval]
---
# {name}

A text encoder whose weights are the average of other models' weights, made by `retromae average`. Configuration,
tokenizer and modules are those of the first.

| model | weight | fingerprint |
|---|---:|---|
{rows}
"""
