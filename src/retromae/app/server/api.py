"""The API: search, embeddings in OpenAI's shape, re-ranking in Cohere's, health and metrics."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import numpy as np
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from retromae import __version__
from retromae.app.server.batching import Batcher
from retromae.app.server.engine import Embed, Embedded, Engine, Pair, Result, Task
from retromae.app.server.limits import Limits
from retromae.app.server.marks import marks_of
from retromae.app.server.metrics import CONTENT_TYPE, Metrics
from retromae.app.server.problems import Refused, answer_errors
from retromae.retrieval.search import Hit
from retromae.retrieval.systems import Answer, Asked


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchRequest(_Body):
    query: str | None = None
    queries: list[str] | None = None
    k: int = Field(10, ge=1)
    system: str | None = None
    """The default one where it is left out."""
    highlight: bool = False
    """Also say where in title and text the words of the query and the matching terms stand."""


class EmbeddingsRequest(_Body):
    input: Any
    model: str
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "passage"] = "passage"
    user: str | None = None
    """Part of OpenAI's shape; of no use here."""


class DocumentText(_Body):
    text: str


class RerankRequest(_Body):
    query: str
    documents: list[str | DocumentText]
    model: str | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False


class Api:
    """The routes, and what they share."""

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics, name: str) -> None:
        self.engine, self.limits, self.metrics = engine, limits, metrics
        self.models = ["retromae", name]
        """Names by which clients may call the encoder."""
        self.batcher: Batcher[Task, Result] = Batcher(engine, limits, metrics)

    def router(self) -> APIRouter:
        router = APIRouter()
        router.post("/search")(self.search)
        router.post("/v1/embeddings")(self.embeddings)
        router.get("/v1/models")(self.list_models)
        for path in ("/rerank", "/v1/rerank"):
            router.post(path)(self.rerank)
        return router

    # Search

    async def search(self, request: SearchRequest) -> JSONResponse:
        if (request.query is None) == (request.queries is None):
            raise Refused(400, "give either query, a text, or queries, a list of texts.", param="query")
        queries = [request.query] if request.query is not None else request.queries or []
        self._check_texts(queries, "query" if request.query is not None else "queries")
        if request.k > self.limits.max_k:
            raise Refused(
                400, f"k is {request.k}, but at most {self.limits.max_k} results are given.", param="k"
            )
        systems = self.engine.systems
        system = request.system or systems.default
        if system not in systems:
            raise Refused(
                400, f"there is no system {system!r}; these are: {', '.join(systems)}.", param="system"
            )
        if len(queries) * request.k > self.limits.max_results:
            raise Refused(
                400,
                f"{len(queries)} queries of {request.k} results each are more than the {self.limits.max_results} "
                "results of one request; ask for less at once.",
                param="k",
            )
        asked = [Asked(system, query, request.k) for query in queries]
        answers = cast(list[Answer], await self.batcher(asked))
        language = systems.language if request.highlight else None
        return await asyncio.to_thread(_found, asked, answers, language)

    # Embeddings

    async def embeddings(self, request: EmbeddingsRequest) -> JSONResponse:
        texts = _texts_of(request.input)
        self._check_texts(texts, "input")
        self._check_model(request.model)
        size = self.engine.encoder.dimension
        if request.dimensions is not None and request.dimensions > size:
            raise Refused(
                400,
                f"dimensions is {request.dimensions}, but this model's vectors have {size}.",
                param="dimensions",
            )
        embedded = await self._embed(request.input_type, texts)
        vectors = np.concatenate([one.vectors.dense for one in embedded])  # (n, d)
        if request.dimensions is not None and request.dimensions < size:
            vectors = vectors[:, : request.dimensions]
            if self.engine.encoder.normalize:
                vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        tokens = sum(one.tokens for one in embedded)
        return JSONResponse(
            {
                "object": "list",
                "model": request.model,
                "data": [
                    {"object": "embedding", "index": index, "embedding": vector}
                    for index, vector in enumerate(_spelt(vectors, request.encoding_format))
                ],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "truncated": [index for index, one in enumerate(embedded) if one.cut],
            }
        )

    async def _embed(self, role: Literal["query", "passage"], texts: Sequence[str]) -> list[Embedded]:
        return cast(list[Embedded], await self.batcher([Embed(role, text) for text in texts]))

    async def list_models(self) -> JSONResponse:
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "retromae"}
            for name in dict.fromkeys(self.models)
        ]
        return JSONResponse({"object": "list", "data": rows})

    def _check_model(self, name: str) -> None:
        if name not in self.models:
            raise Refused(
                404,
                f"there is no model {name!r} here; ask for {' or '.join(map(repr, dict.fromkeys(self.models)))}.",
                param="model",
                code="model_not_found",
            )

    # Re-ranking

    async def rerank(self, request: RerankRequest) -> JSONResponse:
        documents = [one if isinstance(one, str) else one.text for one in request.documents]
        self._check_texts([request.query], "query")
        self._check_texts(documents, "documents")
        if self.engine.reranker is not None:
            pairs = [Pair(request.query, document) for document in documents]
            logits = np.array(await self.batcher(pairs), dtype=np.float64)
            scores = (1 / (1 + np.exp(-np.clip(logits, -500, 500)))).tolist()
        else:
            texts: list[Task] = [
                Embed("query", request.query),
                *(Embed("passage", text) for text in documents),
            ]
            query, *others = cast(list[Embedded], await self.batcher(texts))
            scores = [self.engine.similarity(query, other) for other in others]
        order = sorted(range(len(documents)), key=lambda place: (-scores[place], place))
        rows = [
            {
                "index": place,
                "relevance_score": scores[place],
                **({"document": {"text": documents[place]}} if request.return_documents else {}),
            }
            for place in order[: request.top_n]
        ]
        return JSONResponse({"model": request.model or self.models[0], "results": rows})

    def _check_texts(self, texts: Sequence[str], name: str) -> None:
        if not texts:
            raise Refused(400, f"{name} is empty; give at least one text.", param=name)
        if len(texts) > self.limits.max_texts:
            raise Refused(
                400,
                f"{name} holds {len(texts)} texts, but at most {self.limits.max_texts} are taken at once.",
                param=name,
            )
        for place, text in enumerate(texts):
            where = name if len(texts) == 1 else f"{name}[{place}]"
            if not text.strip():
                raise Refused(400, f"{where} is an empty text.", param=name)
            if len(text) > self.limits.max_characters:
                raise Refused(
                    400,
                    f"{where} has {len(text)} characters, but at most {self.limits.max_characters} are taken.",
                    param=name,
                )
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise Refused(400, f"{where} holds half a surrogate pair, which is no character.", param=name)


