"""Every objective equals its equations in value and gradient, on backbones that differ in all that matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reference import objectives as foundation
from reference.objectives import Passage, Setting
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.objectives import Batch, Objective, Vocabulary, available, load
from retromae.objectives.contrast import Contrastive, over_the_step

# token ids 0 to 4 are special in every tiny tokenizer; every third id continues a word
WORDS = 100


def make(folder: Path, name: str, seed: int = 3, **settings: Any) -> Objective:
    torch.manual_seed(0)
    return build(folder, name, seed, **settings)


def build(folder: Path, name: str, seed: int = 3, **settings: Any) -> Objective:
    backbone = Backbone.open(folder, dropout=0.0)
    ordinary = torch.zeros(backbone.vocab_size, dtype=torch.bool)
    ordinary[5:WORDS] = True
    starts = torch.arange(backbone.vocab_size) % 3 != 0
    cls = load(name)
    objective = cls(backbone, cls.Config(**settings), Vocabulary(4, starts, ordinary), seed)
    return objective.eval()


PASSAGES = [
    Passage([2, 5, 6, 7, 8, 9, 9, 40, 41, 42, 43, 3], row=17, epoch=0),
    Passage([2, 60, 61, 62, 63, 3], row=4, epoch=0),
    Passage([2, 33, 3], row=90, epoch=0),  # a row of one word
    Passage([2, 11, 1, 12, 13, 14, 15, 16, 17, 18, 3], row=5, epoch=2),  # an unknown word inside
]


def batch_of(passages: list[Passage], padding: int, *, extra: int = 0, progress: float = 1.0) -> Batch:
    length = max(len(p.ids) for p in passages) + extra
    ids = torch.full((len(passages), length), padding)
    mask = torch.zeros_like(ids)
    for b, p in enumerate(passages):
        ids[b, : len(p.ids)] = torch.tensor(p.ids)
        mask[b, : len(p.ids)] = 1
    rows = torch.tensor([p.row for p in passages])
    epochs = torch.tensor([p.epoch for p in passages])
    return Batch(ids, mask, rows, epochs, progress)


def pad_id(objective: Objective) -> int:
    return int(getattr(objective.backbone.config, "pad_token_id", 0) or 0)


def setting_of(objective: Objective) -> Setting:
    return Setting(objective, objective.word_starts.tolist(), objective.ordinary.tolist(), objective.mask_id)


def gradients(loss: Tensor, objective: Objective) -> dict[str, Tensor]:
    objective.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("mlm", {"encoder_mlm_probability": 0.4}),
    ("retromae", {}),
    ("retromae", {"decoder_embedding_norm": "context", "decoder_mlm_probability": 0.9}),
    ("retromae", {"decoder": "basic"}),
    ("retromae", {"decoder": "basic", "decoder_layers": 3, "decoder_mlm_probability": 0.7}),
    ("retromae", {"decoded_share": 0.4}),
    ("retromae", {"decoder": "basic", "decoded_share": 0.5}),
    ("samplemae", {}),
    ("dupmae", {}),
    ("dupmae", {"bow_per_token": True, "bow_weight": 2.0}),
    ("condenser", {"encoder_mlm_probability": 0.4}),
    ("condenser", {"encoder_mlm_probability": 0.4, "head_layers": 1, "early_layers": 0}),
    ("seed", {"encoder_mlm_probability": 0.4}),
    ("seed", {"encoder_mlm_probability": 0.4, "decoder_layers": 1, "decoder_span": 3}),
    ("tsdae", {}),
    ("tsdae", {"deletion_ratio": 0.2, "decoder_layers": 1}),
    ("cocondenser", {"encoder_mlm_probability": 0.4}),
    ("cocondenser", {"encoder_mlm_probability": 0.4, "contrast_weight": 0.3, "temperature": 2.0}),
    ("simcse", {}),
    ("simcse", {"mlm_weight": 0.1, "encoder_mlm_probability": 0.4}),
    ("diffcse", {"rtd_weight": 1.0}),
    ("diffcse", {"replaced_probability": 0.8, "mlm_weight": 0.1}),
    ("laprador", {}),
    ("laprador", {"query_words": 2, "removed_probability": 0.4, "dropout_weight": 0.5}),
]


def reference(name: str) -> Callable[[Setting, list[Passage]], Tensor]:
    """The naive form of objective `name`: a function of that name in `reference.objectives` or `reference.NAME`."""
    found = getattr(foundation, name, None) or getattr(import_module(f"reference.{name}"), name)
    return found  # type: ignore[no-any-return]


BACKBONES = ["bert", "roberta", "deberta-v2", "albert", "modernbert", "distilbert"]


def test_every_objective_has_a_case_and_a_reference() -> None:
    assert {name for name, _ in CASES} == set(available())
    assert all(callable(reference(name)) for name in available())


def every_pair() -> list[Any]:
    """All cases on all backbones; slow are further settings of an objective on backbones other than the first."""
    firsts = dict(reversed(CASES))
    return [
        pytest.param(family, name, settings, id=f"{family}-{name}-{settings}", marks=marks)
        for family in BACKBONES
        for name, settings in CASES
        for marks in [[] if family == BACKBONES[0] or settings is firsts[name] else [pytest.mark.slow]]
    ]


@pytest.mark.parametrize(("family", "name", "settings"), every_pair())
def test_equal_to_the_equations(
    family: str, name: str, settings: dict[str, Any], tiny_folder: Callable[[str], Path]
) -> None:
    if family == "albert" and settings.get("decoder_embedding_norm") == "context":
        pytest.skip("ALBERT normalises its embeddings before projecting them; refused, see test_decoders")
    objective = make(tiny_folder(family), name, **settings).double()
    got = objective(batch_of(PASSAGES, pad_id(objective), extra=3))["loss"]
    expected = reference(name)(setting_of(objective), PASSAGES)
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=1e-5, atol=1e-6)

    mine, theirs = gradients(got, objective), gradients(expected, objective)
    assert mine.keys() == theirs.keys()
    for parameter, gradient in theirs.items():
        torch.testing.assert_close(
            mine[parameter],
            gradient,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m, parameter=parameter: f"{parameter}: {m}",
        )


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_nothing_is_read_that_the_last_layer_left_out(
    family: str, name: str, settings: dict[str, Any], tiny_folder: Callable[[str], Path]
) -> None:
    objective = make(tiny_folder(family), name, **settings).double()
    batch = batch_of(PASSAGES, pad_id(objective), extra=3)
    found = []
    for leaves_out in (True, False):
        for module in objective.modules():
            if isinstance(module, Backbone):
                module.last.leaves_out = leaves_out
        output = objective(batch)
        found.append(({**output}, objective.measure(batch), gradients(output["loss"], objective)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", available())
def test_parts_add_up_over_micro_batches(name: str, tiny_folder: Callable[[str], Path]) -> None:
    """Cut differently, a step has the same loss and the same parts."""
    objective = make(tiny_folder("bert"), name)
    whole = objective(batch_of(PASSAGES, 0))
    pieces = [batch_of(PASSAGES[:1], 0), batch_of(PASSAGES[1:3], 0, extra=4), batch_of(PASSAGES[3:], 0)]
    drawn = [objective.draw(piece) for piece in pieces]
    if isinstance(objective, Contrastive):
        over_the_step(objective, list(zip(pieces, drawn)))
    totals = {part: sum(d.counts[part] for d in drawn) for part in drawn[0].counts}
    outputs = [objective(piece, d, totals) for piece, d in zip(pieces, drawn)]
    for part, value in whole.items():
        torch.testing.assert_close(sum(output[part] for output in outputs), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", available())
def test_heads_are_the_parts_besides_the_backbone(name: str, tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("modernbert"), name)
    heads = {id(p) for module in objective.heads().values() for p in module.parameters()}
    backbone = {id(p) for p in objective.backbone.parameters()}
    assert not heads & backbone
    assert {id(p) for p in objective.parameters()} == heads | backbone


@pytest.mark.parametrize("name", available())
def test_a_row_alone_has_the_same_measures(name: str, tiny_folder: Callable[[str], Path]) -> None:
    """Processes add them up by name; what needs another row counts nothing."""
    objective = make(tiny_folder("bert"), name)
    alone, among = (objective.measure(batch_of(PASSAGES[:rows], 0)) for rows in (1, 3))
    assert alone.keys() == among.keys()
    for figure in {"cls_use", "row_cosine"} & alone.keys():
        value, items = alone[figure]
        assert items == 0 and abs(value.item()) < 1e-5


@pytest.mark.parametrize("name", available())
def test_measures_are_sums_over_rows(name: str, tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), name)
    measures = objective.measure(batch_of(PASSAGES, 0))
    output = objective(batch_of(PASSAGES, 0))
    for part, value in output.items():
        if part != "loss":
            total, items = measures[f"{part}_loss"]
            torch.testing.assert_close(total / items, value, rtol=1e-4, atol=1e-5)
    for total, items in measures.values():
        assert torch.isfinite(total) and items > 0


def test_the_same_row_is_masked_alike_in_any_batch(tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), "retromae")
    alone = objective.draw(batch_of(PASSAGES[:1], 0)).tensors["token_ids"][0]
    among = objective.draw(batch_of(PASSAGES[::-1], 0, extra=5)).tensors["token_ids"][3]
    assert torch.equal(alone, among[: len(alone)])
    seen_alone = objective.visible(batch_of(PASSAGES[:1], 0))[0]  # type: ignore[operator]
    seen_among = objective.visible(batch_of(PASSAGES[::-1], 0, extra=5))[3]  # type: ignore[operator]
    assert torch.equal(seen_alone, seen_among[: len(alone), : len(alone)])


def test_masking_is_80_10_10_on_whole_ordinary_words(tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), "mlm", encoder_mlm_probability=0.3)
    generator = torch.Generator().manual_seed(0)
    passages = [
        Passage([2, *torch.randint(5, WORDS, (60,), generator=generator).tolist(), 1, 3], row=r, epoch=0)
        for r in range(400)
    ]
    batch = batch_of(passages, 0, extra=2)
    masked, labelled = objective.mask_words(batch, 0.3)
    words = objective.words(batch)
    assert not labelled[~objective.is_ordinary(batch)].any()
    assert torch.equal(masked[~labelled], batch.token_ids[~labelled])
    for b in range(20):  # a word is masked whole or not at all
        for word in range(int(words[b].max()) + 1):
            assert len(set(labelled[b][words[b] == word].tolist())) == 1
    n = labelled.sum().item()
    became_mask = (masked[labelled] == 4).float().mean().item()
    stayed = (masked[labelled] == batch.token_ids[labelled]).float().mean().item()
    assert abs(became_mask - 0.8) < 4 * (0.16 / n) ** 0.5
    assert abs(stayed - 0.1 - 0.1 / (WORDS - 5)) < 4 * (0.09 / n) ** 0.5
    others = masked[labelled & (masked != 4)]
    assert objective.ordinary[others].all()


def test_the_visible_matrix_follows_equation_7(tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), "retromae", decoder_mlm_probability=0.7)
    passages = [Passage([2, *range(5, 55), 3], row=r, epoch=1) for r in range(50)]
    seen = objective.visible(batch_of(passages, 0, extra=4))  # type: ignore[operator]
    assert not seen.diagonal(dim1=1, dim2=2).any()
    assert seen[:, 1:, 0].all() and not seen[:, 0, 0].any()
    assert not seen[:, :, 52:].any()  # padding
    inner = seen[:, 1:52, 1:52].float()
    share = inner.sum() / (50 * 51 * 50)
    assert abs(share.item() - 0.3) < 0.01
    assert (inner.sum(2).var() > 1).item()  # a fresh sample for every row, not one for all


def test_hide_schedule_falls_from_everything_to_the_target(tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), "retromae", hide_schedule=0.4)
    shares = [objective.hidden_share(progress) for progress in (0.0, 0.2, 0.4, 1.0)]  # type: ignore[operator]
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.5])
    blind = objective.visible(batch_of(PASSAGES, 0, progress=0.0))  # type: ignore[operator]
    assert not blind[:, :, 1:].any() and blind[:, 1:, 0].all()
    assert torch.isfinite(objective(batch_of(PASSAGES, 0, progress=0.0))["loss"])


@pytest.mark.parametrize("name", available())
def test_rows_without_any_word_are_harmless(name: str, tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), name)
    for ids in ([2, 1, 3], [2, 3]):
        empty = Passage(ids, row=1, epoch=0)
        alone = objective(batch_of([empty], 0))["loss"]
        found = gradients(alone, objective)
        assert torch.isfinite(alone)
        assert all(torch.isfinite(gradient).all() for gradient in found.values())
        both = objective(batch_of([empty, *PASSAGES], 0))["loss"]
        torch.testing.assert_close(both, objective(batch_of(PASSAGES, 0))["loss"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", available())
def test_every_parameter_that_learns_gets_a_gradient(name: str, tiny_folder: Callable[[str], Path]) -> None:
    """Or processes that average their gradients would wait for it."""
    objective = make(tiny_folder("modernbert"), name)
    found = gradients(objective(batch_of(PASSAGES, 1))["loss"], objective)
    resting = objective.resting() if isinstance(objective, Contrastive) else []
    learning = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    assert found.keys() == learning.keys() - {n for n, p in learning.items() for r in resting if r is p}


@pytest.mark.parametrize("name", available())
def test_saved_loaded_and_continued(name: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The folder's weights and the heads are all that there is: what is trained on from them is the same."""
    first = make(tiny_folder("bert"), name)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    first.backbone.model.save_pretrained(tmp_path)
    save_file(first.head_tensors(), tmp_path / "heads.safetensors")

    torch.manual_seed(99)  # fresh heads are other ones
    again = build(tmp_path, name)
    kept = load_file(tmp_path / "heads.safetensors")
    assert again.take_heads(kept)
    batch = batch_of(PASSAGES, 0)
    assert torch.equal(again(batch)["loss"], first(batch)["loss"])
    for objective in (first, again):
        optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
        objective(batch)["loss"].backward()
        optimiser.step()
    assert torch.equal(again(batch)["loss"], first(batch)["loss"])


