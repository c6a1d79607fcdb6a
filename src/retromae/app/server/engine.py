"""The work behind the API: tasks of any kind in, results out, in as few passes of the models as there can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sentence_transformers import CrossEncoder
from transformers import PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.systems import Answer, Asked, Systems
from retromae.retrieval.vectors import Vectors, explain
from retromae.training.cross_encoder import is_cross_encoder, open_cross_encoder, score_texts

Role = Literal["query", "passage"]


class Embed(NamedTuple):
    """A text to encode."""

    role: Role
    text: str


class Embedded(NamedTuple):
    vectors: Vectors  # one row
    tokens: int  # that were read
    cut: bool  # the text was too long, and its end was not read


class Pair(NamedTuple):
    """A query and a document to score together."""

    query: str
    document: str


Task = Asked | Embed | Pair
Result = Answer | Embedded | float


class Engine:
    """The models. Calls must not overlap: see `batching`."""

    def __init__(self, systems: Systems, reranker: CrossEncoder | None = None) -> None:
        self.systems, self.reranker = systems, reranker

    @property
    def encoder(self) -> Encoder:
        """The one that `dense` searches with: of /v1/embeddings, and of /rerank without a cross-encoder."""
        encoder = self.systems["dense"].encoder
        assert encoder is not None
        return encoder

    def __call__(self, tasks: Sequence[Task]) -> list[Result]:
        results: dict[int, Result] = {}
        asked = [(place, task) for place, task in enumerate(tasks) if isinstance(task, Asked)]
        results |= _placed(asked, self.systems.answer([task for _, task in asked]))
        for role in ("query", "passage"):
            texts = [
                (place, task)
                for place, task in enumerate(tasks)
                if isinstance(task, Embed) and task.role == role
            ]
            results |= _placed(texts, self._embed(role, [task.text for _, task in texts]))
        pairs = [(place, task) for place, task in enumerate(tasks) if isinstance(task, Pair)]
        if pairs:
            assert self.reranker is not None
            scores = score_texts(self.reranker, [p.query for _, p in pairs], [p.document for _, p in pairs])
            results |= _placed(pairs, scores.tolist())
        return [results[place] for place in range(len(tasks))]

    def _embed(self, role: Role, texts: list[str]) -> list[Embedded]:
        if not texts:
            return []
        encode = self.encoder.encode_queries if role == "query" else self.encoder.encode_passages
        vectors, tokens = encode(texts), self._tokens(role, texts)
        return [
            Embedded(
                vectors.rows(slice(row, row + 1)), count, vectors.cut is not None and bool(vectors.cut[row])
            )
            for row, count in enumerate(tokens)
        ]

    def _tokens(self, role: Role, texts: list[str]) -> list[int]:
        """Tokens read of each text; words, where the model does not use a tokenizer of transformers."""
        tokenizer = self.encoder.model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return [len(text.split()) for text in texts]
        query = role == "query"
        prompt = self.encoder.query_prompt if query else self.encoder.passage_prompt
        longest = self.encoder.max_query_length if query else self.encoder.max_passage_length
        rows = tokenizer([prompt + text for text in texts], truncation=True, max_length=longest)["input_ids"]
        return [len(row) for row in rows]

    def similarity(self, query: Embedded, document: Embedded) -> float:
        """The score that a search with this encoder would give."""
        return explain(query.vectors, document.vectors, self.encoder.term, 0).score


def _placed(tasks: Sequence[tuple[int, Task]], results: Sequence[Result]) -> dict[int, Result]:
    return {place: result for (place, _), result in zip(tasks, results, strict=True)}


def open_reranker(folder: str | Path, device: str | None = None) -> CrossEncoder:
    """A trained cross-encoder; a fresh head on any encoder would order at random."""
    if not is_cross_encoder(folder):
        raise UserError(
            f"{folder} is no cross-encoder; train one with `retromae teach`, or leave --reranker out."
        )
    return open_cross_encoder(folder, device=device)
