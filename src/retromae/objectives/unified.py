"""The unified framework's stage 2: an objective and contrastive learning in one step, from one encoder pass.

Paper: Masked Autoencoders As The Unified Learners For Pre-Trained Sentence Representation (Liu and Yang, 2022).
Stage 1 is `retromae` on generic text; stage 2 goes on with domain data:

    h(x) = Φ_enc(x̃)[CLS]                                          x̃: x with words masked, as in RetroMAE
    L    = L_contrastive({h(q)}, {h(p)})  +  w · L_RetroMAE({x})    the same h(x) is what the decoder rebuilds x from

Rows: texts in groups, a query with its passages, or sentences (NLI: premise, entailment, contradiction); every text
has a number that its masks depend on. This is therefore no `Objective` for token rows but a module of
sentence-transformers, `UnifiedEncoder`, that any loss over `sentence_embedding` can train while an objective of ours
rides along. Parts: those of the objective (`encoder`, `decoder`, for DupMAE also `bow`).

A step may be cut into chunks in any way: masks are a pure function of a text's number and epoch, and each chunk gives
*sums* and *counts*. `reconstruction_loss` divides the sums by the counts of the whole step, so the result is what the
objective's own `forward` gives for all texts at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from retromae.core.config import from_dict
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json
from retromae.models import checkpoint
from retromae.models.checkpoint import SENTENCE_FILE, Checkpoint, open_checkpoint
from retromae.objectives import Batch, Drawn, Objective, Vocabulary, available, load
from retromae.objectives.contrast import Contrastive
from retromae.objectives.one_pass import OnePass

_MODEL_FILE = "config_sentence_transformers.json"


class Reconstruction(NamedTuple):
    """What one chunk of texts adds to the objective's loss."""

    sums: dict[str, Tensor]  # part → Σ of its losses, 0-dim, with gradient; empty where it was not asked for
    counts: dict[str, Tensor]  # part → number of items, 0-dim float32; zeros for texts that are not masked


