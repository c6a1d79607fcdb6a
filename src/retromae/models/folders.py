"""What a model's folder holds, wherever it comes from: modules, configuration, tokenizer, weights by one naming.

Read from the files, without building the model, so that nothing is converted, dropped or made up. Three forms:

    sentence-transformers   modules.json names the encoder's folder ("" or 0_Transformer), pooling and the rest
    DupMAE's representation the same with one module, whose weights lie in files beside the encoder's
    plain encoder           config.json, weights, tokenizer; it states no pooling

One encoder is saved under two namings: as a masked language model (`bert.encoder…`, and a head) and alone
(`encoder…`). Weights are called by the second here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.core.files import file_sha256, restore
from retromae.models.checkpoint import HEADS_FILE, SENTENCE_FILE, open_tokenizer
from retromae.models.loading import opening, read_config

MODULES_FILE = "modules.json"
SENTENCE_MODEL_FILE = "config_sentence_transformers.json"
WEIGHTS_FILE = "model.safetensors"
_WEIGHTS = (WEIGHTS_FILE, "pytorch_model.bin")
_WEIGHT_ENDINGS = {
    *(".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".npz", ".pkl", ".gguf"),
}
_OURS = "retromae."
# No vector of a text depends on these: BERT's pooler, and tables that the model works out for itself.
_BESIDE = re.compile(r"(^|\.)(pooler\..*|position_ids|inv_freq)$")
_model_classes: Any = MODEL_MAPPING


@dataclass(frozen=True)
class Module:
    """One entry of modules.json: its class without the package, and its folder."""

    kind: str
    path: str
    ours: bool


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder. Every name is in one of the first two, and in `places`."""

    vital: dict[str, Tensor]  # what the vectors of texts are made of
    beside: dict[str, Tensor]  # what only training on needs (heads), or nobody
    places: dict[str, tuple[Path, str]]  # name → (file of safetensors relative to the folder, name in it)


