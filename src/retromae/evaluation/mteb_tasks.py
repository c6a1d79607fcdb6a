"""Our encoders in mteb, whose data comes from the hub or from its cache. The extra `mteb` brings it.

import mteb
results = mteb.evaluate(MtebEncoder(Encoder.open("runs/a/model"), "a"), mteb.get_tasks(tasks=["NFCorpus"]))
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retromae.core.errors import UserError
from retromae.retrieval.encoder import Encoder


class MtebEncoder:
    """mteb's EncoderProtocol around an `Encoder`: queries with its query prompt and length, all else as passages."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        if encoder.vocabulary is not None:
            raise UserError(
                "mteb compares one dense vector per text; open the checkpoint without its lexical half for it."
            )
        self.encoder = encoder
        self.name = name

    def encode(
        self, inputs: Iterable[dict[str, Any]], *, prompt_type: Any = None, **_: Any
    ) -> npt.NDArray[np.float32]:
        """(n, d); `inputs` are batches with their texts under "text"."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is not None and getattr(prompt_type, "value", prompt_type) == "query":
            return self.encoder.encode_queries(texts).dense
        return self.encoder.encode_passages(texts).dense

    def similarity(self, first: Any, second: Any) -> Tensor:
        """(n, m). Vectors have length 1 where the model compares by cosine, so the dot product is its score."""
        return _tensor(first) @ _tensor(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """(n,)"""
        return (_tensor(first) * _tensor(second)).sum(dim=1)

    @property
    def mteb_model_meta(self) -> Any:
        from mteb.models import ModelMeta

        name = self.name if self.name.count("/") == 1 else f"retromae/{self.name.replace('/', '_')}"
        return ModelMeta.create_empty(
            {
                "name": name,
                "revision": self.encoder.fingerprint,
                "max_tokens": self.encoder.max_passage_length,
                "embed_dim": self.encoder.dimension,
            }
        )


def _tensor(vectors: Any) -> Tensor:
    found = torch.as_tensor(vectors, dtype=torch.float32)
    return found[None] if found.ndim == 1 else found


def require_mteb() -> None:
    if importlib.util.find_spec("mteb") is None:
        raise UserError("mteb is not installed; install it with: pip install 'retromae[mteb]'.")


def tasks_named(name: str) -> list[Any]:
    """The tasks of a benchmark (NanoBEIR, …), or the one task of this name."""
    require_mteb()
    import mteb

    benchmarks = {benchmark.name for benchmark in mteb.get_benchmarks()}
    if name in benchmarks:
        return list(mteb.get_benchmark(name).tasks)
    try:
        return [mteb.get_task(name)]
    except (KeyError, ValueError):
        raise UserError(
            f"mteb knows neither a benchmark nor a task called {name!r}; see mteb.get_benchmarks()."
        ) from None


def evaluate_mteb(encoder: Encoder, name: str, tasks: Iterable[Any]) -> dict[str, float]:
    """Task → its main score, computed by mteb; nothing is read from or written to mteb's cache of results."""
    require_mteb()
    import mteb

    model = MtebEncoder(encoder, name)
    try:
        results = mteb.evaluate(model, list(tasks), cache=None, show_progress_bar=False)
    except (OSError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"mteb could not get the data ({reason}); is there a network, or a cache?") from None
    return {result.task_name: float(result.get_score()) for result in results.task_results}