def status_router(metrics: Metrics) -> APIRouter:
    """How the server does."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    @router.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router


def create_app(api: Api | None, *routers: APIRouter) -> FastAPI:
    """The application, without what `guard` checks; without `api` where there is nothing to search."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if api is not None:
            api.batcher.start()
        yield
        if api is not None:
            await api.batcher.close()

    # its pages of documentation would load scripts from elsewhere
    app = FastAPI(title="retromae", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    for router in (*([api.router()] if api is not None else []), *routers):
        app.include_router(router)
    answer_errors(app)
    return app


def _texts_of(given: Any) -> list[str]:
    """What OpenAI's `input` may hold, as texts; token numbers are another model's."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise Refused(400, "input must be a text or a list of texts.", param="input")
    if any(isinstance(text, int | list) for text in texts):
        raise Refused(
            400,
            "input holds token numbers, which belong to another model's vocabulary; send texts.",
            param="input",
        )
    if not all(isinstance(text, str) for text in texts):
        raise Refused(400, "input must be a text or a list of texts.", param="input")
    return texts


def _spelt(vectors: Any, how: str) -> list[Any]:
    if how == "float":
        rows: list[Any] = vectors.tolist()
        return rows
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]


def _found(asked: Sequence[Asked], answers: Sequence[Answer], language: str | None) -> JSONResponse:
    """Results of one request; with a language they say where the words of the query stand."""
    results = [
        {
            "query": one.query,
            "encode_ms": round(1000 * answer.encoding, 2),
            "search_ms": round(1000 * answer.searching, 2),
            "hits": [_hit(hit, one.query, language) for hit in answer.hits],
        }
        for one, answer in zip(asked, answers, strict=True)
    ]
    return JSONResponse({"system": asked[0].system, "results": results})


def _hit(hit: Hit, query: str, language: str | None) -> dict[str, Any]:
    told = {**hit.passage._asdict(), "score": hit.score, "why": hit.why._asdict()}
    if language is not None:
        told["marks"] = {
            name: marks_of(getattr(hit.passage, name), query, hit.why.terms, language)
            for name in ("title", "text")
        }
    return told