@dataclass(frozen=True)
class ModelFolder:
    """A folder that holds one encoder. Opening it reads no weights."""

    path: Path
    modules: tuple[Module, ...]  # empty where the folder states none
    encoder: Path  # where config.json, weights and tokenizer lie
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Refuses what is no folder, and models that are not made of one transformer encoder."""
        path = Path(path)
        restore(path)
        if not path.is_dir():
            raise UserError(f"there is no folder {path}; give a model's folder, downloaded first if need be.")
        modules = tuple(
            Module(str(entry["type"]).rpartition(".")[2], entry["path"], str(entry["type"]).startswith(_OURS))
            for entry in _entries(path / MODULES_FILE)
        )
        if modules and not (modules[0].ours or modules[0].kind.endswith("Transformer")):
            raise UserError(f"{path} begins with a {modules[0].kind}, not with a transformer encoder.")
        encoder = path / (modules[0].path if modules else "")
        return cls(path, modules, encoder, read_config(encoder), open_tokenizer(encoder))

    def __str__(self) -> str:
        return str(self.path)

    def module_config(self, module: Module) -> dict[str, Any]:
        return read_object(self.path / module.path / "config.json")

    @cached_property
    def sentence_config(self) -> dict[str, Any]:
        """How the encoder is used as a module: longest input, task."""
        return read_object(self.encoder / SENTENCE_FILE)

    @cached_property
    def usage(self) -> dict[str, Any]:
        """What else the folder states about making and comparing vectors; {} where it states no modules."""
        if not self.modules:
            return {}
        stated = read_object(self.path / SENTENCE_MODEL_FILE)
        prompts = {name: prompt for name, prompt in (stated.get("prompts") or {}).items() if prompt}
        return {
            "similarity": stated.get("similarity_fn_name") or "cosine",
            "prompts": prompts,
            "longest input": self.sentence_config.get("max_seq_length") or self.tokenizer.model_max_length,
        }

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits of all files that the model is made of, model card aside."""
        digest = hashlib.sha256()
        for name in sorted({*self.small_files(), *(file for _, file in self._weight_files())}):
            digest.update(f"{name.as_posix()} {file_sha256(self.path / name)}\n".encode())
        return digest.hexdigest()[:32]

    def small_files(self) -> Iterator[Path]:
        """Everything but weights and the model card, relative to the folder."""
        found = {*self.path.glob("*"), *self.encoder.glob("*")}
        for folder in self._other_folders():
            found |= set(folder.rglob("*"))
        for file in sorted(found):
            plain = file.suffix not in _WEIGHT_ENDINGS and not file.name.endswith(".index.json")
            if file.is_file() and plain and file.name != "README.md" and not file.name.startswith("."):
                yield file.relative_to(self.path)

    def weights(self) -> Weights:
        """All tensors, read into memory, in the types that they are stored in."""
        vital: dict[str, Tensor] = {}
        beside: dict[str, Tensor] = {}
        places: dict[str, tuple[Path, str]] = {}
        side = self._side_files()
        for part, file in self._weight_files():
            tensors = read_tensors(self.path / file)
            prefix = self._prefix(tensors) if part == "" else ""
            target = file if file in side else file.parent / WEIGHTS_FILE
            for own, tensor in tensors.items():
                name = part + _modern(own.removeprefix(prefix))
                head = bool(prefix) and not own.startswith(prefix) and not self._reads_head
                needed = tensor.is_floating_point() and not (head or _BESIDE.search(name))
                (vital if needed and file.name != HEADS_FILE else beside)[name] = tensor
                places[name] = target, own
        return Weights(vital, beside, places)

    def _prefix(self, tensors: dict[str, Tensor]) -> str:
        """What stands before the encoder's own names where it was saved with a head, otherwise ""."""
        model_class = _model_classes.get(type(self.config), None)
        prefix = f"{getattr(model_class, 'base_model_prefix', '')}."
        return prefix if prefix != "." and any(name.startswith(prefix) for name in tensors) else ""

    @property
    def _reads_head(self) -> bool:
        """Do vectors depend on the vocabulary head?"""
        if not self.modules:
            return False
        task = self.sentence_config.get("transformer_task", "feature-extraction")
        return self.modules[0].kind != "Transformer" or task != "feature-extraction"

    def _other_folders(self) -> list[Path]:
        return [self.path / module.path for module in self.modules[1:] if module.path]

    def _side_files(self) -> list[Path]:
        """Weights of ours in the encoder's folder that are not the encoder's, relative to the folder."""
        ours = bool(self.modules) and self.modules[0].ours
        found = self.encoder.glob("*.safetensors") if ours else [self.encoder / HEADS_FILE]
        return [
            file.relative_to(self.path)
            for file in sorted(found)
            if file.is_file() and not re.match(r"model[.-]", file.name)
        ]

    def _weight_files(self) -> Iterator[tuple[str, Path]]:
        """(what goes before the names, file relative to the folder), the encoder's own files first."""
        files = weight_files(self.encoder)
        if not files:
            raise UserError(f"{self.encoder} has neither {' nor '.join(_WEIGHTS)}; copy the weights there.")
        yield from (("", file.relative_to(self.path)) for file in files)
        yield from ((f"{file.name}: ", file) for file in self._side_files())
        for number, module in enumerate(self.modules[1:], 1):
            top = self.path / module.path
            for folder in sorted({top, *(file.parent for file in top.rglob("*"))} if module.path else ()):
                part = f"{number} {module.kind} {folder.relative_to(top)}: ".replace(" .:", ":")
                yield from ((part, file.relative_to(self.path)) for file in weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, safetensors before pickles, one or many; [] where there are none."""
    for name in _WEIGHTS:
        index = read_object(folder / f"{name}.index.json")
        names = sorted(set(index["weight_map"].values())) if index else [name]
        if all((folder / part).is_file() for part in names):
            return [folder / part for part in names]
    return []


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A file of safetensors, or a pickle that holds a plain dictionary of tensors."""
    with opening("weights", path):
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(
            f"{path} does not hold a plain dictionary of weights; save the model's state_dict there."
        )
    return content


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file."""
    content = _json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold one JSON object; restore it.")
    return content


def _entries(path: Path) -> list[dict[str, Any]]:
    """The entries of modules.json in order, [] where there is no such file."""
    content = _json(path) if path.is_file() else []
    fits = isinstance(content, list) and all(
        isinstance(entry, dict) and {"type", "path"} <= entry.keys() for entry in content
    )
    if not fits:
        raise UserError(f"{path} is damaged; restore it, or delete it and state the pooling.")
    return list(content)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it.") from None


def _modern(name: str) -> str:
    """Checkpoints of BERT's first years call a LayerNorm's weight gamma and its bias beta."""
    stem, dot, last = name.rpartition(".")
    return stem + dot + {"gamma": "weight", "beta": "bias"}.get(last, last)
