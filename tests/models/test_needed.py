"""The last layer only where it is read: as the whole pass there, in value and gradient, and nothing stays behind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from retromae.models import flops
from retromae.models.backbone import Backbone
from retromae.models.loading import Loaded
from tiny import FAMILIES, family_tokenizer, random_model, tiny_config

TinyFolder = Callable[[str], Path]
ROWS, LENGTH = 3, 12
WITHOUT = {"albert"}  # its last layer is also all the others


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(family: str, tiny_folder: TinyFolder) -> Backbone:
    """In training mode, without dropout; tests that change it take a copy."""
    return Backbone.open(tiny_folder(family), dropout=0.0).double().train()


@pytest.fixture(scope="module")
def bert(tiny_folder: TinyFolder) -> Backbone:
    return Backbone.open(tiny_folder("bert"), dropout=0.0).double().train()


def rows(seed: int = 0, length: int = LENGTH) -> dict[str, Tensor]:
    """Made-up rows, the second of them short."""
    ids = torch.randint(5, 100, (ROWS, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {"token_ids": ids, "attention_mask": mask}


def some(share: float, seed: int = 0) -> Tensor:
    return torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(seed)) < share


def only_first() -> Tensor:
    return torch.arange(LENGTH).expand(ROWS, -1) == 0


NEEDED = {
    "some": some(0.3),
    "first": only_first(),
    "most": some(0.95, seed=4),
    "one": torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) == 17,
    "all": torch.ones(ROWS, LENGTH, dtype=torch.bool),
    "none": torch.zeros(ROWS, LENGTH, dtype=torch.bool),
}


def loss_of(hidden: Tensor, needed: Tensor, seed: int = 0) -> Tensor:
    """A sum over the needed positions in which every value counts for itself."""
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (hidden * weights).square()[needed].sum()


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    backbone.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def operations(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def hooks_of(backbone: Backbone) -> int:
    """And modules with a pass of their own. transformers leaves hooks behind, once it was asked for all layers."""
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + ("forward" in vars(part))
        for part in backbone.modules()
    )


@pytest.mark.parametrize("kind", NEEDED)
def test_needed_positions_are_those_of_the_whole_pass(kind: str, backbone: Backbone, family: str) -> None:
    needed = NEEDED[kind]
    whole = backbone.encode(**rows())
    got = backbone.encode(**rows(), needed=needed)
    torch.testing.assert_close(got[needed], whole[needed])
    assert got.shape == whole.shape
    if family not in {*WITHOUT, "modernbert"} and kind != "all":
        assert not got[~needed].any()
    mine = gradients(backbone, loss_of(got, needed))
    assert_same(mine, gradients(backbone, loss_of(whole, needed)))


@pytest.mark.parametrize("kind", ["some", "none"])
def test_what_is_left_out_is_what_the_count_says(kind: str, backbone: Backbone, family: str) -> None:
    needed = NEEDED[kind]
    number = int(needed.sum())
    saved = operations(lambda: backbone.encode(**rows()))
    saved -= operations(lambda: backbone.encode(**rows(), needed=needed))
    counted = flops.encoder(backbone, ROWS, LENGTH) - flops.encoder(backbone, ROWS, LENGTH, number)
    assert saved == counted
    assert (saved > 0) == backbone.last.leaves_out == (family not in WITHOUT)


def test_a_plain_pass_knows_nothing_of_it(backbone: Backbone) -> None:
    state, before = list(backbone.state_dict()), backbone.encode(**rows())
    layers = backbone.encode(**rows(), needed=NEEDED["some"], all_layers=True)
    assert torch.equal(layers[-1], before)
    hooks = hooks_of(backbone)
    backbone.encode(**rows(), needed=NEEDED["some"])
    assert torch.equal(backbone.encode(**rows()), before)
    assert hooks_of(backbone) == hooks and list(backbone.state_dict()) == state


def test_several_passes_before_going_back(backbone: Backbone) -> None:
    """Of other rows, other lengths and other positions; as in gradient accumulation and gradient caching."""

    def losses(leave_out: bool) -> Tensor:
        a, b = some(0.4, seed=1), some(0.2, seed=2)
        first = backbone.encode(**rows(1), needed=a if leave_out else None)
        second = backbone.encode(**rows(2), needed=b if leave_out else None)
        third = backbone.encode(**rows(3, length=7))
        plain = torch.ones(ROWS, 7, dtype=torch.bool)
        return loss_of(second, b, 2) + loss_of(first, a, 1) + loss_of(third, plain, 3)

    assert_same(gradients(backbone, losses(True)), gradients(backbone, losses(False)))


def test_dropout_falls_as_in_the_whole_pass(family: str, tiny_folder: TinyFolder) -> None:
    """Also behind it, where a decoder goes on drawing; and in both passes of which only one leaves something out."""
    model, needed = Backbone.open(tiny_folder(family), dropout=0.3).double().train(), NEEDED["some"]
    found, behind = [], []
    for given_needed in (needed, None):
        torch.manual_seed(7)
        hidden = model.encode(**rows(), needed=given_needed)
        behind.append(torch.rand(()))
        found.append({"hidden": hidden[needed], **gradients(model, loss_of(hidden, needed))})
    assert_same(*found)
    assert behind[0] == behind[1]
    assert not torch.allclose(model.encode(**rows(), needed=needed)[needed], found[0]["hidden"])


def test_gradient_checkpointing_computes_all(backbone: Backbone) -> None:
    if not backbone.model.supports_gradient_checkpointing:
        pytest.skip("transformers has no gradient checkpointing for it")
    model, needed = copy.deepcopy(backbone), NEEDED["some"]
    expected = gradients(model, loss_of(model.encode(**rows(), needed=needed), needed))
    whole = model.encode(**rows())
    model.gradient_checkpointing()
    hidden = model.encode(**rows(), needed=needed)
    torch.testing.assert_close(hidden, whole)
    model.encode(**rows(5), needed=NEEDED["first"])
    assert_same(gradients(model, loss_of(hidden, needed)), expected)
    model.gradient_checkpointing(False)
    torch.testing.assert_close(model.encode(**rows(), needed=needed)[needed], whole[needed])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=ROWS * LENGTH, max_size=ROWS * LENGTH), st.integers(0, 3))
def test_any_positions_can_be_needed(bert: Backbone, flags: list[bool], seed: int) -> None:
    needed = torch.tensor(flags).view(ROWS, LENGTH)
    whole, got = bert.encode(**rows(seed)), bert.encode(**rows(seed), needed=needed)
    torch.testing.assert_close(got, whole * needed[..., None])


def test_an_error_on_the_way_leaves_nothing_behind(tiny_folder: TinyFolder) -> None:
    model = Backbone.open(tiny_folder("bert"), dropout=0.3)
    before, hooks = model.eval().encode(**rows()), hooks_of(model)

    def fail(*_: object) -> None:
        raise RuntimeError("stopped")

    with (
        model.base.encoder.layer[-1].output.register_forward_hook(fail),
        pytest.raises(RuntimeError, match="stopped"),
    ):
        model.train().encode(**rows(), needed=NEEDED["some"])
    assert hooks_of(model) == hooks
    assert torch.equal(model.eval().encode(**rows()), before)


def test_copies_are_whole(family: str, tiny_folder: TinyFolder) -> None:
    """Of a model whose last pass left something out, and which a graph still remembers."""
    model, needed = Backbone.open(tiny_folder(family), dropout=0.0).eval(), NEEDED["some"]
    hidden = model.encode(**rows(), needed=needed)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.encode(**rows()), model.encode(**rows()))
        assert torch.equal(other.encode(**rows(), needed=needed), hidden)


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_in_half_precision(name: str, tiny_folder: TinyFolder) -> None:
    model, needed = Backbone.open(tiny_folder(name), dropout=0.0).train(), NEEDED["some"]
    found = []
    for given_needed in (needed, None):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.encode(**rows(), needed=given_needed)
        found.append((hidden, gradients(model, loss_of(hidden.double(), needed))))
    (got, mine), (whole, theirs) = found
    assert got.dtype == whole.dtype
    torch.testing.assert_close(got[needed], whole[needed], rtol=0.02, atol=0.02)
    assert mine.keys() == theirs.keys()
    for parameter, gradient in theirs.items():
        error = (mine[parameter] - gradient).norm()
        assert error <= 0.05 * gradient.norm() + 1e-3, parameter


def test_an_mlp_in_chunks_sees_all_positions() -> None:
    tokenizer = family_tokenizer("bert")
    config = tiny_config("bert", len(tokenizer), tokenizer.pad_token_id, chunk_size_feed_forward=4)
    model = Backbone(Loaded(random_model(config), [], [])).eval()
    assert not model.last.leaves_out
    assert torch.equal(model.encode(**rows(), needed=NEEDED["some"]), model.encode(**rows()))


def test_a_model_of_one_layer_with_a_convolution() -> None:
    """DeBERTa's stands behind its first layer, which here is also the last."""
    tokenizer = family_tokenizer("deberta-v2")
    more = {"num_hidden_layers": 1, "conv_kernel_size": 3, "conv_act": "gelu"}
    config = tiny_config("deberta-v2", len(tokenizer), tokenizer.pad_token_id, **more)
    model, needed = Backbone(Loaded(random_model(config), [], [])).eval(), NEEDED["some"]
    torch.testing.assert_close(model.encode(**rows(), needed=needed)[needed], model.encode(**rows())[needed])


