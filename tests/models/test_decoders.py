"""The decoders against the naive reference, in value and gradient, and their edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reference import decoding
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.decoders import BasicDecoder, CausalDecoder, CondenserHead, EnhancedDecoder
from retromae.models.layers import DecoderPositions, sinusoids
from tiny import FAMILIES

TinyFolder = Callable[[str], Path]
# One of each kind: plain, factorised, without a table, pre-norm.
KINDS = ["bert", "albert", "deberta-v2", "modernbert"]
BATCH, LENGTH = 2, 6


@pytest.fixture(scope="module", params=KINDS)
def backbone(request: pytest.FixtureRequest, tiny_folder: TinyFolder) -> Backbone:
    return Backbone.open(tiny_folder(request.param), dropout=0.0).double()


@pytest.fixture(scope="module")
def bert(tiny_folder: TinyFolder) -> Backbone:
    return Backbone.open(tiny_folder("bert"), dropout=0.0).double()


def _shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Double precision and no weight at its start value, so that every bias and norm counts."""
    generator = torch.Generator().manual_seed(5)
    module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return module


def _streams(backbone: Backbone) -> tuple[Tensor, Tensor, Tensor | None]:
    """h (B, d), e (B, L, d), p (L, d) as leaves that take a gradient."""
    generator = torch.Generator().manual_seed(7)
    size = backbone.hidden_size
    h = torch.randn(BATCH, size, generator=generator, dtype=torch.float64, requires_grad=True)
    e = torch.randn(BATCH, LENGTH, size, generator=generator, dtype=torch.float64, requires_grad=True)
    p = torch.randn(LENGTH, size, generator=generator, dtype=torch.float64, requires_grad=True)
    return h, e, p if backbone.has_positions else None


def _visible(seed: int = 1) -> Tensor:
    """As enhanced decoding draws it: half hidden, never itself, row 0 not position 0; one row is blind."""
    visible = torch.rand(BATCH, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed)) < 0.5
    visible[:, :, 0] = True
    visible &= ~torch.eye(LENGTH, dtype=torch.bool)
    visible[1, 0] = False
    return visible


