"""What must hold on a GPU: the same draws and results as on a CPU, compiled or not, and nothing that is waited for.

Skipped where there is none. One process, seconds: `pytest tests/gpu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig

from retromae.models.backbone import Backbone
from retromae.models.bag_of_words import max_pooled_logits
from retromae.models.losses import vocabulary_cross_entropy
from retromae.objectives import Batch, Objective, Vocabulary, available, load
from retromae.objectives.contrast import Contrastive
from retromae.training.ahead import Beside, Coming
from retromae.training.chunks import Chunk

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
VOCABULARY = 1001  # not aligned to anything


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """float32 products are float32 products."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def make(name: str, dropout: float = 0.0, **settings: Any) -> Objective:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    ordinary = torch.arange(VOCABULARY) >= 5
    words = Vocabulary(4, torch.arange(VOCABULARY) % 5 != 4, ordinary)
    kind = load(name)
    return kind(Backbone.from_config(config, dropout=dropout), kind.Config(**settings), words, 3)


def batch(rows: int, length: int, *, full: bool = False, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    ends = torch.full((rows,), length)
    if not full:
        ends = torch.randint(4, length + 1, (rows,), generator=generator)
    mask = (torch.arange(length) < ends[:, None]).long()
    ids[:, 0] = 2
    ids[torch.arange(rows), ends - 1] = 3
    numbers = torch.arange(rows) + 100 * seed
    return Batch(ids * mask, mask, numbers, torch.zeros_like(numbers), 0.2, full)


def step(objective: Objective, given: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    objective.train()
    objective.zero_grad()
    if isinstance(objective, Contrastive):
        objective.begin_step()
    parts = objective(given, objective.draw_ahead(given))
    parts["loss"].backward()
    gradients = {name: p.grad.cpu() for name, p in objective.named_parameters() if p.grad is not None}
    return {name: value.detach().cpu() for name, value in parts.items()}, gradients


def assert_alike(got: Any, expected: Any, share: float) -> None:
    """Every gradient differs by at most this share of its size, or of the largest one's thousandth."""
    assert got[1].keys() == expected[1].keys()
    floor = 1e-3 * max(float(gradient.norm()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        distance = float((got[1][name] - gradient).norm())
        assert distance <= share * max(float(gradient.norm()), floor), (
            name,
            distance,
            float(gradient.norm()),
        )
    for name, value in expected[0].items():
        torch.testing.assert_close(got[0][name], value, rtol=share, atol=1e-5)


@pytest.mark.parametrize("name", available())
def test_a_gpu_draws_what_a_cpu_draws(name: str) -> None:
    given = batch(9, 40)
    here, there = make(name), make(name).cuda()
    mine, theirs = here.draw_ahead(given), there.draw_ahead(given.to("cuda"))
    assert mine.tensors.keys() == theirs.tensors.keys()
    for key, tensor in mine.tensors.items():
        assert torch.equal(tensor, theirs.tensors[key].cpu()), key
    if name in ("retromae", "dupmae"):
        there.compile_parts()
        assert torch.equal(here.visible(given), there.visible(given.to("cuda")).cpu())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", available())
def test_a_step_on_a_gpu_is_a_step_on_a_cpu(name: str, full: bool) -> None:
    given = batch(6, 32, full=full)
    expected = step(make(name), given)
    assert_alike(step(make(name).cuda(), given.to("cuda")), expected, 2e-3)


@pytest.mark.parametrize("name", ["retromae", "dupmae", "mlm"])
def test_compiled_is_plain(name: str) -> None:
    plain, compiled = make(name).cuda(), make(name).cuda()
    compiled.compile_parts()
    for number, (rows, length, full) in enumerate([(6, 32, False), (4, 40, True), (9, 24, False)]):
        given = batch(rows, length, full=full, seed=number).to("cuda")
        assert_alike(step(compiled, given), step(plain, given), 1e-3)


@pytest.mark.parametrize("backend", ["chunked", "fused"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_vocabulary_loss_in_bfloat16(backend: Any, bias: bool) -> None:
    def run(backend: Any, autocast: bool) -> list[Tensor]:
        torch.manual_seed(1)
        hidden = torch.randn(300, 64, device="cuda", requires_grad=True)
        weight = torch.randn(VOCABULARY, 64, device="cuda", requires_grad=True)
        offsets = torch.randn(VOCABULARY, device="cuda", requires_grad=True) if bias else None
        targets = torch.randint(0, VOCABULARY, (300,), device="cuda")
        scales = torch.tensor([0.01, 0.02], device="cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss, sums = vocabulary_cross_entropy(
                hidden, weight, offsets, targets, [100, 200], scales, backend=backend
            )
        loss.backward()
        grads = [tensor.grad for tensor in (hidden, weight, offsets) if tensor is not None]
        return [loss.detach(), sums, *[grad for grad in grads if grad is not None]]

    for got, expected in zip(run(backend, True), run("plain", False), strict=True):
        assert got.dtype == expected.dtype
        assert float((got - expected).norm()) < 2e-2 * float(expected.norm())


@pytest.mark.parametrize("fused", [False, True])
def test_the_bag_of_words_reaches_the_same_tokens(fused: bool) -> None:
    def run(device: str, **how: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(2)
        hidden = torch.randn(5, 24, 64, generator=generator).to(device).requires_grad_()
        weight = torch.randn(VOCABULARY, 64, generator=generator).to(device).requires_grad_()
        bias = torch.randn(VOCABULARY, generator=generator).to(device).requires_grad_()
        counted = (torch.rand(5, 24, generator=generator) < 0.7).to(device)
        pooled = max_pooled_logits(hidden, weight, bias, counted, **how)
        (pooled * torch.randn(pooled.shape, generator=generator).to(device)).sum().backward()
        assert hidden.grad is not None and weight.grad is not None and bias.grad is not None
        return [tensor.detach().cpu() for tensor in (pooled, hidden.grad, weight.grad, bias.grad)]

    for got, expected in zip(run("cuda", fused=fused), run("cpu"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


@contextmanager
def nothing_is_waited_for() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["mlm", "retromae", "dupmae", "condenser", "seed", "tsdae", "simcse"])
def test_a_step_waits_for_nothing(name: str, compiled: bool) -> None:
    objective = make(name, dropout=0.1).cuda().train()
    if compiled:
        objective.compile_parts()
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)
    beside = Beside(torch.device("cuda"))
    coming = None
    for number in range(4):
        part = batch(6, 32 if number % 2 else 40, seed=number).pin_memory()

        def draw(part: Batch = part) -> Chunk:
            moved = part.to("cuda")
            return Chunk(moved, objective.draw_ahead(moved), 0, 0)

        chunk = beside.do(draw, Chunk.tensors)
        if coming is not None:
            assert coming.value > 0  # has come: waits for that event alone, which is not a wait for the queue
        warm = number >= 2  # tables and compiled code are there
        with nothing_is_waited_for() if warm else torch.enable_grad():
            with torch.autocast("cuda", torch.bfloat16):
                loss = objective(chunk.batch, chunk.drawn)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            coming = Coming(loss)