def test_the_first_tokens_state(backbone: Backbone) -> None:
    torch.testing.assert_close(backbone.encode_first(**rows()), backbone.encode(**rows())[:, 0])


def test_it_can_be_turned_off(bert: Backbone) -> None:
    model = copy.deepcopy(bert)
    model.last.leaves_out = False
    assert torch.equal(model.encode(**rows(), needed=NEEDED["some"]), model.encode(**rows()))
    assert flops.encoder(model, ROWS, LENGTH, 0.0) == flops.encoder(model, ROWS, LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_it_is_all_positions_always(checkpointing: bool, bert: Backbone) -> None:
    """Whatever is needed, whatever is computed beside it, and where transformers breaks the graph."""
    from torch._dynamo.testing import CompileCounter

    model, graphs, batch = copy.deepcopy(bert), CompileCounter(), rows()
    model.gradient_checkpointing(checkpointing)
    compiled = torch.compile(
        lambda needed: model.encode(**batch, needed=needed), backend=graphs, fullgraph=not checkpointing
    )
    whole = model.encode(**batch)
    made = []
    for kind in NEEDED:
        torch.testing.assert_close(compiled(NEEDED[kind]), whole)
        model.encode(**batch, needed=NEEDED[kind])
        made.append(graphs.frame_count)
    assert made[0] == made[-1] > 0


def test_flags_and_places_say_the_same_and_no_mask_means_no_padding(backbone: Backbone) -> None:
    batch = {"token_ids": rows()["token_ids"], "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.int64)}
    needed = NEEDED["some"]
    flagged = backbone.encode(**batch, needed=needed)
    placed = backbone.encode(batch["token_ids"], None, needed=needed.flatten().nonzero()[:, 0])
    torch.testing.assert_close(placed[needed], flagged[needed])
