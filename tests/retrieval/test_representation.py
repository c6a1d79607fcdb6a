"""DupMAE's representation against its definition, token by token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import dot_score
from transformers import AutoModelForMaskedLM, AutoTokenizer

from retromae.core.errors import UserError
from retromae.models.checkpoint import open_checkpoint, save
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.representation import DupMAERepresentation, as_sentence_transformer, principal_axes
from tiny import SENTENCES

Folder = Callable[[str], Path]
QUERY, PASSAGES = "why does the bridge hum?", SENTENCES[:6]


def by_definition(folder: Path, text: str) -> tuple[np.ndarray, np.ndarray]:
    """h_CLS and μ from transformers' own model: the logits of every ordinary token, one text at a time."""
    model, tokenizer = (
        AutoModelForMaskedLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    tokens = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        out = model(**tokens, output_hidden_states=True)
    ordinary = [
        i for i, token in enumerate(tokens["input_ids"][0].tolist()) if token not in tokenizer.all_special_ids
    ]
    return out.hidden_states[-1][0, 0].numpy(), out.logits[0, ordinary].max(dim=0).values.numpy()


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "albert"])
def test_both_halves_equal_the_definition(tiny_folder: Folder, family: str) -> None:
    folder = tiny_folder(family)
    encoder = Encoder.open(folder, lexical_terms=7)
    queries, passages = encoder.encode_queries([QUERY]), encoder.encode_passages(PASSAGES)
    assert queries.lexical is not None
    assert passages.lexical is not None
    cls, mu = by_definition(folder, QUERY)
    np.testing.assert_allclose(queries.dense[0], cls, atol=1e-5)
    np.testing.assert_allclose(queries.lexical.toarray()[0], mu, atol=1e-4)
    for row, text in enumerate(PASSAGES):
        cls_d, mu_d = by_definition(folder, text)
        kept = np.argsort(-mu_d)[:7]
        found = passages.lexical[[row]]
        assert set(found.indices) == set(kept)
        np.testing.assert_allclose(found.toarray()[0, kept], mu_d[kept], atol=1e-4)
        why = encoder.explain(QUERY, text, most=100)
        assert why.score == pytest.approx(float(cls @ cls_d + mu[kept] @ mu_d[kept]), rel=1e-4)
        assert why.dense == pytest.approx(float(cls @ cls_d), rel=1e-4)


def test_the_explanation_names_terms_and_adds_up(tiny_folder: Folder) -> None:
    encoder = Encoder.open(tiny_folder("bert"), lexical_terms=160)
    why = encoder.explain(QUERY, PASSAGES[3], most=1000)
    shares = [share for _, share in why.terms]
    assert shares == sorted(shares, reverse=True)
    queries, passages = encoder.encode_queries([QUERY]), encoder.encode_passages([PASSAGES[3]])
    products = (queries.lexical.toarray() * passages.lexical.toarray())[0]
    assert sum(shares) == pytest.approx(float(products[products > 0].sum()), rel=1e-5)
    term, share = why.terms[0]
    assert term == encoder.term(int(products.argmax()))
    assert f"*{term}* {share:.1f}" in str(why)


def test_a_fitted_scale_makes_both_halves_spread_alike(tiny_folder: Folder, tmp_path: Path) -> None:
    def scores(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
        queries, passages = encoder.encode_queries(SENTENCES[:5]), encoder.encode_passages(PASSAGES)
        assert queries.lexical is not None and passages.lexical is not None
        return queries.dense @ passages.dense.T, (queries.lexical @ passages.lexical.T).toarray()

    module = DupMAERepresentation.from_checkpoint(tiny_folder("bert"), terms=9)
    assert not module.scale_is_fitted
    model = as_sentence_transformer(module)
    dense, lexical = scores(Encoder(model))
    module.fit_scale(dense, lexical)
    scale = float(module.lexical_scale)
    assert module.scale_is_fitted and scale**2 == pytest.approx(
        np.mean([row.std() for row in dense]) / np.mean([row.std() for row in lexical]), rel=1e-4
    )
    model.save(str(tmp_path / "model"))
    opened = Encoder.open(tmp_path / "model")
    same, scaled = scores(opened)
    np.testing.assert_allclose(same, dense, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scaled, lexical * scale**2, rtol=1e-3, atol=1e-6)
    module.fit_scale(dense, np.zeros_like(lexical))  # says nothing: it stays
    assert float(module.lexical_scale) == scale


def test_it_saves_and_loads_in_sentence_transformers(tiny_folder: Folder, tmp_path: Path) -> None:
    module = DupMAERepresentation.from_checkpoint(tiny_folder("bert"), terms=9)
    states = Encoder.open(tiny_folder("bert"), pooling="cls").encode_passages(SENTENCES).dense
    module.fit_pca(states, 5)
    model = as_sentence_transformer(module)
    model.prompts["query"] = "ask: "
    model.save(str(tmp_path / "model"))
    loaded = SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True)
    encoder = Encoder.open(tmp_path / "model")
    assert (encoder.dimension, encoder.vocabulary, encoder.query_prompt) == (5, 160, "ask: ")
    queries, passages = encoder.encode_queries([QUERY]), encoder.encode_passages(PASSAGES)
    ours = queries.dense @ passages.dense.T + (queries.lexical @ passages.lexical.T).toarray()
    theirs = loaded.similarity(loaded.encode_query([QUERY]), loaded.encode_document(PASSAGES))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    np.testing.assert_allclose(
        theirs, model.similarity(model.encode_query([QUERY]), model.encode_document(PASSAGES))
    )
    assert Encoder.open(tmp_path / "model", **encoder.settings).fingerprint == encoder.fingerprint
    # The folder stays what it was: a masked-LM model.
    head = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").get_output_embeddings().weight
    assert torch.equal(head, module.backbone.head_weight)


