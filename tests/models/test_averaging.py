"""Averages of weights: exact, in the first model's form, and refused where they would mean nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from retromae.core.errors import UserError
from retromae.models import checkpoint
from retromae.models.averaging import RECIPE_FILE, average, average_states, read_recipe
from retromae.models.backbone import Backbone
from retromae.models.folders import ModelFolder
from retromae.models.importing import import_checkpoint
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.representation import DupMAERepresentation, as_sentence_transformer
from tiny import FAMILIES, SENTENCES, random_model, tiny_config, tiny_model, tiny_tokenizer

Folder = Callable[[str], Path]
TEXTS = SENTENCES[:3]


def moved(source: Path, target: Path, seed: int = 1) -> Path:
    """A copy whose weights have been moved, as training does."""
    shutil.copytree(source, target)
    generator = torch.Generator().manual_seed(seed)
    for file in target.rglob("*.safetensors"):
        tensors = load_file(file)
        for tensor in tensors.values():
            tensor += (0.1 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def ours(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of ours with pre-training heads, the second moved away from the first."""
    folder = tmp_path_factory.mktemp("ours")
    backbone = Backbone.open(tiny_folder("bert"))
    tokenizer = checkpoint.open_tokenizer(tiny_folder("bert"))
    heads = {"decoder.weight": torch.randn(4, 4)}
    checkpoint.save(folder / "base", backbone, tokenizer, heads, {"objective": "retromae"}, 48)
    return folder / "base", moved(folder / "base", folder / "tuned")


def vectors(folder: Path) -> Tensor:
    return torch.from_numpy(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))


def weights_of(folder: Path, file: str = "model.safetensors") -> dict[str, Tensor]:
    return load_file(folder / file)


# States


@given(st.lists(st.integers(0, 20), min_size=2, max_size=4).filter(any), st.integers(0, 1000))
def test_the_mean_is_the_definition(counts: list[int], seed: int) -> None:
    shares = [count / sum(counts) for count in counts]
    generator = torch.Generator().manual_seed(seed)
    states = [{"w": torch.randn(3, 2, generator=generator)} for _ in counts]
    exact = sum(share * state["w"].double() for share, state in zip(shares, states))
    assert torch.allclose(average_states(states, shares)["w"].double(), torch.as_tensor(exact), atol=1e-6)


def test_halves_are_summed_in_float32_and_stored_as_the_first() -> None:
    third = torch.tensor([1.0009765625], dtype=torch.float16)  # one step above 1: a third of it is no float16
    states = [{"w": third.clone()} for _ in range(3)]
    assert torch.equal(average_states(states, [1 / 3] * 3)["w"], third)
    mixed = average_states([{"w": torch.zeros(2, dtype=torch.bfloat16)}, {"w": torch.ones(2)}], [0.75, 0.25])
    assert mixed["w"].dtype == torch.bfloat16 and mixed["w"].tolist() == [0.25, 0.25]


def test_integers_are_the_firsts() -> None:
    first = {"w": torch.zeros(1), "ids": torch.arange(3)}
    second = {"w": torch.ones(1), "ids": torch.arange(3) * 7, "more": torch.arange(2)}
    assert average_states([first, second], [0, 1])["ids"].tolist() == [0, 1, 2]
    assert set(average_states([first, {"w": torch.ones(1)}], [0, 1])) == {"w", "ids"}