def _check_equal(module: torch.nn.Module, leaves: list[Tensor], ours: Tensor, theirs: Tensor) -> None:
    """Values, and the gradients of an arbitrary scalar with respect to everything."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    wanted = [*leaves, *module.parameters()]
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * direction).sum(), wanted, allow_unused=True) for out in (ours, theirs)
    ]
    for mine, naive in zip(*gradients):
        assert mine is not None
        torch.testing.assert_close(
            mine, torch.zeros_like(mine) if naive is None else naive, rtol=1e-9, atol=1e-10
        )


def test_enhanced_decoding_follows_the_equations(backbone: Backbone) -> None:
    decoder = _shaken(EnhancedDecoder(backbone)).train()
    h, e, p = _streams(backbone)
    visible = _visible()
    table = p if p is not None else decoder.positions(LENGTH)
    theirs = torch.stack([decoding.enhanced(decoder, h[b], e[b], table, visible[b]) for b in range(BATCH)])
    _check_equal(decoder, [x for x in (h, e, p) if x is not None], decoder(h, e, p, visible), theirs)


def test_enhanced_decoding_with_the_context_normalised(bert: Backbone) -> None:
    decoder = _shaken(EnhancedDecoder(bert, embedding_norm="context"))
    norm = bert.embedding_norm
    h, e, p = _streams(bert)
    visible = _visible()
    theirs = torch.stack([decoding.enhanced(decoder, h[b], e[b], p, visible[b], norm) for b in range(BATCH)])
    ours = decoder(h, e, p, visible)
    _check_equal(decoder, [h, e, p, norm.weight, norm.bias], ours, theirs)
    assert not torch.allclose(ours, _same_weights(EnhancedDecoder(bert), decoder)(h, e, p, visible))


def _same_weights(new: torch.nn.Module, old: torch.nn.Module) -> torch.nn.Module:
    new.double().load_state_dict(
        old.state_dict()
    )  # also says that the borrowed norm is not among the weights
    return new


@pytest.mark.parametrize("layers", [1, 3])
def test_basic_decoding_follows_the_equations(backbone: Backbone, layers: int) -> None:
    decoder = _shaken(BasicDecoder(backbone, layers))
    h, e, p = _streams(backbone)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    table = p if p is not None else decoder.positions(LENGTH)
    theirs = torch.stack([decoding.basic(decoder, h[b], e[b], table, mask[b]) for b in range(BATCH)])
    _check_equal(decoder, [x for x in (h, e, p) if x is not None], decoder(h, e, p, mask), theirs)


@pytest.mark.parametrize("kind", ["enhanced", "basic", "condenser"])
def test_what_is_asked_for_is_what_the_whole_says_there(backbone: Backbone, kind: str) -> None:
    h, e, p = _streams(backbone)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    decoder, given = {
        "enhanced": lambda: (EnhancedDecoder(backbone), (h, e, p, _visible())),
        "basic": lambda: (BasicDecoder(backbone, 2), (h, e, p, mask)),
        "condenser": lambda: (CondenserHead(backbone), (h, e, mask)),
    }[kind]()
    decoder = _shaken(decoder)
    for asked in (torch.tensor([1, 4, 6, 9]), torch.tensor([], dtype=torch.int64)):
        some = decoder(*given, asked=asked)
        assert some.shape == (len(asked), backbone.hidden_size)
        leaves = [x for x in (h, e, p) if x is not None] if kind != "condenser" else [h, e]
        _check_equal(decoder, leaves, some, decoder(*given).flatten(0, 1)[asked])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_see_nothing_stay_finite(bert: Backbone, dtype: torch.dtype) -> None:
    decoder = EnhancedDecoder(bert).to(dtype)
    h, e, p = (x.detach().to(dtype).requires_grad_() for x in _streams(bert))
    visible = torch.zeros(BATCH, LENGTH, LENGTH, dtype=torch.bool)
    decoder(h, e, p, visible).float().square().sum().backward()
    for tensor in (h, e, p, *decoder.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert e.grad.count_nonzero() == 0  # what nobody sees has no say
    assert h.grad.count_nonzero() > 0  # but the query is still the sentence


@settings(max_examples=25, deadline=None)
@given(bits=st.lists(st.booleans(), min_size=LENGTH * LENGTH, max_size=LENGTH * LENGTH))
def test_hidden_positions_have_no_influence(bits: list[bool]) -> None:
    """Whatever the mask: a row changes with a context position if and only if it may see it."""
    torch.manual_seed(0)
    backbone = Backbone.from_scratch(1, 16, 2, 16, 40, LENGTH, 0.0)
    decoder = EnhancedDecoder(backbone)
    visible = torch.tensor(bits).view(1, LENGTH, LENGTH)
    before_mask = visible.clone()
    h, p = torch.randn(1, 16), torch.randn(LENGTH, 16)
    e = torch.randn(1, LENGTH, 16, requires_grad=True)
    out = decoder(h, e, p, visible)
    assert torch.equal(visible, before_mask)
    for i in range(LENGTH):
        (touched,) = torch.autograd.grad(out[0, i].square().sum() * 100, e, retain_graph=True)
        depends = touched[0].abs().sum(-1) > 0
        expected = visible[0, i].clone()
        expected[0] = False  # position 0 of the context is the sentence
        assert torch.equal(depends, expected)


def test_dropout_is_on_in_training_only(tiny_folder: TinyFolder) -> None:
    backbone = Backbone.open(tiny_folder("bert"), dropout=0.5)
    decoder = EnhancedDecoder(backbone)
    h, e, p = (x.detach().float() for x in _streams(backbone))
    first, second = decoder.train()(h, e, p, _visible()), decoder(h, e, p, _visible())
    assert not torch.equal(first, second)
    first, second = decoder.eval()(h, e, p, _visible()), decoder(h, e, p, _visible())
    assert torch.equal(first, second)


def test_attention_weights_are_dropped_too(tiny_folder: TinyFolder) -> None:
    backbone = Backbone.open(tiny_folder("bert"), dropout=0.5)
    layer = EnhancedDecoder(backbone).train().layer
    layer.dropout.p = 0.0
    x = torch.randn(1, LENGTH, 32)
    visible = torch.ones(1, LENGTH, LENGTH, dtype=torch.bool)
    assert not torch.equal(layer(x, x, visible), layer(x, x, visible))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_both_decoders(family: str, tiny_folder: TinyFolder) -> None:
    backbone = Backbone.open(tiny_folder(family))
    ids = torch.randint(5, 150, (BATCH, LENGTH))
    mask = torch.ones_like(ids)
    hidden = backbone.encode(ids, mask)[:, 0]
    e, p = backbone.token_embeddings(ids), backbone.position_embeddings(LENGTH)
    for decoder, seen in ((EnhancedDecoder(backbone), _visible()), (BasicDecoder(backbone, 2), mask)):
        out = decoder(hidden, e, p, seen)
        assert out.shape == (BATCH, LENGTH, backbone.hidden_size)
        backbone.zero_grad()
        backbone.head_transform(out).square().sum().backward(retain_graph=True)
        assert all(weight.grad is not None for weight in decoder.parameters())
        assert (decoder.positions is None) == backbone.has_positions


def test_own_positions_start_as_sinusoids_of_the_words_scale(tiny_folder: TinyFolder) -> None:
    backbone = Backbone.open(tiny_folder("modernbert"))
    table = DecoderPositions(backbone)
    words = backbone.token_embeddings(torch.arange(backbone.vocab_size))
    assert table.weight.shape == (backbone.max_length, backbone.hidden_size)
    assert table.weight.square().mean().sqrt().item() == pytest.approx(
        words.square().mean().sqrt().item(), rel=0.02
    )
    assert torch.unique(table.weight.detach(), dim=0).shape == table.weight.shape
    assert table.weight.requires_grad
    with pytest.raises(UserError, match="positions"):
        table(backbone.max_length + 1)


def test_sinusoids() -> None:
    table = sinusoids(3, 4)
    expected = [[math.sin(t), math.sin(t / 100), math.cos(t), math.cos(t / 100)] for t in range(3)]
    torch.testing.assert_close(table, torch.tensor(expected))


def test_fresh_weights_have_the_backbones_scale(tiny_folder: TinyFolder) -> None:
    backbone = Backbone.from_scratch(1, 128, 4, 256, 50, 16, initializer_range=0.05)
    layer = EnhancedDecoder(backbone).layer
    for part in (layer.query, layer.key, layer.value, layer.output, layer.mlp.inner, layer.mlp.outer):
        assert part.weight.std().item() == pytest.approx(0.05, rel=0.05)
        assert part.bias.count_nonzero() == 0


def test_choices_that_do_not_exist_are_refused(bert: Backbone, tiny_folder: TinyFolder) -> None:
    with pytest.raises(UserError, match="1 to 3"):
        BasicDecoder(bert, 4)
    with pytest.raises(UserError, match="embedding_norm"):
        EnhancedDecoder(bert, embedding_norm="both")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="albert"):
        EnhancedDecoder(Backbone.open(tiny_folder("albert")), embedding_norm="context")


@pytest.mark.parametrize(("layers", "span"), [(3, 2), (1, 1), (2, None)])
def test_a_causal_decoder_reads_the_sentence_and_the_last_tokens(
    backbone: Backbone, layers: int, span: int | None
) -> None:
    """What predicts token t has read t − 1 and before it as many tokens as the spans of its layers reach."""
    decoder = _shaken(CausalDecoder(backbone, layers, span))
    h, e, p = _streams(backbone)
    decoded = decoder(h, e, p)
    reach = LENGTH if span is None else 1 + layers * (span - 1)
    for t in range(1, LENGTH):
        to_sentence, to_tokens = torch.autograd.grad(decoded[0, t].sum(), [h, e], retain_graph=True)
        assert to_sentence[0].any() and not to_sentence[1].any()
        read = to_tokens[0].any(dim=-1).nonzero()[:, 0].tolist()
        assert read == list(range(max(0, t - reach), t))


def test_the_condenser_head_reads_the_late_sentence_and_the_early_tokens(backbone: Backbone) -> None:
    head = _shaken(CondenserHead(backbone))
    h, e, _ = _streams(backbone)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, 4:] = 0
    to_sentence, to_tokens = torch.autograd.grad(head(h, e, mask)[0, 2].sum(), [h, e])
    assert to_sentence[0].any()
    assert to_tokens[0].any(dim=-1).tolist() == [False, True, True, True, False, False]


def test_decoders_of_no_layers_or_no_span_are_refused(bert: Backbone) -> None:
    for wrong in (lambda: CondenserHead(bert, 0), lambda: CausalDecoder(bert, 0)):
        with pytest.raises(UserError, match="at least one layer, not 0"):
            wrong()
    with pytest.raises(UserError, match="at least one token, not 0"):
        CausalDecoder(bert, 3, 0)