def total_counts(chunks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The counts of several chunks added up; with several processes, to be summed over them too."""
    chunks = list(chunks)
    return {part: torch.stack([chunk[part] for chunk in chunks]).sum() for part in chunks[0]}


def reconstruction_loss(
    chunks: Sequence[Reconstruction],
    weights: Mapping[str, float],
    totals: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """{"loss": Σ_part weight · Σ_chunks sum / total, part: its contribution to the step's mean, without gradient}.

    `chunks` may be all of a step, or some: `totals` are the counts of the whole step over all processes (left out,
    the chunks stand for themselves), and the contributions of chunks and processes add up. Where processes average
    their gradients, the caller multiplies by their number.
    """
    totals = totals or total_counts(chunk.counts for chunk in chunks)
    means = {
        part: torch.stack([chunk.sums[part] for chunk in chunks]).sum() / totals[part].clamp(min=1)
        for part in weights
    }
    loss = torch.stack([weight * means[part] for part, weight in weights.items()]).sum()
    return {"loss": loss, **{part: mean.detach() for part, mean in means.items()}}


class UnifiedEncoder(InputModule):
    """The [CLS] encoder of an objective, as the only module of a SentenceTransformer.

    In evaluation it is that and nothing else. In training `forward` reads, besides `input_ids` and `attention_mask`:

        row_ids, epochs   (B,) int64: which text this is, and in which pass; masks depend on nothing else. Queries
                          and passages should be numbered apart, or equal numbers share their draws
        progress          float, how much of the training is done (0 if absent): for the objective's schedules
        mask              bool (True if absent): False gives the plain embedding of a text that is not rebuilt.
                          A query of a few words loses much by masking; sentences (NLI) and passages are masked
        reconstruct       bool (True if absent): False gives the same embedding and counts, but no sums; for
                          GradCache's first pass, which would compute them in vain

    and adds `sentence_embedding` (B, d) and `reconstruction`, a `Reconstruction`.

    `clean` takes the embedding from a second pass over the unmasked text. It costs that pass, and the contrastive
    loss no longer trains the vector that the decoder reads; but it sees texts as search will, which matters where
    30 % of the words are the meaning: short sentences, titles, numbers.

    Whatever a pass leaves out still gets a gradient of zeros, so DDP never waits for a parameter.
    """

    save_in_root = True

    def __init__(
        self,
        objective: Objective,
        tokenizer: Any,
        *,
        max_seq_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        clean: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not isinstance(objective, OnePass) or isinstance(objective, Contrastive):
            raise UserError(
                f"{type(objective).__name__} does not get all its losses from one encoder pass over a text (it is no "
                "`OnePass`, or it compares rows), so it cannot be trained together with contrastive learning; choose "
                "another, for example retromae."
            )
        self.objective: OnePass = objective
        self.tokenizer: Any = tokenizer
        self.max_seq_length = min(
            max_seq_length or objective.backbone.max_length, objective.backbone.max_length
        )
        self.query_length, self.document_length = query_length, document_length
        self.clean = clean
        self.fresh: list[str] = []  # the parts that start from random weights, in words
        self.recipe: dict[str, Any] = {}  # of stage 1, and what the caller adds; kept in checkpoints
        nothing = torch.zeros(1, 1, dtype=torch.int64, device=objective.backbone.head_weight.device)
        parts = objective.draw(Batch(nothing, nothing, nothing[0], nothing[0])).counts
        self.weights = {part: objective.weight(part) for part in parts}  # for `reconstruction_loss`
        encoder = {id(parameter) for parameter in objective.backbone.base.parameters()}
        self._outside = [name for name, p in objective.named_parameters() if id(p) not in encoder]

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        objective: str = "retromae",
        settings: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        clean: bool = False,
        **opening: Any,
    ) -> Self:
        """On a masked-LM folder or hub name, with the objective's heads where stage 1 left them; `fresh` says which
        parts were not there. `opening` goes to `open_checkpoint`."""
        return cls._on(open_checkpoint(source, **opening), objective, settings or {}, seed, clean)

    @classmethod
    def _on(
        cls, opened: Checkpoint, objective: str, settings: Mapping[str, Any], seed: int, clean: bool
    ) -> Self:
        kind = load(objective)
        riding = kind(
            opened.backbone,
            from_dict(kind.Config, settings),
            Vocabulary.of(opened.tokenizer, opened.backbone),
            seed,
        )
        fits = riding.take_heads(opened.heads)
        module = cls(riding, opened.tokenizer, max_seq_length=opened.max_seq_length, clean=clean)
        module.fresh = [*opened.backbone.fresh, *([] if fits else ["pre-training heads"])]
        module.recipe = dict(opened.recipe)
        return module

    # What sentence-transformers calls

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Texts as token ids; `kwargs` may hold `task` and `max_length`."""
        own = {"query": self.query_length, "document": self.document_length}.get(kwargs.get("task") or "")
        longest = min(kwargs.get("max_length") or own or self.max_seq_length, self.max_seq_length)
        texts = [(prompt or "") + text for text in inputs]
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        )

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if not self.training:
            return {**features, "sentence_embedding": self._plain(features)}
        if not features.get("mask", True):
            zeros = {part: torch.zeros((), device=features["input_ids"].device) for part in self.weights}
            embedding = self._plain(features) + self._untouched()
            return {
                **features,
                "sentence_embedding": embedding,
                "reconstruction": Reconstruction(zeros, zeros),
            }
        batch = self.batch(features)
        drawn = self.objective.draw(batch)
        # Before anything that may be left out, so that dropout falls alike in both passes of GradCache.
        clean = self._plain(features) if self.clean else None
        if features.get("reconstruct", True):
            encoded = self.objective.encode(batch, drawn)
            sums = self.objective.sums(batch, encoded)
            embedding = encoded.hidden[:, 0] if clean is None else clean
        else:
            sums = {}
            embedding = (self._masked(batch, drawn) if clean is None else clean) + self._untouched()
        reconstruction = Reconstruction(sums, drawn.counts)
        return {**features, "sentence_embedding": embedding, "reconstruction": reconstruction}

    def batch(self, features: Mapping[str, Any]) -> Batch:
        """The texts as the objective sees them; for `objective.measure` on held-out texts too."""
        missing = [name for name in ("row_ids", "epochs") if name not in features]
        if missing:
            raise UserError(
                f"the texts came without {' and '.join(missing)}, which their masks depend on; "
                "give them, or set mask to False."
            )
        return Batch(
            features["input_ids"],
            features["attention_mask"],
            features["row_ids"],
            features["epochs"],
            float(features.get("progress", 0.0)),
        )

    def _plain(self, features: Mapping[str, Any]) -> Tensor:
        """(B, d): [CLS] of the unmasked texts."""
        return self.objective.backbone.encode_first(features["input_ids"], features["attention_mask"])

    def _masked(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(B, d): [CLS] of the masked texts, as `objective.encode` computes it."""
        return self.objective.read(batch, drawn)[:, 0]

    def _untouched(self) -> Tensor:
        """0, with a gradient of zeros to every parameter outside the encoder: a sum over no elements."""
        parameters = [self.objective.get_parameter(name) for name in self._outside]
        return torch.stack([parameter.flatten()[:0].sum() for parameter in parameters]).sum()

    def get_embedding_dimension(self) -> int:
        return self.objective.backbone.hidden_size

    # Folders

    def save_checkpoint(
        self, folder: str | Path, *, model: SentenceTransformer | None = None, name: str | None = None
    ) -> None:
        """A checkpoint as `models.checkpoint.save` writes it, in the place of whatever `folder` was.

        It opens in plain SentenceTransformer, AutoModel and AutoModelForMaskedLM, in `load`, and for pre-training.
        `model` is the one whose prompts and similarity it states; left out, none and the dot product.
        """
        lengths = {"query_length": self.query_length, "document_length": self.document_length}
        stated = {name: length for name, length in lengths.items() if length is not None}
        recipe = {
            **self.recipe,
            "objective": type(self.objective).__module__.removeprefix("retromae.objectives."),
            "settings": {**self.recipe.get("settings", {}), **asdict(self.objective.settings)},
            "unified": {"seed": self.objective.seed, "clean": self.clean, **lengths},
        }
        with replacing_folder(folder) as temporary:
            checkpoint.save(
                temporary,
                self.objective.backbone,
                self.tokenizer,
                self.objective.head_tensors(),
                recipe,
                self.max_seq_length,
                name=name or Path(folder).name,
            )
            _amend(temporary / SENTENCE_FILE, stated)
            if model is not None:
                _amend(
                    temporary / _MODEL_FILE,
                    {
                        "prompts": model.prompts,
                        "default_prompt_name": model.default_prompt_name,
                        "similarity_fn_name": str(model.similarity_fn_name),
                    },
                )

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """The same files, among others that `output_path` may hold: for SentenceTransformer.save and its trainer.

        These then write a modules.json that names this class, for their own resuming. What people are given is
        written by `save_checkpoint`: it needs nothing of ours to be opened.
        """
        folder = Path(output_path)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            written = Path(temporary) / "model"
            self.save_checkpoint(written, name=folder.name)
            # SentenceTransformer has just written its own, with its prompts.
            if (folder / _MODEL_FILE).exists():
                (written / _MODEL_FILE).unlink()
            shutil.copytree(written, folder, dirs_exist_ok=True, copy_function=shutil.move)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """From a folder of stage 2, objective, settings and heads included, so that it can go on."""
        opened = open_checkpoint(model_name_or_path, revision=revision, local_files_only=local_files_only)
        stage, name = opened.recipe.get("unified"), opened.recipe.get("objective")
        if stage is None or name not in available():  # a folder must not choose which code runs
            raise UserError(
                f"{model_name_or_path} does not hold stage 2 of one of {', '.join(available())}; "
                "open it with UnifiedEncoder.from_checkpoint and say the objective."
            )
        known = {field.name for field in fields(load(name).Config)}
        settings = {key: value for key, value in opened.recipe["settings"].items() if key in known}
        module = cls._on(opened, name, settings, int(stage["seed"]), bool(stage["clean"]))
        module.query_length, module.document_length = stage["query_length"], stage["document_length"]
        return module


def _amend(path: Path, more: Mapping[str, Any]) -> None:
    """Add to a file that holds one JSON object."""
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **more})