@pytest.mark.parametrize("name", [name for name in available() if name != "mlm"])
def test_heads_that_do_not_fit_are_left_alone(name: str, tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), name)
    if not objective.heads():
        pytest.skip(f"{name} has no parts besides the backbone")
    before = {key: tensor.clone() for key, tensor in objective.head_tensors().items()}
    others = {key: torch.ones_like(tensor) for key, tensor in before.items()}
    largest = max(others, key=lambda key: others[key].numel())
    for wrong in (
        {key: tensor for key, tensor in others.items() if key != largest},
        {**others, largest: others[largest][:-1]},
    ):
        assert not objective.take_heads(wrong)
        assert all(torch.equal(tensor, before[key]) for key, tensor in objective.head_tensors().items())


def test_deleted_tokens_leave_a_shorter_row(tiny_folder: Callable[[str], Path]) -> None:
    objective: Any = make(tiny_folder("bert"), "tsdae")
    passages = [Passage([2, *range(5, 5 + n), 3], row=n, epoch=1) for n in range(90)]
    ids, mask = objective.delete_tokens(batch_of(passages, 0, extra=3))
    assert ids.shape == mask.shape == (90, objective.kept_length(94)) and ids.shape[1] < 42
    for n, (row, length) in enumerate(zip(ids.tolist(), mask.sum(dim=1).tolist())):
        assert row[0] == 2 and row[length - 1] == 3
        inner = row[1 : length - 1]
        assert inner == sorted(set(inner)) and set(inner) <= set(range(5, 5 + n))
        assert len(inner) in ({min(n, 1)} if 0.4 * n < 1 else {int(0.4 * n), int(0.4 * n) + 1})
    shares = torch.stack([torch.isin(torch.arange(5, 65), row).float() for row in ids[60:]]).mean(dim=0)
    assert shares.min() > 0.15 and shares.max() < 0.85  # any position may stay, and any may go
    with pytest.raises(UserError, match="deletion_ratio is 1"):
        make(tiny_folder("bert"), "tsdae", deletion_ratio=1.0)


