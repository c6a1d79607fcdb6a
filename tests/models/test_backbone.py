"""Backbone against the models of transformers themselves, family by family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, GPT2Config

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.families import FAMILIES as TABLE
from retromae.models.families import table
from retromae.models.loading import Loaded
from tiny import FAMILIES, LENGTH, SENTENCES, family_tokenizer, random_model, tiny_config

TinyFolder = Callable[[str], Path]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(family: str, tiny_folder: TinyFolder) -> Backbone:
    """Opened and in evaluation mode; tests that change it take a copy."""
    return Backbone.open(tiny_folder(family)).eval()


@pytest.fixture(scope="module")
def batch(family: str, tiny_folder: TinyFolder) -> dict[str, torch.Tensor]:
    """Two sentences of different length, so that there is padding."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder(family))
    encoded = tokenizer([SENTENCES[0], "Salt keeps fish."], padding=True, return_tensors="pt")
    assert encoded["attention_mask"].min() == 0
    return {"token_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def test_the_table_and_the_tests_know_the_same_families() -> None:
    assert set(TABLE) == set(FAMILIES) == {row["family"] for row in table()}


def test_encode_is_the_last_hidden_state(
    backbone: Backbone, batch: dict[str, torch.Tensor], family: str, tiny_folder: TinyFolder
) -> None:
    model = AutoModel.from_pretrained(tiny_folder(family)).eval()
    expected = model(input_ids=batch["token_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(backbone.encode(**batch), expected)
    as_bool = {**batch, "attention_mask": batch["attention_mask"].bool()}
    torch.testing.assert_close(backbone(**as_bool), expected)


def test_the_halves_of_the_head_make_the_logits(
    backbone: Backbone, batch: dict[str, torch.Tensor], family: str, tiny_folder: TinyFolder
) -> None:
    model = AutoModelForMaskedLM.from_pretrained(tiny_folder(family)).eval()
    expected = model(input_ids=batch["token_ids"], attention_mask=batch["attention_mask"]).logits
    transformed = backbone.head_transform(backbone.encode(**batch).flatten(0, 1))  # (n, e)
    assert backbone.head_bias is not None
    logits = transformed @ backbone.head_weight.T + backbone.head_bias
    torch.testing.assert_close(logits.view_as(expected), expected)
    assert backbone.head_weight.shape[0] == backbone.vocab_size == expected.shape[-1]


def test_all_layers_end_with_the_last_hidden_state(
    backbone: Backbone, batch: dict[str, torch.Tensor]
) -> None:
    layers = backbone.encode(**batch, all_layers=True)
    assert len(layers) == backbone.num_layers + 1
    torch.testing.assert_close(layers[-1], backbone.encode(**batch))
    assert all(layer.shape == layers[-1].shape for layer in layers[1:])


def _embedded(backbone: Backbone, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What enters the embedding LayerNorm, in embedding size: seen by a hook in the family's own forward."""
    seen: list[torch.Tensor] = []
    norm = backbone.model.get_submodule(backbone.family.norm)
    with norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        backbone.encode(**batch)
    return seen[0]


def test_e_and_p_are_what_the_encoder_adds_up(backbone: Backbone, batch: dict[str, torch.Tensor]) -> None:
    ids = batch["token_ids"][:1]  # the row without padding
    length = ids.shape[1]
    total = _embedded(backbone, {"token_ids": ids, "attention_mask": torch.ones_like(ids)})
    types = backbone._optional_part(f"{backbone.family.base}.embeddings.token_type_embeddings")
    if types is not None:
        total = total - types.weight[0]
    if backbone.family.norm_first and backbone._projection is not None:
        total = backbone._projection(total)
    positions = backbone.position_embeddings(length)
    assert (positions is not None) == backbone.has_positions
    ours = backbone.token_embeddings(ids) + (0.0 if positions is None else positions)
    assert ours.shape == (1, length, backbone.hidden_size)
    torch.testing.assert_close(ours, total)


def test_families_without_a_position_table() -> None:
    without = {name for name in FAMILIES if not Backbone(_loaded(name)).has_positions}
    assert without == {"deberta", "deberta-v2", "modernbert"}


def _loaded(family: str, **settings: Any) -> Loaded:
    tokenizer = family_tokenizer(family)
    config = tiny_config(family, len(tokenizer), tokenizer.pad_token_id, **settings)
    return Loaded(random_model(config), [], [])


def test_deberta_with_positions_in_its_input() -> None:
    backbone = Backbone(_loaded("deberta-v2", position_biased_input=True))
    positions = backbone.position_embeddings(7)
    assert positions is not None
    assert positions.shape == (7, 32)


def test_every_position_can_be_used_and_no_more(backbone: Backbone) -> None:
    assert backbone.max_length == LENGTH
    ids = torch.full((1, LENGTH), 7)
    assert backbone.encode(ids, torch.ones_like(ids)).isfinite().all()
    if backbone.has_positions:
        assert len(backbone.position_embeddings(LENGTH)) == LENGTH  # type: ignore[arg-type]
        with pytest.raises(UserError, match=f"{LENGTH} positions"):
            backbone.position_embeddings(LENGTH + 1)


def test_gradients_reach_everything(backbone: Backbone, batch: dict[str, torch.Tensor]) -> None:
    """Every weight takes part: nothing is left over that an optimiser or DDP would stumble over."""
    model = copy.deepcopy(backbone).train()
    hidden = model.head_transform(model.encode(**batch))
    assert model.head_bias is not None
    (hidden @ model.head_weight.T + model.head_bias).square().sum().backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert missing == []


def test_gradient_checkpointing_changes_nothing(backbone: Backbone, batch: dict[str, torch.Tensor]) -> None:
    model = copy.deepcopy(backbone).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    if not model.model.supports_gradient_checkpointing:
        with pytest.raises(UserError, match="gradient checkpointing"):
            model.gradient_checkpointing()
        return
    gradients = []
    for on in (False, True):
        model.zero_grad()
        model.gradient_checkpointing(on)
        model.encode(**batch).square().sum().backward()
        gradients.append([w.grad.clone() for w in model.base.parameters() if w.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_dropout_reaches_every_probability(family: str, tiny_folder: TinyFolder) -> None:
    model = Backbone.open(tiny_folder(family), dropout=0.25)
    assert model.dropout == model.attention_dropout == 0.25
    rates = {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {0.25}


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_impossible_dropout_is_refused(value: float, tiny_folder: TinyFolder) -> None:
    with pytest.raises(UserError, match="dropout"):
        Backbone.open(tiny_folder("bert"), dropout=value)


def test_from_scratch(family: str) -> None:
    pad = family_tokenizer(family).pad_token_id
    model = Backbone.from_scratch(3, 32, 2, 80, 200, 50, 0.3, family, pad_token_id=pad)
    shape = (model.num_layers, model.hidden_size, model.num_heads, model.intermediate_size, model.vocab_size)
    assert shape == (3, 32, 2, 80, 200)
    assert model.max_length == 50
    assert model.dropout == model.attention_dropout == 0.3
    assert model.fresh == ["encoder", "vocabulary head"]
    assert model.head_weight is model.get_submodule("model." + model.family.words).weight  # tied
    ids = torch.full((1, 50), 9)
    assert model.encode(ids, torch.ones_like(ids)).shape == (1, 50, 32)


def test_from_scratch_takes_the_seed() -> None:
    def weights() -> torch.Tensor:
        torch.manual_seed(3)
        return Backbone.from_scratch(1, 32, 2, 32, 50, 16).head_weight.detach()

    assert torch.equal(weights(), weights())


def test_a_plain_encoder_gets_a_fresh_head(family: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    AutoModel.from_pretrained(tiny_folder(family)).save_pretrained(tmp_path)
    model = Backbone.open(tmp_path)
    assert model.fresh == ["vocabulary head: bias", "vocabulary head: transform"]
    ours, theirs = model.base.state_dict(), Backbone.open(tiny_folder(family)).base.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert model.head_weight is model.get_submodule("model." + model.family.words).weight


def test_an_untied_head_keeps_its_own_matrix(tmp_path: Path) -> None:
    loaded = _loaded("bert", tie_word_embeddings=False)
    loaded.model.save_pretrained(tmp_path)
    model = Backbone.open(tmp_path).eval()
    assert model.fresh == []
    assert not torch.equal(model.head_weight, model.model.get_input_embeddings().weight)
    ids = torch.tensor([[2, 9, 11, 3]])
    hidden = model.head_transform(model.encode(ids, torch.ones_like(ids)))
    expected = model.model(input_ids=ids).logits
    torch.testing.assert_close(hidden @ model.head_weight.T + model.head_bias, expected)


@pytest.mark.parametrize("name", ["deberta", "deberta-v2"])
def test_debertas_trained_head_is_found(name: str, tmp_path: Path) -> None:
    """Published DeBERTa weights carry `lm_predictions`, while their configuration does not mention it."""
    loaded = _loaded(name, legacy=False)
    loaded.model.config.legacy = True
    loaded.model.save_pretrained(tmp_path)
    model = Backbone.open(tmp_path).eval()
    if not _reads_trained_heads(tmp_path):
        assert model.fresh == ["vocabulary head: bias", "vocabulary head: transform"]
        return
    assert model.fresh == []
    ids = torch.tensor([[2, 9, 11, 3]])
    hidden = model.head_transform(model.encode(ids, torch.ones_like(ids)))
    assert model.head_bias is not None
    torch.testing.assert_close(
        hidden @ model.head_weight.T + model.head_bias, loaded.model.eval()(input_ids=ids).logits
    )


def _reads_trained_heads(folder: Path) -> bool:
    """transformers 5.17 looks for a weight that this head does not have."""
    try:
        AutoModelForMaskedLM.from_pretrained(folder, legacy=False)
    except AttributeError:
        return False
    return True


def test_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"gpt2.*bert, roberta.*modernbert"):
        Backbone.from_config(GPT2Config())


def test_an_encoder_with_holes_is_refused(tiny_folder: TinyFolder) -> None:
    model = Backbone.open(tiny_folder("bert"))
    state = {f"lm.{name}": weight for name, weight in model.model.state_dict().items()}
    with pytest.raises(UserError, match=r"lacks \d+ weights of the encoder"):
        Backbone.from_state(model.config, state, "a dump")


@pytest.mark.parametrize("what", ["missing", "empty", "broken config", "broken weights"])
def test_what_cannot_be_opened_is_one_sentence(what: str, tmp_path: Path, tiny_folder: TinyFolder) -> None:
    folder = tmp_path / "model"
    if what != "missing":
        folder.mkdir()
    if what.startswith("broken"):
        for file in tiny_folder("bert").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        name = "config.json" if what == "broken config" else "model.safetensors"
        (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.raises(UserError) as caught:
        Backbone.open(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(tiny_folder: TinyFolder) -> None:
    bytelevel = family_tokenizer("roberta")
    with pytest.raises(UserError, match="320 tokens but the model has embeddings for 160"):
        Backbone.open(tiny_folder("bert")).check_tokenizer(bytelevel)
    with pytest.raises(UserError, match="padding id 1"):
        Backbone.open(tiny_folder("mpnet")).check_tokenizer(family_tokenizer("bert"))
    Backbone.open(tiny_folder("roberta")).check_tokenizer(bytelevel)


def test_only_full_size_embedding_norms_are_offered(backbone: Backbone, family: str) -> None:
    if family in ("albert", "electra"):
        with pytest.raises(UserError, match="embedding_norm"):
            _ = backbone.embedding_norm
    else:
        assert backbone.embedding_norm(torch.randn(2, backbone.hidden_size)).shape == (2, 32)


def test_attention_can_be_chosen(tiny_folder: TinyFolder) -> None:
    assert Backbone.open(tiny_folder("bert")).config._attn_implementation == "sdpa"
    assert Backbone.open(tiny_folder("deberta")).config._attn_implementation == "eager"
    assert (
        Backbone.open(tiny_folder("bert"), attn_implementation="eager").config._attn_implementation == "eager"
    )
    with pytest.raises(UserError, match="cannot open"):
        Backbone.open(tiny_folder("bert"), attn_implementation="nonsense")
