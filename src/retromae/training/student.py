"""The model that is fine-tuned: how it is opened, what its loss is, how it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim, dot_score
from torch import nn

from retromae.core import distributed
from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.objectives.unified import UnifiedEncoder
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.first_token import FirstToken
from retromae.retrieval.opening import fingerprint, model_folder, open_model, pooling_of
from retromae.retrieval.representation import DupMAERepresentation
from retromae.text.pairs import Pairs
from retromae.training.contrast import GroupLoss, Part, Rider
from retromae.training.distil import distillation
from retromae.training.finetune_settings import FinetuneConfig

WEIGHTS_NAME, RECORD = "student.safetensors", "finetuning.json"
CPU_TOKENS, GPU_TOKENS = (
    1024,
    65536,
)  # of one forward pass; texts of like length go together, so smaller passes are padded less
_REDUCTION_PASSAGES = 4096
_BALANCE_QUERIES, _BALANCE_PASSAGES = 64, 256


class Student:
    """A sentence-transformers model with the settings that it is trained with."""

    def __init__(self, model: SentenceTransformer, config: FinetuneConfig, pairs: Pairs) -> None:
        self.model, self.config, self.pairs = model, config, pairs
        self.cosine = str(model.similarity_fn_name) == "cosine"
        stated = Encoder(model)  # refuses what cannot be searched; knows the prompts
        self._prompts = {"query": stated.query_prompt, "document": stated.passage_prompt}
        self.facts = {"model": config.model_name_or_path, "fingerprint": stated.fingerprint}

    @classmethod
    def open(cls, config: FinetuneConfig, pairs: Pairs) -> Student:
        """As `config` says; a dense half that is to be reduced is fitted on some of the passages."""
        source = model_folder(config.model_name_or_path)
        model = open_model(source, pooling=config.pooling, lexical_terms=config.lexical_terms, device=None)
        if config.reconstruction != "none":
            model = _unified(source, model, config)
        if config.similarity is not None:
            model.similarity_fn_name = config.similarity
        _set_lengths(model, config)
        if config.dense_dimension is not None:
            _reduce(model, config.dense_dimension, pairs)
        if config.lexical_terms is not None:
            _balance(model, pairs)
        if config.gradient_checkpointing:
            _checkpoint_gradients(model)
        if config.dropout is not None:
            _replace_dropout(model, config.dropout)
        if config.reconstruction == "none":  # what rebuilds texts is reached by that alone
            _freeze_unreachable(model)
        student = cls(model, config, pairs)
        student._dimensions()  # refuses
        return student

    def loss(self, *, scored: bool, passages: int) -> GroupLoss:
        """`scored`: the labels are a teacher's scores. `passages`: how many the data has."""
        config = self.config
        parts = []
        if scored:
            against = distillation(
                config.distillation,
                self.model,
                cosine=self.cosine,
                student_temperature=config.student_temperature,
                teacher_temperature=config.teacher_temperature,
            )
            parts.append(Part("distillation", config.distillation_weight, against))
        alone = not scored and config.reconstruction == "none"
        if not scored or config.contrastive_weight:
            default = 0.05 if self.cosine else 1.0
            contrast = MultipleNegativesRankingLoss(
                self.model,
                scale=1.0 / (config.temperature or default),
                similarity_fct=cos_sim if self.cosine else dot_score,
                gather_across_devices=config.share_negatives and distributed.world_size() > 1,
            )
            parts.append(Part("contrastive", 1.0 if alone else config.contrastive_weight, contrast))
        on_host = self.model.device.type == "cpu"
        return GroupLoss(
            self.model,
            parts,
            chunk_tokens=config.chunk_tokens or (CPU_TOKENS if on_host else GPU_TOKENS),
            cached=config.grad_cache,
            dimensions=self._dimensions(),
            rider=self._rider(passages),
            first=FirstToken(self.model),
        )

    def _rider(self, passages: int) -> Rider | None:
        module = self.model[0]
        if not isinstance(module, UnifiedEncoder):
            return None
        return Rider(
            self.config.reconstruction_weight, module.weights, self.config.reconstruct_queries, passages
        )

    def _dimensions(self) -> list[int]:
        whole = int(self.model.get_embedding_dimension() or 0)
        wrong = [size for size in self.config.matryoshka_dims if not 0 < size <= whole]
        if wrong:
            raise UserError(f"matryoshka_dims: {wrong[0]} is not between 1 and {whole}, the whole vector.")
        return sorted({whole, *self.config.matryoshka_dims}, reverse=True)

    def tasks(self, group_size: int) -> dict[str, Any]:
        """Column → what its texts are."""
        return {"query": "query", **dict.fromkeys(_passage_columns(group_size), "document")}

    def prompts(self, group_size: int) -> dict[str, Any]:
        """Column → the prompt before its texts, as search sets it."""
        tasks = self.tasks(group_size)
        return {column: self._prompts[task] for column, task in tasks.items() if self._prompts[task]}

    # -- keeping ------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """A folder that every tool loads."""
        module = self.model[0]
        if isinstance(module, UnifiedEncoder):
            module.save_checkpoint(folder, model=self.model)
        else:
            self.model.save_pretrained(str(folder))
        write_json(folder / RECORD, {"settings": vars(self.config), "provenance": self._provenance()})

    def _provenance(self) -> dict[str, str]:
        """What the weights were made from: for the leakage check, and for people."""
        base, source = model_folder(self.config.model_name_or_path), self.config.pairs
        return {
            "base": str(Path(base).resolve()) if Path(base).exists() else base,
            "pairs": str(Path(source).resolve()) if Path(source).exists() else source,
            "split": self.pairs.split,
            "fingerprint": self.pairs.fingerprint,
        }

    def save_weights(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS_NAME))

    def load(self, checkpoint: Path) -> None:
        """Be where a checkpoint was."""
        load_model(self.model, checkpoint / WEIGHTS_NAME)

    def unwrap(self) -> None:
        """Take off what a trainer has put around the forward pass for mixed precision: the next one puts it on again,
        and a run that is resumed here has none."""
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            vars(self.model).pop(name, None)

    def encoder(self) -> Encoder:
        """The model as it is now, for encoding queries and passages."""
        return Encoder(
            self.model, source=f"weights {fingerprint(self.model, prompts=[], normalize=False)[:12]}"
        )


