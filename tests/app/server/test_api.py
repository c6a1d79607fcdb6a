"""The API against a real server: its shapes, the real openai client, and every kind of bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from app.server.serving import CORPUS, Server, Setup, message, serving
from retromae.app.server.engine import Engine, open_reranker
from retromae.app.server.limits import Limits
from retromae.core.errors import UserError
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import build_index
from retromae.retrieval.systems import open_systems
from retromae.training.cross_encoder import score_texts

if TYPE_CHECKING:  # it takes seconds: only the tests that need it import it
    import openai

TEXTS = ["An owl hunts by ear.", "Salt keeps fish for months; ice keeps it for a week.", "bread"]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


# Search


@pytest.mark.parametrize("system", [None, "dense", "bm25", "fused", "before"])
def test_search_finds_what_the_library_finds(server: Server, system: str | None) -> None:
    answer = server.post("/search", query="owls and a map", k=4, system=system).json()
    assert answer["system"] == (system or "fused")
    (result,) = answer["results"]
    hits = server.engine.systems.search("owls and a map", 4, system=system)
    assert [hit["id"] for hit in result["hits"]] == [hit.passage.id for hit in hits]
    for told, hit in zip(result["hits"], hits, strict=True):
        assert (told["title"], told["text"]) == (hit.passage.title, hit.passage.text)
        assert told["score"] == pytest.approx(hit.score, rel=1e-4)
        assert [term for term, _ in told["why"]["terms"]] == [term for term, _ in hit.why.terms]
        assert "marks" not in told
    assert result["search_ms"] > 0 and (result["encode_ms"] > 0) == (system != "bm25")


def test_many_queries_at_once(server: Server) -> None:
    queries = ["an owl", "bread", "an owl"]
    results = server.post("/search", queries=queries, k=3).json()["results"]
    assert [result["query"] for result in results] == queries
    assert results[0]["hits"] == results[2]["hits"] != results[1]["hits"]


def test_marks_are_where_the_words_stand(server: Server) -> None:
    result = server.post("/search", query="the OWL of a tower", k=26, system="bm25", highlight=True).json()
    found = {}
    for hit in result["results"][0]["hits"]:
        for name in ("title", "text"):
            found[hit["id"], name] = [hit[name][start:end] for start, end in hit["marks"][name]]
    assert found["owls", "title"] == ["Owls"]
    assert found["owls", "text"] == ["owls", "tower"]
    assert found["p04", "text"] == ["tower"]


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({}, "query", "give either query, a text, or queries, a list of texts."),
        ({"query": "a", "queries": ["b"]}, "query", "give either query"),
        ({"query": "  "}, "query", "query is an empty text."),
        ({"queries": []}, "queries", "queries is empty"),
        ({"queries": ["a", ""]}, "queries", "queries[1] is an empty text."),
        ({"queries": ["a"] * 9}, "queries", "at most 8 are taken"),
        ({"query": "a" * 201}, "query", "query has 201 characters, but at most 200 are taken."),
        ({"query": "a", "k": 0}, "k", "k: input should be greater than or equal to 1."),
        ({"query": "a", "k": 51}, "k", "k is 51, but at most 50 results are given."),
        ({"queries": ["a"] * 3, "k": 50}, "k", "3 queries of 50 results each are more than the 120 results"),
        ({"query": "a", "k": "many"}, "k", "k: input should be a valid integer"),
        ({"query": "a", "system": "best"}, "system", "no system 'best'; these are: dense, bm25, fused, before."),
        ({"query": "a", "file": "/etc/passwd"}, "file", "the field file is not known."),
        ({"query": ["a"]}, "query", "query: input should be a valid string."),
        ({"query": "a\ud800"}, "query", ""),
    ],
)  # fmt: skip
def test_bad_searches(setup: Setup, body: dict[str, object], param: str, sentence: str) -> None:
    limits = Limits(max_texts=8, max_characters=200, max_k=50, max_results=120)
    with serving(replace(setup, limits=limits)) as small:
        response = small.client.post(
            "/search", content=json.dumps(body), headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    assert sentence in message(response)
    assert response.json()["error"]["param"] == param


def test_what_is_no_json(server: Server) -> None:
    kind = {"content-type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[1]", b"null", b""):
        response = server.client.post("/search", content=content, headers=kind)
        assert response.status_code == 400 and message(response), content
    assert "not valid JSON" in message(server.client.post("/search", content=b"{", headers=kind))


# Embeddings, through the client that people use


def test_the_openai_client_gets_the_models_vectors(server: Server, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="retromae", input=TEXTS)  # asks for base64 and decodes it
    assert [one.index for one in answer.data] == [0, 1, 2]
    expected = server.engine.encoder.encode_passages(TEXTS).dense
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-5)
    plain = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    np.testing.assert_allclose([one.embedding for one in plain.data], expected, atol=1e-5)
    (one,) = client.embeddings.create(model="tiny", input=TEXTS[1]).data
    np.testing.assert_allclose(one.embedding, expected[1], atol=1e-5)
    assert answer.model == "retromae" and answer.object == "list"
    tokenizer = server.engine.encoder.model.tokenizer
    assert answer.usage.total_tokens == sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)
    assert [model.id for model in client.models.list()] == ["retromae", "tiny"]


def test_queries_are_encoded_as_queries(setup: Setup, run: Path, tmp_path: Path) -> None:
    import openai

    encoder = Encoder.open(run / "model", pooling="cls", query_prompt="ask: ")
    store = embed_corpus(encoder, lambda: iter(CORPUS[:3]), tmp_path / "vectors")
    assert store is not None
    build_index(store, tmp_path / "index")
    engine = Engine(open_systems(tmp_path / "index"))
    with (
        serving(replace(setup, engine=engine)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        query = {"input_type": "query"}
        answer = client.embeddings.create(model="retromae", input=TEXTS, extra_body=query)
        plain = client.embeddings.create(model="retromae", input=TEXTS)
    vectors = [one.embedding for one in answer.data]
    np.testing.assert_allclose(vectors, encoder.encode_queries(TEXTS).dense, atol=1e-5)
    assert answer.usage.total_tokens > plain.usage.total_tokens


def test_fewer_dimensions(server: Server, client: openai.OpenAI) -> None:
    import openai

    answer = client.embeddings.create(model="retromae", input=TEXTS, dimensions=8)
    vectors = np.array([one.embedding for one in answer.data])
    expected = server.engine.encoder.encode_passages(TEXTS).dense[:, :8]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="this model's vectors have 32"):
        client.embeddings.create(model="retromae", input=TEXTS, dimensions=33)


def test_what_was_cut_is_told(server: Server) -> None:
    long = "the owl " * 200
    answer = server.post("/v1/embeddings", model="tiny", input=["short", long]).json()
    assert answer["truncated"] == [1]


def test_bad_embeddings(client: openai.OpenAI) -> None:
    import openai

    for tokens in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(openai.BadRequestError, match="token numbers") as caught:
            client.embeddings.create(model="retromae", input=tokens)
        assert caught.value.param == "input"
    for nothing in ("", [], ["a", " "]):
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.embeddings.create(model="retromae", input=nothing)
    with pytest.raises(openai.NotFoundError, match="'retromae' or 'tiny'") as caught_name:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert caught_name.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="encoding_format"):
        client.embeddings.create(model="retromae", input="a", encoding_format="int8")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="input must be a text or a list of texts"):
        client.embeddings.create(model="retromae", input={"text": "a"})  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="input_type"):
        client.embeddings.create(model="retromae", input="a", extra_body={"input_type": "image"})


# Re-ranking


def test_rerank_by_the_encoder(server: Server) -> None:
    documents = [passage.text for passage in CORPUS[:6]]
    answer = server.post("/rerank", query=TEXTS[0], documents=documents).json()
    encoder = server.engine.encoder
    scores = encoder.encode_passages(documents).dense @ encoder.encode_queries([TEXTS[0]]).dense[0]
    assert [row["index"] for row in answer["results"]] == np.argsort(-scores, kind="stable").tolist()
    for row in answer["results"]:
        assert row["relevance_score"] == pytest.approx(float(scores[row["index"]]), abs=1e-5)
        assert "document" not in row
    best = server.post(
        "/v1/rerank", query=TEXTS[0], documents=[{"text": text} for text in documents], top_n=2,
        return_documents=True, model="any",
    ).json()  # fmt: skip
    assert [row["index"] for row in best["results"]] == [row["index"] for row in answer["results"][:2]]
    assert best["results"][0]["document"]["text"] == documents[best["results"][0]["index"]]


def test_rerank_by_a_cross_encoder(
    setup: Setup, engine: Engine, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "cross")
    with pytest.raises(UserError, match="no cross-encoder; train one with `retromae teach`"):
        open_reranker(folder)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    reranker = open_reranker(folder)
    documents = [passage.text for passage in CORPUS[:5]]
    with serving(replace(setup, engine=Engine(engine.systems, reranker))) as server:
        answer = server.post("/rerank", query=TEXTS[0], documents=documents).json()
    logits = score_texts(reranker, [TEXTS[0]] * 5, documents)
    assert [row["index"] for row in answer["results"]] == np.argsort(-logits, kind="stable").tolist()
    for row in answer["results"]:
        assert row["relevance_score"] == pytest.approx(1 / (1 + np.exp(-logits[row["index"]])), abs=1e-5)


def test_bad_reranking(server: Server) -> None:
    for body, sentence in (
        ({"query": "a", "documents": []}, "documents is empty"),
        ({"query": " ", "documents": ["a"]}, "query is an empty text."),
        ({"query": "a", "documents": ["a", ""]}, "documents[1] is an empty text."),
        ({"query": "a"}, "the field documents is missing."),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": [3]}, "documents.0"),
    ):
        response = server.client.post("/rerank", json=body)
        assert response.status_code == 400 and sentence in message(response)


# The rest


def test_health_and_metrics(server: Server) -> None:
    assert server.client.get("/health").json()["status"] == "ok"
    server.post("/search", query="owl")
    server.post("/search", query="")
    assert server.metric('retromae_requests_total{method="POST",route="/search",status="200"}') == 1
    assert server.metric('retromae_requests_total{method="POST",route="/search",status="400"}') == 1
    assert server.metric('retromae_request_seconds_count{route="/search"}') == 2
    assert server.metric('retromae_request_seconds_bucket{route="/search",le="+Inf"}') == 2
    assert server.metric("retromae_batch_texts_count") == server.metric("retromae_batch_texts_sum") == 1
    assert server.metric("retromae_queue_texts") == 0
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {line.split()[2] for line in response.text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("retromae_") for name in names) and len(names) == 5


def test_what_is_not_there(server: Server) -> None:
    assert message(server.client.get("/nothing")) == "there is nothing at this address."
    response = server.client.get("/search")
    assert response.status_code == 405 and message(response) == "GET is not for this address."
    assert server.client.get("/docs").status_code == server.client.get("/redoc").status_code == 404
