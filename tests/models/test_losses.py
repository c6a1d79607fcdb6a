"""The chunked losses: equal to plain logits and to the equations, in value and gradient; memory bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reference import vocabulary as reference
from retromae.models import losses
from retromae.models.bag_of_words import bag_of_words, max_pooled_logits
from retromae.models.losses import native_available, vocabulary_cross_entropy, vocabulary_scores

BACKENDS = [
    "chunked",
    "fused",
    pytest.param("native", marks=pytest.mark.skipif(not native_available(), reason="torch < 2.13")),
]


@pytest.fixture(autouse=True, scope="module")
def uncompiled() -> Iterator[None]:
    """What a GPU would have compiled runs as plain torch; tests that compile are slow and say so."""
    with torch.compiler.set_stance("force_eager"):
        yield


def head(
    n: int, width: int, words: int, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    torch.manual_seed(n + width + words)
    tensors = [torch.randn(n, width, dtype=dtype), torch.randn(words, width, dtype=dtype)]
    if bias:
        tensors.append(torch.randn(words, dtype=dtype))
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [[7], [5, 9], [0, 4], [3, 0]])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_cross_entropy_equals_the_reference(
    backend: Any, bias: bool, sizes: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "FUSED_LOGITS", 64 * chunk)  # a chunk of its own there, of 64 rows or more
    n = sum(sizes)
    inputs = head(n, 6, 11, bias=bias, dtype=torch.float32)
    scales = torch.tensor([0.7, 0.2][: len(sizes)])
    targets = torch.randint(11, (n,), generator=torch.Generator().manual_seed(0))
    loss, sums = vocabulary_cross_entropy(
        inputs[0],
        inputs[1],
        inputs[2] if bias else None,
        targets,
        sizes,
        scales,
        chunk=chunk,
        backend=backend,
    )
    (loss * 3.0).backward()  # a factor from outside, as a scaler or a number of processes gives

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    rows = [
        reference.cross_entropy(exact[0][i], exact[1], exact[2] if bias else None, int(targets[i]))
        for i in range(n)
    ]
    parts = [sum(rows[sum(sizes[:g]) : sum(sizes[: g + 1])], torch.zeros(())) for g in range(len(sizes))]
    expected = sum(scale * part for scale, part in zip(scales.double(), parts))
    (expected * 3.0).backward()

    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        sums.double(), torch.stack([p.double() for p in parts]).detach(), rtol=1e-5, atol=1e-5
    )
    for mine, theirs in zip(inputs, exact):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[200.0, 0.0], [0.0, -300.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss, sums = vocabulary_cross_entropy(
        hidden, weight, None, torch.tensor([1, 2]), [2], torch.ones(1), chunk=1
    )
    loss.backward()
    assert sums.item() == pytest.approx(400 + 300 + torch.log(torch.tensor(2.0)).item())
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()


def test_bf16_autocast_is_close_and_keeps_float32_gradients() -> None:
    inputs = head(40, 32, 50, dtype=torch.float32)
    targets = torch.randint(50, (40,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, _ = vocabulary_cross_entropy(*inputs, targets, [40], torch.tensor([1 / 40]), chunk=16)
    low.backward()
    low_grads = [tensor.grad.clone() for tensor in inputs]
    for tensor in inputs:
        tensor.grad = None
    full, _ = vocabulary_cross_entropy(*inputs, targets, [40], torch.tensor([1 / 40]), chunk=16)
    full.backward()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, rtol=2e-2, atol=2e-2)
    for mine, tensor in zip(low_grads, inputs):
        assert mine.dtype == torch.float32
        assert (mine - tensor.grad).norm() / tensor.grad.norm() < 2e-2


@pytest.mark.parametrize("n", [1, 64, 200])
def test_the_fused_loss_goes_through_chunks(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 rows, over a vocabulary that is filled up to a multiple of 64."""
    monkeypatch.setattr(losses, "FUSED_LOGITS", 64 * 128)
    targets = torch.randint(100, (n,), generator=torch.Generator().manual_seed(0))
    found = []
    for backend in ("plain", "fused"):
        inputs = head(n, 8, 100)
        loss, sums = vocabulary_cross_entropy(
            *inputs, targets, [n], torch.tensor([1 / n]).double(), backend=backend
        )
        loss.backward()
        found.append([loss.detach(), sums, *(tensor.grad for tensor in inputs)])
    for plain, fused in zip(*found):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6, check_dtype=False)


