"""DupMAE's representation of a text: a reduced [CLS] and weights over the vocabulary.

    dense(x)   = W h_CLS + b                              d → d′
    μ(x)       = max over the ordinary tokens t of head(h_t)   (V,), element-wise
    lexical(d) = the k largest entries of s·μ(d), the others 0;   lexical(q) = s·μ(q)
    score      = ⟨dense(q), dense(d)⟩ + s² Σ_{i in top-k(d)} μ_q[i] · μ_d[i]

In the paper s = 1. Logits of a trained head make sums in the hundreds, though, beside which nothing is left of the
dense half, so fine-tuning begins with an s under which both halves' scores spread alike (`fit_scale`).

`DupMAERepresentation` is one sentence-transformers module that stands alone: it reads text and gives
`sentence_embedding` = [dense, lexical], so that the dot product of two embeddings is the score above and every
loss of sentence-transformers trains both halves jointly. Its folder stays a masked-LM folder (the vocabulary
head is kept). sentence-transformers loads modules from outside its own package only when told to:
`SentenceTransformer(folder, trust_remote_code=True)` with retromae installed; `Encoder.open(folder)` needs no
such permission, since it runs no code from the folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn

from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.models.backbone import Backbone
from retromae.models.bag_of_words import max_pooled_logits
from retromae.models.checkpoint import HEADS_FILE, RECIPE_FILE, open_checkpoint
from retromae.models.loading import find_file, opening
from retromae.text.words import ordinary_ids

Task = Literal["query", "document"]
CONFIG_FILE = "dupmae_representation.json"
WEIGHTS_FILE = "dupmae_representation.safetensors"


class DupMAERepresentation(InputModule):
    """Text → dense and lexical halves. Open one with `from_checkpoint` (before fine-tuning) or `load`."""

    config_file_name = CONFIG_FILE
    config_keys: list[str] = ["dimension", "terms", "max_seq_length", "query_length", "document_length"]  # noqa: RUF012
    forward_kwargs: set[str] = {"task"}  # noqa: RUF012
    save_in_root = True

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: Any,
        *,
        dimension: int | None = None,
        terms: int = 384,
        max_seq_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
    ) -> None:
        """`dimension` is d′ (None keeps d), `terms` is k; the linear map starts as the identity where it can."""
        super().__init__()  # type: ignore[no-untyped-call]
        if terms < 1:
            raise UserError(f"a document must keep at least 1 term, not {terms}.")
        self.backbone = backbone
        self.tokenizer: Any = tokenizer
        self.dimension = dimension or backbone.hidden_size
        self.terms = min(terms, backbone.vocab_size)
        self.max_seq_length = min(max_seq_length or backbone.max_length, backbone.max_length)
        self.query_length, self.document_length = query_length, document_length
        self.heads: dict[
            str, Tensor
        ] = {}  # of the pre-training and how it was done: kept for going on with it
        self.recipe: dict[str, Any] = {}
        self.linear = nn.Linear(backbone.hidden_size, self.dimension)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.lexical_scale: Tensor  # s
        self.register_buffer("lexical_scale", torch.ones(()))
        self.scale_is_fitted = True
        ordinary = torch.zeros(backbone.vocab_size, dtype=torch.bool)
        known = torch.from_numpy(np.asarray(ordinary_ids(tokenizer)))
        ordinary[: len(known)] = known
        self.ordinary: Tensor
        self.register_buffer("ordinary", ordinary, persistent=False)

    @classmethod
    def from_checkpoint(cls, source: str | Path, *, terms: int = 384) -> Self:
        """From a masked-LM folder or hub name, with the whole [CLS] as the dense half (see `fit_pca`)."""
        opened = open_checkpoint(source)
        untrained = [part for part in opened.fresh if part.startswith("vocabulary head")]
        if untrained:
            raise UserError(
                f"{source} lacks a trained vocabulary head ({', '.join(untrained)}), so its lexical half would "
                "be random; choose a masked-LM checkpoint."
            )
        module = cls(opened.backbone, opened.tokenizer, terms=terms, max_seq_length=opened.max_seq_length)
        module.heads, module.recipe = opened.heads, opened.recipe
        module.scale_is_fitted = False
        return module

    @property
    def is_reduced(self) -> bool:
        """Is the dense half anything but [CLS] itself?"""
        weight, bias = self.linear.weight, self.linear.bias
        if self.dimension != self.backbone.hidden_size:
            return True
        return bool(bias.any() or (weight != torch.eye(self.dimension, device=weight.device)).any())

    def fit_pca(self, states: npt.NDArray[Any], dimension: int) -> None:
        """Make the linear map the projection on the `dimension` main axes of [CLS] states (n, d) about their mean.

        To be called before any fine-tuning. Taking off the mean also removes the large direction that [CLS]
        states share before contrastive training.
        """
        weight, bias = principal_axes(states, dimension)
        if weight.shape[1] != self.backbone.hidden_size:
            raise UserError(
                f"the vectors have {weight.shape[1]} dimensions but this model has {self.backbone.hidden_size}."
            )
        linear = nn.Linear(weight.shape[1], dimension)
        linear.weight = nn.Parameter(torch.from_numpy(weight))
        linear.bias = nn.Parameter(torch.from_numpy(bias))
        self.linear = linear.to(self.backbone.head_weight.device)
        self.dimension = dimension

    def fit_scale(self, dense: npt.NDArray[Any], lexical: npt.NDArray[Any]) -> None:
        """Choose s from both halves' scores (queries, passages), made with s as it is: over the passages of a query the
        lexical ones shall spread as far as the dense ones. To be called before any fine-tuning."""
        spreads = [
            float(np.asarray(scores, dtype=np.float64).std(axis=1).mean()) for scores in (dense, lexical)
        ]
        if all(np.isfinite(spread) and spread > 0 for spread in spreads):
            self.lexical_scale *= (spreads[0] / spreads[1]) ** 0.5
        self.scale_is_fitted = True

    # What sentence-transformers calls

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Texts as token ids; `kwargs` may hold `task` and `max_length`."""
        longest = kwargs.get("max_length") or self.length_of(kwargs.get("task"))
        texts = [(prompt or "") + text for text in inputs]
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        )

    def length_of(self, task: Task | None) -> int:
        """The longest input of a task, in tokens."""
        own = {"query": self.query_length, "document": self.document_length}.get(task or "")
        return min(own or self.max_seq_length, self.max_seq_length)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds `dense_embedding` (B, d′), `lexical_embedding` (B, V) and both as `sentence_embedding`.

        The lexical half is cut to its k largest entries where `task` is "document" (of `kwargs`, or among the
        features, where sentence-transformers' trainer puts what its `router_mapping` says of a column).
        """
        ids, mask = features["input_ids"], features["attention_mask"]
        hidden = self.backbone.encode(ids, mask)  # (B, L, d)
        dense = self.linear(hidden[:, 0])
        lexical = self.lexical_scale * self.pool(hidden, self.ordinary[ids] & mask.bool())
        if (kwargs.get("task") or features.get("task")) == "document":
            best = lexical.topk(self.terms, dim=1).indices
            lexical = torch.zeros_like(lexical).scatter(1, best, lexical.gather(1, best))
        embedding = torch.cat([dense.float(), lexical], dim=1)
        halves = {"dense_embedding": dense, "lexical_embedding": lexical, "sentence_embedding": embedding}
        return {**features, **halves}

    def pool(self, hidden: Tensor, counted: Tensor) -> Tensor:
        """(B, V) float32: μ over the counted tokens, all zeros for a text that has none."""
        empty = ~counted.any(dim=1, keepdim=True)
        first = torch.arange(counted.shape[1], device=counted.device) == 0
        head = self.backbone
        pooled = max_pooled_logits(
            head.head_transform(hidden),
            head.head_weight,
            head.head_bias,
            counted | (empty & first),  # something to take the maximum of
        )
        return pooled.masked_fill(empty, 0.0)

    def get_embedding_dimension(self) -> int:
        return self.dimension + self.backbone.vocab_size

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.backbone.save(output_path)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)
        weights = {
            name: value.detach().cpu().contiguous() for name, value in self.linear.state_dict().items()
        }
        weights["lexical_scale"] = self.lexical_scale.detach().cpu()
        save_file(weights, Path(output_path) / WEIGHTS_FILE, metadata={"format": "pt"})
        if self.heads:
            save_file(self.heads, Path(output_path) / HEADS_FILE, metadata={"format": "pt"})
        if self.recipe:
            write_json(Path(output_path) / RECIPE_FILE, self.recipe)

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
        """From a folder written by `save`, or a hub name (with the hub's own cache and login)."""
        if subfolder.strip("./"):
            raise UserError(f"{model_name_or_path}: DupMAE's representation lies in the folder's root only.")
        hub: dict[str, Any] = {"revision": revision or "main", "local_files_only": local_files_only}
        config, weights = (find_file(model_name_or_path, name, **hub) for name in (CONFIG_FILE, WEIGHTS_FILE))
        if config is None or weights is None:
            raise UserError(f"{model_name_or_path} lacks {CONFIG_FILE} or {WEIGHTS_FILE}; restore it.")
        opened = open_checkpoint(model_name_or_path, **hub)
        with opening("representation", model_name_or_path):
            settings = json.loads(config.read_text(encoding="utf-8"))
            module = cls(opened.backbone, opened.tokenizer, **settings)
            stored = load_file(weights)
            if (scale := stored.pop("lexical_scale", None)) is not None:
                module.lexical_scale.copy_(scale)
            module.linear.load_state_dict(stored)
        module.heads, module.recipe = opened.heads, opened.recipe
        return module


def as_sentence_transformer(module: DupMAERepresentation, device: str | None = None) -> SentenceTransformer:
    """The module as a model that trains, encodes and saves like any other."""
    return SentenceTransformer(modules=[module], similarity_fn_name="dot", device=device)


def representation_of(model: SentenceTransformer) -> DupMAERepresentation | None:
    """The module of a model that has DupMAE's two halves."""
    return next((module for module in model if isinstance(module, DupMAERepresentation)), None)


def principal_axes(
    vectors: npt.NDArray[Any], dimension: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """W (d′, d) and b (d′) such that W x + b are the coordinates of x on the main axes about the mean.

    The sign of each axis is fixed (its largest component is positive), so that the result is reproducible.
    """
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 2 or not 0 < dimension <= points.shape[1]:
        raise UserError(
            f"PCA to {dimension} dimensions needs vectors of at least as many, got {points.shape}."
        )
    if len(points) <= dimension:
        raise UserError(f"PCA to {dimension} dimensions needs more than {len(points)} vectors.")
    if not np.isfinite(points).all():
        raise UserError("PCA was given a vector that holds NaN or infinity; find out which text gave it.")
    mean = points.mean(axis=0)
    axes = np.linalg.eigh((points - mean).T @ (points - mean))[1][:, ::-1][:, :dimension].T  # (d′, d)
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    return axes.astype(np.float32), (-axes @ mean).astype(np.float32)