@pytest.mark.parametrize(
    ("second", "weights", "sentence"),
    [
        ({"w": torch.zeros(3)}, [0.5, 0.5], r"'w' has the shape \(2,\) in a and \(3,\) in b"),
        ({}, [0.5, 0.5], "b lacks the weight 'w' of a"),
        ({"w": torch.zeros(2), "v": torch.zeros(1)}, [0.5, 0.5], "a lacks the weight 'v' of b"),
        ({"w": torch.full((2,), torch.nan)}, [0.5, 0.5], "'w' holds a NaN"),
        ({"w": torch.zeros(2)}, [0.5, 0.6], "add up to 1, got 0.5, 0.6"),
        ({"w": torch.zeros(2)}, [-0.5, 1.5], "between 0 and 1"),
        ({"w": torch.zeros(2)}, [1.0], "2 models need 2 weights, got 1"),
    ],
)
def test_states_that_do_not_fit(second: dict[str, Tensor], weights: list[float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        average_states([{"w": torch.zeros(2)}, second], weights, ["a", "b"])


# Folders


def test_two_checkpoints_of_ours(ours: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = average(ours, tmp_path / "mixed", (0.25, 0.75))
    for file in ("model.safetensors", checkpoint.HEADS_FILE):
        first, second = (weights_of(folder, file) for folder in ours)
        for name, tensor in weights_of(tmp_path / "mixed", file).items():
            assert torch.allclose(tensor, 0.25 * first[name] + 0.75 * second[name], atol=1e-7), name
        assert weights_of(tmp_path / "mixed", file).keys() == first.keys()
    assert recipe == read_recipe(tmp_path / "mixed") and recipe.kept == []
    assert [source.weight for source in recipe.sources] == [0.25, 0.75]
    assert recipe.sources[0].fingerprint != recipe.sources[1].fingerprint
    assert recipe.sources[1].fingerprint == ModelFolder.open(ours[1]).fingerprint
    opened = checkpoint.open_checkpoint(tmp_path / "mixed")
    assert opened.fresh == [] and opened.recipe == {"objective": "retromae"} and opened.max_seq_length == 48
    assert str(ours[1]) in (tmp_path / "mixed" / "README.md").read_text()


def test_the_ends_are_the_models_themselves(ours: tuple[Path, Path], tmp_path: Path) -> None:
    for place, shares in enumerate([(1, 0), (0, 1)]):
        average(ours, tmp_path / "end", shares)
        assert torch.equal(vectors(tmp_path / "end"), vectors(ours[place]))
    assert not torch.allclose(vectors(ours[0]), vectors(ours[1]), atol=1e-2)


def test_the_same_average_is_the_same_bytes(ours: tuple[Path, Path], tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        average([*ours, ours[0]], tmp_path / "out", (0.2, 0.5, 0.3))
        files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
        found.append([(path.name, path.read_bytes()) for path in files])
    assert found[0] == found[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_language_model_meets_its_encoder(family: str, tiny_folder: Folder, tmp_path: Path) -> None:
    """One encoder under its two namings: the average is the encoder, in the form of the first."""
    whole, bare = tiny_folder(family), tmp_path / "bare"
    AutoModel.from_pretrained(whole).save_pretrained(bare)
    AutoTokenizer.from_pretrained(whole).save_pretrained(bare)
    for first, second in ((whole, bare), (bare, whole)):
        average([first, second], tmp_path / "out", (0.5, 0.5), pooling="mean")
        before, after = weights_of(first), weights_of(tmp_path / "out")
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)
    longest = SentenceTransformer(str(tmp_path / "out"), device="cpu").max_seq_length
    assert longest == 64  # of the position table, what stands before position 0 left off


def test_a_head_that_only_the_first_has_stays_and_is_named(ours: tuple[Path, Path], tmp_path: Path) -> None:
    """The second as sentence-transformers saves it: without head and pre-training heads."""
    SentenceTransformer(str(ours[1]), device="cpu").save(str(tmp_path / "tuned"))
    recipe = average([ours[0], tmp_path / "tuned"], tmp_path / "out", (0.5, 0.5))
    assert f"{checkpoint.HEADS_FILE}: decoder.weight" in recipe.kept
    assert all(name.startswith(("cls.", checkpoint.HEADS_FILE)) or "pooler" in name for name in recipe.kept)
    first, second, mixed = (weights_of(folder) for folder in (*ours, tmp_path / "out"))
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.allclose(mixed[name], (first[name] + second[name]) / 2, atol=1e-7)
    head = "cls.predictions.bias"
    assert torch.equal(mixed[head], first[head])
    average([tmp_path / "tuned", ours[0]], tmp_path / "back", (0.5, 0.5))
    assert torch.allclose(vectors(tmp_path / "back"), vectors(tmp_path / "out"), atol=1e-6)


def test_a_plain_base_gets_the_modules_of_its_fine_tuned_model(
    tiny_folder: Folder, ours: tuple[Path, Path], tmp_path: Path
) -> None:
    import_checkpoint(tiny_folder("bert"), tmp_path / "mean", pooling="mean")
    # as old versions laid it out: the encoder in a folder of its own
    old = tmp_path / "old"
    shutil.copytree(
        tmp_path / "mean", old / "0_Transformer", ignore=shutil.ignore_patterns("1_*", "modules*")
    )
    shutil.move(old / "0_Transformer" / "config_sentence_transformers.json", old)
    shutil.copytree(tmp_path / "mean" / "1_Pooling", old / "1_Pooling")
    entries = json.loads((tmp_path / "mean" / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(entries))
    assert torch.equal(vectors(old), vectors(tmp_path / "mean"))
    average([tiny_folder("bert"), old], tmp_path / "out", (0.5, 0.5))
    assert torch.allclose(vectors(tmp_path / "out"), vectors(tmp_path / "mean"), atol=1e-6)
    AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    average([old, old], tmp_path / "again", (0.5, 0.5))
    assert torch.allclose(vectors(tmp_path / "again"), vectors(old), atol=1e-6)


def test_foreign_modules_with_weights_and_pickles(tiny_folder: Folder, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        torch.manual_seed(number)
        encoder = Transformer(str(tiny_folder("roberta")))
        modules = [encoder, Pooling(32, "mean"), Dense(32, 8), Normalize()]
        SentenceTransformer(modules=modules, prompts={"query": "find: "}, device="cpu").save(str(folder))
    dense = folders[1] / "2_Dense"
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    average(folders, tmp_path / "out", (0.5, 0.5))
    mixed = weights_of(tmp_path / "out" / "2_Dense")["linear.weight"]
    one, other = (
        weights_of(folders[0] / "2_Dense"),
        torch.load(dense / "pytorch_model.bin", weights_only=True),
    )
    assert torch.allclose(mixed, (one["linear.weight"] + other["linear.weight"]) / 2, atol=1e-7)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.prompts["query"] == "find: " and model.similarity_fn_name == "cosine"
    assert model.encode(TEXTS).shape == (3, 8)


def test_the_dupmae_representation(ours: tuple[Path, Path], tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for source, folder in zip(ours, folders):
        as_sentence_transformer(DupMAERepresentation.from_checkpoint(source, terms=16)).save(str(folder))
    moved(folders[1], tmp_path / "c")
    recipe = average([folders[0], tmp_path / "c"], tmp_path / "out", (0.5, 0.5))
    assert recipe.kept == []
    for file in ("model.safetensors", "dupmae_representation.safetensors"):
        first, second = weights_of(folders[0], file), weights_of(tmp_path / "c", file)
        for name, tensor in weights_of(tmp_path / "out", file).items():
            assert torch.allclose(tensor, (first[name] + second[name]) / 2, atol=1e-7)
    found = Encoder.open(tmp_path / "out", device="cpu").encode_queries(TEXTS)
    plain = SentenceTransformer(str(tmp_path / "out"), trust_remote_code=True, device="cpu").encode_query(
        TEXTS
    )
    assert torch.allclose(torch.from_numpy(plain[:, :32]), torch.from_numpy(found.dense), atol=1e-5)
    with pytest.raises(UserError, match=r"made of DupMAERepresentation and .* of Transformer, Pooling"):
        average([folders[0], ours[1]], tmp_path / "no", (0.5, 0.5))


# Refusals


def altered(source: Path, target: Path, file: str, **values: object) -> Path:
    """A copy with other values in one of its JSON files."""
    shutil.copytree(source, target)
    content = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps({**content, **values}))
    return target


def test_models_of_another_make(ours: tuple[Path, Path], tiny_folder: Folder, tmp_path: Path) -> None:
    base = ours[0]
    heads = altered(base, tmp_path / "heads", "config.json", num_attention_heads=2)
    deeper = tiny_model("bert", tmp_path / "deeper", num_hidden_layers=3)
    pooled = altered(base, tmp_path / "pooled", "1_Pooling/config.json", pooling_mode="mean")
    cut = tmp_path / "cut"
    shutil.copytree(base, cut)
    tokenizer = tiny_tokenizer("wordpiece", extra_inputs=("token_type_ids",))
    tokenizer.add_tokens(["harbours"])
    tokenizer.save_pretrained(cut)
    short = tmp_path / "short"
    shutil.copytree(base, short)
    tensors = load_file(short / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.bias"]
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    cases = [
        (tiny_folder("distilbert"), "is a bert model and .* a distilbert model"),
        (heads, "differ in num_attention_heads \\(4 and 2\\)"),
        (deeper, "differ in num_hidden_layers \\(2 and 3\\)"),
        (pooled, "the Pooling of .* differs in pooling \\('cls' and 'mean'\\)"),
        (cut, "the token 'harbours' is absent in one and 160 in the other"),
        (short, "lacks the weight 'encoder.layer.0.output.dense.bias'"),
        (tmp_path / "nowhere", "there is no folder"),
    ]
    for other, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            average([base, other], tmp_path / "out", (0.5, 0.5))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cuts_otherwise(ours: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ours[0], other)
    content = json.loads((other / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**config, "do_lower_case": False}))
    with pytest.raises(UserError, match=r"they cut .* differently"):
        average([ours[0], other], tmp_path / "out", (0.5, 0.5))


def test_what_is_stated_differently_is_told(ours: tuple[Path, Path], tmp_path: Path) -> None:
    file = "config_sentence_transformers.json"
    other = altered(ours[1], tmp_path / "other", file, similarity_fn_name="cosine")
    with pytest.warns(
        UserWarning, match="another similarity \\('dot' and 'cosine'\\); the average has that of"
    ):
        average([ours[0], other], tmp_path / "out", (0.5, 0.5))
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").similarity_fn_name == "dot"


def test_plain_encoders_must_be_told_their_pooling(tiny_folder: Folder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    random_model(tiny_config("bert", 160, 0), seed=1).save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_folder("bert")).save_pretrained(other)
    with pytest.raises(UserError, match="say so with pooling cls"):
        average([tiny_folder("bert"), other], tmp_path / "out", (0.5, 0.5))
    average([tiny_folder("bert"), other], tmp_path / "out", (0.5, 0.5), pooling="cls")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model[1].pooling_mode == "cls" and model.similarity_fn_name == "dot"


def test_nothing_but_an_average_is_replaced(ours: tuple[Path, Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already and is no average"):
        average(ours, kept, (0.5, 0.5))
    with pytest.raises(UserError, match="is one of the models themselves"):
        average(ours, ours[0], (0.5, 0.5))
    assert (kept / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_the_earlier_average(ours: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    average(ours, out, (0.5, 0.5))
    before = (out / RECIPE_FILE).read_text()
    broken = moved(ours[1], tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.bias"][0] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'embeddings\.LayerNorm.bias' holds a NaN"):
        average([ours[0], broken], out, (0.5, 0.5))
    assert (out / RECIPE_FILE).read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "out"]
