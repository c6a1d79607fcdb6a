"""DupMAE's dense half reduced to d′ dimensions before any fine-tuning: PCA, fitted on the corpus that is searched.

    vectors/encoder/                  the whole model with the fitted map d → d′: it opens like any other, by itself
            encoder/reduction.json    which model it was fitted to, how that read texts, and d′

Queries must go through the very same map, so it is kept with the vectors, and their manifest (and the index that
is made of them) names this folder as the model that made them.
"""

from __future__ import annotations

import heapq
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import remove_left_overs, replacing_folder, write_json
from retromae.retrieval.embed import Corpus, count_documents, progress_of
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.representation import DupMAERepresentation, representation_of
from retromae.retrieval.shards import MANIFEST
from retromae.retrieval.vectors import Floats
from retromae.text.seen import stable_key

SAMPLE = 8192  # documents that the PCA is fitted on: ten for each of 768 dimensions
_FOLDER, _FACTS = "encoder", "reduction.json"
_PART = 512  # documents between two steps of the progress bar
_WAIT = 0.2  # seconds between two looks for what another process makes


def check_reducible(encoder: Encoder, dimension: int) -> DupMAERepresentation:
    """The module whose dense half is to be reduced; a model that has none, or a trained map, is refused."""
    module = representation_of(encoder.model)
    if module is None:
        raise UserError(
            f"a dense dimension of {dimension} is for DupMAE's dense half, and {encoder.source} is opened without "
            "a lexical half; add --lexical_terms 384, or leave --dense_dimension out."
        )
    if module.is_reduced:
        raise UserError(
            f"{encoder.source} has a map of [CLS] to {module.dimension} dimensions already; leave "
            "--dense_dimension out."
        )
    if not 0 < dimension <= module.dimension:
        raise UserError(
            f"a dense half of {module.dimension} dimensions cannot be reduced to {dimension}; choose 1 to "
            f"{module.dimension}."
        )
    return module


def reduce_dense(
    encoder: Encoder, corpus: Corpus, folder: str | Path, dimension: int, *, progress: bool = False
) -> Path:
    """Fit the reduction on documents drawn from `corpus`, and return the folder of the model that has it.

    `folder` is where the corpus' vectors will lie. What is there already is taken if it was fitted to the same
    model with the same settings, and refused otherwise. Under torchrun the first process fits, the others wait.
    `encoder` is used up: it has the reduction afterwards.
    """
    module = check_reducible(encoder, dimension)
    if encoder.precision != "float32":
        raise ValueError("a model that was rounded must not be saved")
    target = Path(folder) / _FOLDER
    facts = {"model": encoder.fingerprint, "settings": encoder.settings, "dimension": dimension}
    if not target.is_dir() and (Path(folder) / MANIFEST).is_file():
        raise UserError(f"{folder} holds vectors that were not reduced; choose another folder or delete it.")
    if distributed.writes() and not target.is_dir():
        remove_left_overs(target)
        module.fit_pca(_states(encoder, corpus, progress), dimension)
        with replacing_folder(target) as temporary:
            encoder.model.save(str(temporary), create_model_card=False)
            write_json(temporary / _FACTS, facts)
    while not target.is_dir():
        time.sleep(_WAIT)
    if _read_facts(target) != facts:
        raise UserError(
            f"{target} was fitted to another model, other settings or another dimension; choose another folder "
            "or delete it."
        )
    return target


def _states(encoder: Encoder, corpus: Corpus, progress: bool) -> Floats:
    """(n, d): [CLS] of up to `SAMPLE` documents. A hash of the ids draws them: always the same, in any order."""
    wanted = min(SAMPLE, count_documents(corpus))
    drawn = heapq.nsmallest(wanted, corpus(), key=lambda document: stable_key(document.id))
    states = []
    with progress_of("sample for the PCA", wanted, progress) as advance:
        for start in range(0, wanted, _PART):
            part = drawn[start : start + _PART]
            found = encoder.encode_passages([one.text for one in part], [one.title for one in part])
            states.append(found.dense)
            advance(len(part))
    return np.concatenate(states)


def _read_facts(folder: Path) -> Any:
    try:
        return json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / _FACTS} is damaged ({error}); delete {folder} and encode again."
        ) from None