def test_the_condenser_head_reads_a_layer_that_is_there(tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="early_layers is 2, but this encoder has 2 layers; choose 0 to 1"):
        make(tiny_folder("bert"), "condenser", early_layers=2)


def test_cls_use_is_the_price_of_a_wrong_sentence_vector(tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), "retromae")
    constant = [Passage(PASSAGES[0].ids, row=1, epoch=0)] * 3  # the same row thrice: nothing to confuse
    total, _ = objective.measure(batch_of(constant, 0))["cls_use"]
    assert abs(total.item()) < 1e-3
    total, _ = objective.measure(batch_of(PASSAGES, 0))["cls_use"]
    assert abs(total.item()) > 1e-3


def test_enhanced_decoding_has_one_layer(tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="one layer by design"):
        make(tiny_folder("bert"), "retromae", decoder_layers=2)


def test_an_unknown_objective_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=f"known are {', '.join(available())}"):
        load("retromea")


def test_an_objective_may_live_in_a_file_of_its_own(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    own = tmp_path / "half.py"
    own.write_text(
        "from dataclasses import dataclass\n"
        "from retromae.objectives import mlm\n"
        "@dataclass\n"
        "class HalfConfig(mlm.MLMConfig):\n"
        "    factor: float = 0.5\n"
        "class Half(mlm.MaskedLanguageModel):\n"
        "    Config = HalfConfig\n"
        "    def forward(self, batch, drawn=None, totals=None):\n"
        "        parts = super().forward(batch, drawn, totals)\n"
        "        return {**parts, 'loss': parts['loss'] * self.settings.factor}\n"
    )
    half = make(tiny_folder("bert"), str(own))(batch_of(PASSAGES, 0))["loss"]
    whole = make(tiny_folder("bert"), "mlm")(batch_of(PASSAGES, 0))["loss"]
    torch.testing.assert_close(half, whole * 0.5)


@pytest.mark.parametrize("name", available())
def test_what_a_compiler_is_given_computes_the_same(name: str, tiny_folder: Callable[[str], Path]) -> None:
    """As plain torch here; slow tests and those of a GPU compile it."""
    plain, ready = make(tiny_folder("bert"), name), make(tiny_folder("bert"), name)
    ready.compile_parts()
    batch = batch_of(PASSAGES, pad_id(plain))
    with torch.compiler.set_stance("force_eager"):
        expected, got = plain(batch), ready(batch, ready.draw_ahead(batch))
        for part, value in expected.items():
            torch.testing.assert_close(got[part], value, rtol=1e-5, atol=1e-6)
        wanted = gradients(expected["loss"], plain)
        for parameter, gradient in gradients(got["loss"], ready).items():
            torch.testing.assert_close(gradient, wanted[parameter], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", available())
def test_a_batch_without_padding_may_say_so(name: str, tiny_folder: Callable[[str], Path]) -> None:
    objective = make(tiny_folder("bert"), name)
    batch = batch_of([PASSAGES[0], replace(PASSAGES[0], row=5)], pad_id(objective))
    assert batch.mask is batch.attention_mask and replace(batch, full=True).mask is None
    expected = objective(batch)
    for part, value in objective(replace(batch, full=True)).items():
        torch.testing.assert_close(value, expected[part], rtol=1e-5, atol=1e-6)