def test_pre_training_can_go_on_from_what_is_saved(tiny_folder: Folder, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_folder("bert"))
    heads = {"decoder.weight": torch.arange(6.0).view(2, 3)}
    recipe = {"objective": "dupmae", "provenance": {"rows": "abc"}}
    save(tmp_path / "trained", opened.backbone, opened.tokenizer, heads, recipe, 32)
    for source, target in (
        ("trained", "first"),
        ("first", "second"),
    ):  # from a checkpoint, from what was saved
        module = (
            DupMAERepresentation.from_checkpoint(tmp_path / source, terms=9)
            if source == "trained"
            else DupMAERepresentation.load(str(tmp_path / source))
        )
        as_sentence_transformer(module).save(str(tmp_path / target))
        kept = open_checkpoint(tmp_path / target)
        assert kept.recipe == recipe
        assert torch.equal(kept.heads["decoder.weight"], heads["decoder.weight"])


def test_both_halves_are_trained_jointly(tiny_folder: Folder) -> None:
    model = as_sentence_transformer(DupMAERepresentation.from_checkpoint(tiny_folder("bert"), terms=9), "cpu")
    loss = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    features = [
        {**model.preprocess(list(texts)), "task": task}
        for texts, task in ((SENTENCES[:4], "query"), (SENTENCES[4:8], "document"))
    ]
    loss(features, None).backward()
    module = model[0]
    for parameter in (module.linear.weight, module.backbone.head_bias, module.backbone.head_weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_a_text_without_words_has_no_terms(tiny_folder: Folder) -> None:
    passages = Encoder.open(tiny_folder("bert"), lexical_terms=5).encode_passages(["", "[SEP]", "salt"])
    assert np.abs(passages.lexical.toarray()).sum(axis=1).astype(bool).tolist() == [False, False, True]


def test_pca_keeps_what_varies_and_takes_off_the_mean() -> None:
    draw = np.random.default_rng(0)
    plane = draw.standard_normal((50, 3)) @ draw.standard_normal((3, 8)) + 10.0
    weight, bias = principal_axes(plane, 3)
    reduced = plane @ weight.T + bias
    np.testing.assert_allclose(weight @ weight.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(reduced.mean(axis=0), 0, atol=1e-4)
    centred = plane - plane.mean(axis=0)
    np.testing.assert_allclose(reduced @ reduced.T, centred @ centred.T, atol=1e-3)


@pytest.mark.parametrize(
    ("vectors", "dimension", "message"),
    [
        (np.ones((9, 4)), 5, "at least as many"),
        (np.ones((3, 4)), 3, "more than 3 vectors"),
        (np.full((9, 4), np.nan), 2, "NaN"),
    ],
)
def test_pca_of_bad_input(vectors: np.ndarray, dimension: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        principal_axes(vectors, dimension)


def test_bad_checkpoints(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1 term"):
        DupMAERepresentation.from_checkpoint(tiny_folder("bert"), terms=0)
    module = DupMAERepresentation.from_checkpoint(tiny_folder("bert"))
    with pytest.raises(UserError, match="have 8 dimensions"):
        module.fit_pca(np.random.default_rng(0).standard_normal((20, 8)), 4)
    headless = tmp_path / "headless"
    module.backbone.base.save_pretrained(headless)
    module.tokenizer.save_pretrained(headless)
    with pytest.raises(UserError, match="lacks a trained vocabulary head"):
        Encoder.open(headless, lexical_terms=5)
    as_sentence_transformer(module).save(str(tmp_path / "cut"))
    (tmp_path / "cut" / "dupmae_representation.safetensors").unlink()
    with pytest.raises(UserError, match="restore it"):
        Encoder.open(tmp_path / "cut")
    modules = json.loads((tmp_path / "cut" / "modules.json").read_text())
    assert modules[0]["type"].startswith("retromae.")
