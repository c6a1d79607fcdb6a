"""The base model: what kind of start it is, and whether its vocabulary fits this text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from retromae.app.adapt.settings import AdaptConfig
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import RECIPE_FILE, save
from retromae.models.loading import family_of, find_file, read_config
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.opening import model_folder
from retromae.text.corpus_facts import Excerpt
from retromae.text.vocabulary import train_tokenizer
from retromae.training.cross_encoder import is_cross_encoder
from retromae.training.student import RECORD

Kind = Literal["nothing", "masked language model", "embedder"]
SPECIAL = 2  # tokens around a passage
_HEAD_WIDTH = 64  # of the attention heads of a model from scratch


@dataclass(frozen=True)
class BaseFacts:
    """The start. From nothing, it is the small model that would be made."""

    kind: Kind
    decided_by: str
    source: str | None
    vocabulary: int
    parameters: int
    layers: int
    heads: int
    attention_dropout: bool
    """Whether attention draws dropout in training."""
    hidden_size: int
    intermediate_size: int
    dimension: int
    """Of the vectors."""
    longest: int
    """Tokens that the model takes."""
    pooling: str
    similarity: str


@dataclass(frozen=True)
class OpenBase:
    facts: BaseFacts
    encoder: Encoder
    folder: str
    """Where the model lies; for nothing, a temporary folder."""

    @property
    def tokenizer(self) -> Any:
        return self.encoder.model.tokenizer

    def passage_length(self, settings: AdaptConfig) -> int:
        """Tokens of a passage, without special ones: as planned, or what the model takes."""
        return min(settings.passage_max_len, self.facts.longest - SPECIAL)


def kind_of(source: str | None) -> tuple[Kind, str]:
    """What kind of start this is, and what tells; refuses what is no encoder. No weights are read."""
    if source is None:
        return "nothing", "no model is named: a small one is made, with a vocabulary of this text"
    name = model_folder(source)
    config = read_config(name)
    if is_cross_encoder(source):
        raise UserError(
            f"{source} is a cross-encoder, which reads queries and passages together and makes no vectors; "
            "give an encoder to start from."
        )
    if find_file(name, "modules.json") is not None:
        if find_file(name, RECIPE_FILE) is not None and find_file(name, RECORD) is None:
            return "masked language model", f"{RECIPE_FILE}: pre-trained with retromae, not fine-tuned yet"
        return "embedder", "modules.json says how it makes vectors: it was trained for that"
    family_of(config)  # refuses what is no encoder of a known kind
    named = ", ".join(config.architectures or []) or config.model_type
    return "masked language model", f"a plain encoder ({named}) that states no way to make vectors"


@contextmanager
def opened(source: str | None, excerpts: Sequence[Excerpt], settings: AdaptConfig) -> Iterator[OpenBase]:
    """The base, ready to encode; from nothing, an untrained model of the planned size in a temporary folder."""
    kind, decided_by = kind_of(source)
    with TemporaryDirectory(prefix="retromae-doctor-") as place:
        if source is None:
            _make(Path(place) / "model", excerpts, settings)
            folder = str(Path(place) / "model")
        else:
            folder = model_folder(source)
        plain = kind == "masked language model" and find_file(folder, "modules.json") is None
        encoder = Encoder.open(folder, pooling="cls" if plain else None)
        yield OpenBase(_facts(kind, decided_by, source, folder, encoder), encoder, folder)


def _make(folder: Path, excerpts: Sequence[Excerpt], settings: AdaptConfig) -> None:
    texts = [excerpt.text for excerpt in excerpts]
    tokenizer = train_tokenizer(texts, settings.vocabulary, "wordpiece", lowercase=True)
    hidden = settings.hidden_size
    with torch.random.fork_rng():
        backbone = Backbone.from_scratch(
            settings.num_hidden_layers,
            hidden,
            max(1, hidden // _HEAD_WIDTH),
            4 * hidden,
            len(tokenizer),
            settings.passage_max_len + SPECIAL,
            pad_token_id=tokenizer.pad_token_id,
        )
    save(folder, backbone, tokenizer, {}, {}, settings.passage_max_len + SPECIAL)


def _facts(kind: Kind, decided_by: str, source: str | None, folder: str, encoder: Encoder) -> BaseFacts:
    config = read_config(folder)
    hidden = int(getattr(config, "hidden_size", 0) or encoder.dimension)
    intermediate = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)
    dropout = getattr(config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", None))
    return BaseFacts(
        kind=kind,
        decided_by=decided_by,
        source=source,
        vocabulary=len(encoder.model.tokenizer),
        parameters=sum(parameter.numel() for parameter in encoder.model.parameters()),
        layers=int(getattr(config, "num_hidden_layers", 0)),
        heads=int(getattr(config, "num_attention_heads", 0)),
        attention_dropout=dropout is None or float(dropout) > 0,
        hidden_size=hidden,
        intermediate_size=int(intermediate or 4 * hidden),
        dimension=encoder.dimension,
        longest=encoder.max_passage_length,
        pooling=encoder.pooling,
        similarity=encoder.similarity,
    )