def test_no_gradient_wanted() -> None:
    inputs = [tensor.detach() for tensor in head(5, 4, 9)]
    loss, _ = vocabulary_cross_entropy(*inputs, torch.arange(5), [5], torch.ones(1))
    assert not loss.requires_grad


def test_scores_are_losses_and_hits() -> None:
    inputs = [tensor.detach() for tensor in head(20, 4, 9)]
    targets = torch.randint(9, (20,), generator=torch.Generator().manual_seed(1))
    nll, hits = vocabulary_scores(*inputs, targets, chunk=3)
    logits = inputs[0] @ inputs[1].t() + inputs[2]
    torch.testing.assert_close(
        nll.double(),
        torch.nn.functional.cross_entropy(logits, targets, reduction="none"),
        rtol=1e-5,
        atol=1e-5,
    )
    assert torch.equal(hits, logits.argmax(1) == targets)


@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 6),
    chunk=st.sampled_from([1, 5, 100]),
    bias=st.booleans(),
    how=st.sampled_from([{}, {"dense": True}, {"dense": True, "fused": True}]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_max_pooling_equals_the_reference(
    batch: int, length: int, chunk: int, bias: bool, how: dict[str, bool], seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = [torch.randn(batch, length, 5), torch.randn(13, 5), *([torch.randn(13)] if bias else [])]
    counted = torch.rand(batch, length) < 0.7
    counted[:, 0] = True
    mine = [tensor.clone().requires_grad_() for tensor in inputs]
    theirs = [tensor.double().requires_grad_() for tensor in inputs]
    upstream = torch.randn(batch, 13)

    pooled = max_pooled_logits(mine[0], mine[1], mine[2] if bias else None, counted, chunk=chunk, **how)
    (pooled * upstream).sum().backward()
    expected = torch.stack(
        [
            reference.max_pooled(theirs[0][b], theirs[1], theirs[2] if bias else None, counted[b])
            for b in range(batch)
        ]
    )
    (expected * upstream.double()).sum().backward()

    torch.testing.assert_close(pooled.double(), expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_token", [False, True])
def test_bag_of_words_equals_the_reference(per_token: bool) -> None:
    torch.manual_seed(0)
    pooled = torch.randn(3, 12, dtype=torch.float64)
    tokens = torch.tensor([[0, 5, 5, 7, 1, 0], [0, 3, 3, 3, 3, 1], [0, 11, 2, 1, 0, 0]])
    counted = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]).bool()
    found = bag_of_words(pooled, tokens, counted, per_token=per_token)
    for b in range(3):
        expected = reference.bag_of_words(pooled[b], tokens[b][counted[b]].tolist(), per_token=per_token)
        torch.testing.assert_close(found[b], expected)


def test_memory_is_bounded_by_the_chunk() -> None:
    """The largest tensor that either loss makes is the chunk's buffer, not rows × vocabulary."""
    rows, width, words, chunk = 600, 8, 3000, 32
    inputs = head(rows, width, words, dtype=torch.float32)
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        loss, _ = vocabulary_cross_entropy(
            *inputs, torch.randint(words, (rows,)), [rows], torch.ones(1), chunk=chunk
        )
        loss.backward()
        pooled = max_pooled_logits(
            inputs[0].view(30, 20, width),
            inputs[1],
            inputs[2],
            torch.ones(30, 20, dtype=torch.bool),
            chunk=chunk,
        )
        pooled.logsumexp(1).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < rows * words * 4 / 4
