"""One folder, four readers: AutoModel, AutoModelForMaskedLM, SentenceTransformer and ourselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import HEADS_FILE, RECIPE_FILE, open_checkpoint, save
from retromae.models.decoders import EnhancedDecoder
from tiny import FAMILIES, SENTENCES, family_tokenizer

TinyFolder = Callable[[str], Path]
RECIPE = {
    "objective": "retromae",
    "settings": {"encoder_mlm_probability": 0.3},
    "provenance": {"initialised_from": "tiny", "rows": "zwölf Sätze"},
}
SHORT = 24


def _trained(folder: Path) -> tuple[Backbone, EnhancedDecoder, Any]:
    """Open, one step forward and backward through encoder, decoder and head, and one of the optimiser."""
    checkpoint = open_checkpoint(folder, dropout=0.0)
    backbone, tokenizer = checkpoint.backbone, checkpoint.tokenizer
    decoder = EnhancedDecoder(backbone)
    batch = tokenizer(SENTENCES[:4], padding=True, truncation=True, max_length=SHORT, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    length = ids.shape[1]
    visible = mask.bool()[:, None].expand(-1, length, -1)
    weights = [*backbone.parameters(), *decoder.parameters()]
    optimiser = torch.optim.SGD(weights, lr=0.05)
    states = backbone.encode(ids, mask)
    rebuilt = decoder(
        states[:, 0], backbone.token_embeddings(ids), backbone.position_embeddings(length), visible
    )
    assert backbone.head_bias is not None
    loss = states.new_zeros(())
    for hidden in (states, rebuilt):
        logits = backbone.head_transform(hidden[mask.bool()]) @ backbone.head_weight.T + backbone.head_bias
        loss = loss + torch.nn.functional.cross_entropy(logits, ids[mask.bool()])
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)
    optimiser.step()
    return backbone.eval(), decoder, tokenizer


def _heads(decoder: EnhancedDecoder) -> dict[str, Tensor]:
    return {f"decoder.{name}": weight for name, weight in decoder.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_folder_loads_everywhere(family: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    backbone, decoder, tokenizer = _trained(tiny_folder(family))
    folder = tmp_path / "model"
    save(folder, backbone, tokenizer, _heads(decoder), RECIPE, SHORT)

    words = AutoTokenizer.from_pretrained(folder)
    batch = words(SENTENCES[5:9], padding=True, truncation=True, max_length=SHORT, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        states = backbone.encode(ids, mask)
        logits = backbone.model(input_ids=ids, attention_mask=mask).logits
        encoder = AutoModel.from_pretrained(folder).eval()
        torch.testing.assert_close(encoder(input_ids=ids, attention_mask=mask).last_hidden_state, states)
        masked = AutoModelForMaskedLM.from_pretrained(folder).eval()
        torch.testing.assert_close(masked(input_ids=ids, attention_mask=mask).logits, logits)
        sentences = SentenceTransformer(str(folder), device="cpu")
        vectors = sentences.encode(SENTENCES[5:9], convert_to_tensor=True)
        torch.testing.assert_close(vectors, states[:, 0])
    assert sentences.similarity_fn_name == "dot"
    assert sentences.max_seq_length == SHORT
    torch.testing.assert_close(sentences.similarity(vectors, vectors), vectors @ vectors.T)

    again = open_checkpoint(folder)
    assert again.fresh == []
    assert again.recipe == RECIPE
    assert again.max_seq_length == SHORT
    _same_tensors(again.heads, _heads(decoder))
    _same_tensors(again.backbone.model.state_dict(), backbone.model.state_dict())
    EnhancedDecoder(again.backbone).load_state_dict(
        {name.removeprefix("decoder."): weight for name, weight in again.heads.items()}
    )


def _same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _saved(tiny_folder: TinyFolder, folder: Path, **more: Any) -> Path:
    checkpoint = open_checkpoint(tiny_folder("bert"))
    save(folder, checkpoint.backbone, checkpoint.tokenizer, {}, RECIPE, SHORT, **more)
    return folder


def test_mean_pooling_when_asked(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = _saved(tiny_folder, tmp_path / "model", pooling="mean")
    checkpoint = open_checkpoint(folder)
    text = "Salt keeps fish."
    batch = checkpoint.tokenizer(text, return_tensors="pt")
    states = checkpoint.backbone.eval().encode(batch["input_ids"], batch["attention_mask"])
    vector = SentenceTransformer(str(folder), device="cpu").encode(text, convert_to_tensor=True)
    torch.testing.assert_close(vector, states[0].mean(0).detach())


def test_long_texts_are_cut_at_the_stated_length(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    model = SentenceTransformer(str(_saved(tiny_folder, tmp_path / "model")), device="cpu")
    assert model.tokenize(["word " * 200])["input_ids"].shape[1] == SHORT


def test_a_plain_folder_opens_without_heads(tiny_folder: TinyFolder) -> None:
    checkpoint = open_checkpoint(tiny_folder("roberta"))
    assert checkpoint.heads == {}
    assert checkpoint.recipe == {}
    assert checkpoint.fresh == ["pre-training heads"]
    assert checkpoint.max_seq_length == checkpoint.backbone.max_length == 64


def test_the_folder_is_replaced_as_a_whole(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    backbone, decoder, tokenizer = _trained(tiny_folder("bert"))
    save(folder, backbone, tokenizer, _heads(decoder), RECIPE, SHORT)
    (folder / "left over").touch()
    _saved(tiny_folder, folder)
    assert not (folder / "left over").exists()
    assert not (folder / HEADS_FILE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_folder(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = _saved(tiny_folder, tmp_path / "model")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    checkpoint = open_checkpoint(folder)
    with pytest.raises(TypeError):
        save(folder, checkpoint.backbone, checkpoint.tokenizer, {}, {"objective": object()}, SHORT)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_card_says_what_it_is_and_how_to_load_it(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    card = (_saved(tiny_folder, tmp_path / "harbour") / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    for text in (
        "# harbour",
        "SentenceTransformer(",
        "| objective | retromae |",
        "zwölf Sätze",
        f"{SHORT} tokens",
    ):
        assert text in card


@pytest.mark.parametrize("length", [0, 65])
def test_impossible_lengths_are_refused(length: int, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder("bert"))
    with pytest.raises(UserError, match="1 to 64"):
        save(tmp_path / "m", checkpoint.backbone, checkpoint.tokenizer, {}, {}, length)
    assert not (tmp_path / "m").exists()


def test_wrong_choices_are_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cls, mean"):
        _saved(tiny_folder, tmp_path / "m", pooling="max")
    checkpoint = open_checkpoint(tiny_folder("bert"))
    with pytest.raises(UserError, match="320 tokens"):
        save(tmp_path / "m", checkpoint.backbone, family_tokenizer("roberta"), {}, {}, SHORT)


@pytest.mark.parametrize(
    ("file", "content"), [(RECIPE_FILE, "{broken"), (RECIPE_FILE, "[1]"), (HEADS_FILE, "no tensors")]
)
def test_damaged_files_are_named(file: str, content: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = _saved(tiny_folder, tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tokenizer_is_one_sentence(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = _saved(tiny_folder, tmp_path / "model")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        open_checkpoint(folder)


def test_recipes_are_plain_json(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = _saved(tiny_folder, tmp_path / "model")
    assert json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8")) == RECIPE


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_a_run_without_dropout_does_not_take_it_from_the_model(
    family: str, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    own = {
        name: value
        for name, value in AutoModel.from_pretrained(tiny_folder(family)).config.to_dict().items()
        if "dropout" in name
    }
    checkpoint = open_checkpoint(tiny_folder(family), dropout=0.35)
    assert checkpoint.backbone.dropout == checkpoint.backbone.attention_dropout == 0.35
    save(tmp_path / "saved", checkpoint.backbone, checkpoint.tokenizer, {}, RECIPE, SHORT)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {name: saved.get(name) for name in own} == own
    assert checkpoint.backbone.config.to_dict()[next(iter(own))] == 0.35  # saving has not changed the run