def _unified(source: str, model: SentenceTransformer, config: FinetuneConfig) -> SentenceTransformer:
    """The same model with the encoder that also rebuilds texts; only a chain of encoder and [CLS] has one."""
    kinds = [type(module).__name__ for module in model]
    if kinds[:2] != ["Transformer", "Pooling"] or len(kinds) > 2 or pooling_of(model) != "cls":
        raise UserError(
            f"{config.model_name_or_path} consists of {', '.join(kinds)} with {pooling_of(model)} pooling; texts can "
            "be rebuilt from the [CLS] of an encoder only: leave reconstruction out, or start from such a model."
        )
    module = UnifiedEncoder.from_checkpoint(
        source, config.reconstruction, seed=config.seed, clean=config.reconstruction_clean
    )
    unified = SentenceTransformer(
        modules=[module], similarity_fn_name=model.similarity_fn_name, device=str(model.device)
    )
    unified.prompts.update(model.prompts)
    unified.default_prompt_name = model.default_prompt_name
    return unified


def _passage_columns(group_size: int) -> list[str]:
    return ["positive", *(f"negative_{place}" for place in range(1, group_size))]


def _set_lengths(model: SentenceTransformer, config: FinetuneConfig) -> None:
    """The longest query and passage, kept in the model's own settings: search cuts texts as training did."""
    first = model[0]
    longest = int(model.max_seq_length or 512)
    for name in ("query_max_len", "passage_max_len"):
        if not 3 <= getattr(config, name) <= longest:
            raise UserError(
                f"{name} is {getattr(config, name)}, but this model takes 3 to {longest} tokens; change it."
            )
    if isinstance(first, Transformer | DupMAERepresentation | UnifiedEncoder):
        first.query_length, first.document_length = config.query_max_len, config.passage_max_len
    else:
        raise UserError(f"{config.model_name_or_path} does not read token ids, so its lengths cannot be set.")


def _reduce(model: SentenceTransformer, dimension: int, pairs: Pairs) -> None:
    """Make the map of DupMAE's dense half a PCA of [CLS] states, unless the model has such a map already."""
    module = model[0]
    assert isinstance(module, DupMAERepresentation)
    if module.dimension == dimension:
        return
    some = np.sort(order(len(pairs.passages), 0, int(Stream.HOLDOUT))[:_REDUCTION_PASSAGES])
    module.fit_pca(Encoder(model).encode_passages(pairs.passages.texts(some)).dense, dimension)


def _balance(model: SentenceTransformer, pairs: Pairs) -> None:
    """Make the lexical half weigh as much as the dense one, in a model that has just been given one."""
    module = model[0]
    assert isinstance(module, DupMAERepresentation)
    if module.scale_is_fitted:
        return
    encoder = Encoder(model)
    texts = [
        some.texts(np.sort(order(len(some), 0, int(Stream.HOLDOUT))[:most]))
        for some, most in ((pairs.queries, _BALANCE_QUERIES), (pairs.passages, _BALANCE_PASSAGES))
    ]
    queries, passages = encoder.encode_queries(texts[0]), encoder.encode_passages(texts[1])
    assert queries.lexical is not None and passages.lexical is not None
    module.fit_scale(queries.dense @ passages.dense.T, (queries.lexical @ passages.lexical.T).toarray())


def _checkpoint_gradients(model: SentenceTransformer) -> None:
    first: Any = model[0]
    if isinstance(first, Transformer):
        first.auto_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        backbone = first.objective.backbone if isinstance(first, UnifiedEncoder) else first.backbone
        backbone.gradient_checkpointing()


def _replace_dropout(model: SentenceTransformer, dropout: float) -> None:
    """In the modules that draw it, and in those that hand its probability to an attention kernel."""
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout must be at least 0 and below 1, not {dropout}.")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, dropout)


def _freeze_unreachable(model: SentenceTransformer) -> None:
    """Weights that no vector depends on (a pooler, a head for another task) get no gradient, which distributed
    training would wait for, and should not decay either."""
    features = model.preprocess(["one", "two words"])
    features = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }
    was_training = model.training
    model.eval()
    with torch.enable_grad():
        out = model(features)["sentence_embedding"]
        weights = torch.arange(1.0, out.shape[-1] + 1.0, device=out.device)
        (out.float() * weights).sum().backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None
    model.train(was_training)
