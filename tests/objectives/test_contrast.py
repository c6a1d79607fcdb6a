"""Comparing all rows of a step: however the step is cut, it is the same; and what LaPraDoR remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch import Tensor

from objectives.test_objectives import PASSAGES, batch_of, gradients, make, setting_of
from reference import laprador as reference
from reference.objectives import Passage
from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.objectives import Batch, Vocabulary, available, load
from retromae.objectives.contrast import Contrastive, keep_tokens, over_the_step
from retromae.objectives.laprador import LaPraDoR, Pool
from retromae.objectives.unified import UnifiedEncoder

Folder = Callable[[str], Path]
NAMES = [name for name in available() if issubclass(load(name), Contrastive)]
EMPTY = Passage([2, 1, 3], row=1, epoch=0)


def contrastive(folder: Path, name: str, *, dropout: float = 0.0, **settings: Any) -> Any:
    objective = make(folder, name, **settings)
    for module in objective.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return objective.train()


def pieces() -> list[Batch]:
    return [batch_of(PASSAGES[:1], 0), batch_of([EMPTY], 0), batch_of(PASSAGES[1:], 0, extra=4)]


def in_pieces(objective: Any, seed: int | None = None) -> Tensor:
    """The loss of a step cut into micro-batches; with a seed, dropout is drawn anew for each of them."""

    def before_each(number: int) -> None:
        if seed is not None:
            torch.manual_seed(seed + number)

    samples = [(piece, objective.draw(piece)) for piece in pieces()]
    totals = {part: sum(drawn.counts[part] for _, drawn in samples) for part in samples[0][1].counts}
    over_the_step(objective, samples, before_each)
    losses = []
    for number, (piece, drawn) in enumerate(samples):
        before_each(number)
        losses.append(objective(piece, drawn, totals)["loss"])
    return torch.stack(losses).sum()


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=tolerance, msg=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_step_cut_into_pieces_has_the_same_loss_and_gradient(
    name: str, family: str, tiny_folder: Folder
) -> None:
    objective = contrastive(tiny_folder(family), name)
    whole = objective(batch_of(PASSAGES, 0))["loss"]
    expected = gradients(whole, objective)
    if isinstance(objective, LaPraDoR):
        remembered = objective.pool.content().clone()
        objective.pool.empty()
    cut = in_pieces(objective)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)
    assert_same(gradients(cut, objective), expected)
    if isinstance(objective, LaPraDoR):
        torch.testing.assert_close(objective.pool.content(), remembered)


@pytest.mark.parametrize("name", ["simcse", "laprador"])
def test_with_dropout_both_passes_see_the_same_vectors(name: str, tiny_folder: Folder) -> None:
    """One graph over all pieces, each under its own dropout, against the two passes."""
    objective = contrastive(tiny_folder("bert"), name, dropout=0.3)
    vectors = []
    for number, piece in enumerate(pieces()):
        torch.manual_seed(40 + number)
        vectors.append(objective.vectors(piece, objective.draw(piece)))
    whole = objective.contrast(torch.cat(vectors)) / len(PASSAGES)
    expected = gradients(whole, objective)
    cut = in_pieces(objective, seed=40)
    torch.testing.assert_close(cut, whole)
    assert_same(gradients(cut, objective), expected)
    if isinstance(objective, LaPraDoR):
        objective.pool.empty()
    assert not torch.isclose(in_pieces(objective, seed=7), whole)  # other dropout, another loss


@pytest.mark.parametrize("name", NAMES)
def test_forward_embeds_before_anything_else_draws_dropout(
    name: str, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = contrastive(tiny_folder("bert"), name, dropout=0.3)
    seen = []
    real = objective.contrast_loss

    def watched(vectors: Tensor, *rest: Any) -> Tensor:
        seen.append(vectors.detach())
        return real(vectors, *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr(objective, "contrast_loss", watched)
    batch = batch_of(PASSAGES, 0)
    torch.manual_seed(5)
    objective(batch)
    torch.manual_seed(5)
    assert torch.equal(objective.vectors(batch, objective.draw(batch)), seen[0])


@pytest.mark.parametrize("name", NAMES)
def test_measuring_is_repeatable_and_changes_nothing(name: str, tiny_folder: Folder) -> None:
    objective = contrastive(tiny_folder("bert"), name, dropout=0.3).eval()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    first, second = (objective.measure(batch_of(PASSAGES, 0)) for _ in range(2))
    assert all(torch.equal(first[key][0], second[key][0]) for key in first)
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    cosine, number = first["row_cosine"]
    assert -1 <= cosine / number <= 1 + 1e-6


def test_row_cosine_is_the_mean_over_pairs(tiny_folder: Folder) -> None:
    objective = contrastive(tiny_folder("bert"), "simcse").eval()
    vectors = torch.randn(4, 2, 8)
    total, number = objective.measure_vectors(vectors, objective.draw(batch_of(PASSAGES, 0)))["row_cosine"]
    cosines = torch.cosine_similarity(vectors[:, None, 0], vectors[None, :, 0], dim=-1)
    torch.testing.assert_close(total / number, (cosines.sum() - 4) / 12)
    total, number = objective.measure(batch_of([EMPTY, PASSAGES[0]], 0))["row_cosine"]
    assert abs(total) < 1e-5 and number == 0  # a row alone


def test_a_contrastive_objective_does_not_ride_along(tiny_folder: Folder) -> None:
    with pytest.raises(UserError, match="it compares rows"):
        UnifiedEncoder(make(tiny_folder("bert"), "cocondenser"), None)


# -- spans and queries ------------------------------------------------------------------------------------------------


def many(number: int = 300) -> list[Passage]:
    return [Passage([2, *range(5, 5 + row % 60), 3], row=row, epoch=2) for row in range(number)]


def inner(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The tokens between [CLS] and [SEP], both of which every row must have."""
    rows = [row[:length] for row, length in zip(ids.tolist(), mask.sum(dim=1).tolist())]
    assert all(row[0] == 2 and row[-1] == 3 for row in rows)
    return [row[1:-1] for row in rows]


def all_words_whole(folder: Path, name: str, **settings: Any) -> Any:
    """An objective for which every token is a word."""
    backbone = Backbone.open(folder, dropout=0.0)
    ordinary = torch.arange(backbone.vocab_size) >= 5
    cls = load(name)
    return cls(backbone, cls.Config(**settings), Vocabulary(4, torch.ones_like(ordinary), ordinary), 3)


def test_spans_share_the_row_and_have_a_quarter_each(tiny_folder: Folder) -> None:
    objective = all_words_whole(tiny_folder("bert"), "cocondenser")
    passages = many()
    drawn = objective.draw(batch_of(passages, 0, extra=3)).tensors
    spans = inner(drawn["original"], drawn["attention_mask"])
    for passage, first, second in zip(passages, spans[:300], spans[300:]):
        assert first + second == passage.ids[1:-1]
        words = len(passage.ids) - 2
        if words > 1:
            assert min(len(first), len(second)) >= words / 4
    cuts = {len(first) for passage, first in zip(passages, spans) if len(passage.ids) == 59 + 2}
    assert len(cuts) > 3  # not always in the same place
    assert drawn["compared"].tolist() == [row % 60 > 1 for row in range(300)]
    labelled, mask = drawn["labelled"], drawn["attention_mask"].bool()
    assert not (labelled & ~mask).any() and 0.1 < labelled.sum() / mask.sum() < 0.2


def test_queries_are_runs_of_words_and_mostly_gone_from_their_documents(tiny_folder: Folder) -> None:
    objective = all_words_whole(tiny_folder("bert"), "laprador", query_words=20)
    passages = many()
    drawn = objective.draw(batch_of(passages, 0, extra=3)).tensors
    queries = inner(drawn["query_ids"], drawn["query_mask"])
    documents = inner(drawn["document_ids"], drawn["document_mask"])
    removed = []
    for passage, query, document in zip(passages, queries, documents):
        text = passage.ids[1:-1]
        if not text:
            assert query == document == []
            continue
        most = min(20, max(1, len(text) // 2))
        assert most - most // 2 <= len(query) <= most
        assert query == list(range(query[0], query[0] + len(query)))
        assert document in (text, [token for token in text if token not in query]) and document
        if len(text) > 1:
            removed.append(len(document) < len(text))
    share = sum(removed) / len(removed)
    assert 0.84 < share < 0.96
    assert len({len(query) for query, passage in zip(queries, passages) if len(passage.ids) == 61}) > 1


@given(st.lists(st.lists(st.booleans(), min_size=11, max_size=11), min_size=1, max_size=4))
def test_keep_tokens_closes_gaps(flags: list[list[bool]]) -> None:
    kept = torch.tensor(flags)
    values = torch.arange(kept.numel()).view_as(kept)
    mask, left = keep_tokens(kept, values)
    assert left.shape == mask.shape
    assert mask.shape[1] in (0, 8, 11)
    for row in range(len(flags)):
        assert left[row][mask[row].bool()].tolist() == values[row][kept[row]].tolist()


# -- LaPraDoR's memory ------------------------------------------------------------------------------------------------


@given(st.integers(0, 7), st.lists(st.integers(0, 9), max_size=5))
def test_the_pool_keeps_the_latest(size: int, pushes: list[int]) -> None:
    pool = Pool(size, 1)
    pushed: list[float] = []
    for number in pushes:
        fresh = [float(len(pushed) + i) for i in range(number)]
        pushed += fresh
        pool.push(torch.tensor(fresh).view(-1, 1))
    assert sorted(pool.content()[:, 0].tolist()) == (pushed[-size:] if size else [])
    pool.empty()
    assert not len(pool.content())


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_training_step_against_the_pool_equals_the_equations(steps: int, tiny_folder: Folder) -> None:
    """Turns of two steps: the document tower learns in steps 1 and 2, the query tower in step 3."""
    objective = contrastive(tiny_folder("bert"), "laprador", turn_steps=2).double()
    for _ in range(steps):
        objective.begin_step()
    pool = torch.nn.functional.normalize(torch.randn(6, 32, dtype=torch.float64), dim=1)
    objective.pool.push(pool)
    documents_turn = steps < 3
    got = objective(batch_of(PASSAGES, 0))["loss"]
    expected = reference.step(setting_of(objective), PASSAGES, documents_turn, [*pool])
    torch.testing.assert_close(got, expected)
    mine = gradients(got, objective)
    assert_same(mine, gradients(expected, objective), 1e-8)
    assert all(name.startswith("query.") != documents_turn for name in mine)
    resting = {id(parameter) for parameter in objective.resting()}
    assert not {id(p) for name, p in objective.named_parameters() if name in mine} & resting
    assert len(objective.pool.content()) == 6 + len(PASSAGES)


def test_turns_change_and_the_pool_is_emptied(tiny_folder: Folder) -> None:
    objective = contrastive(tiny_folder("bert"), "laprador", turn_steps=2, pool_size=7)
    seen = []
    for _ in range(5):
        objective.begin_step()
        seen.append((objective.trains_documents, len(objective.pool.content())))
        objective(batch_of(PASSAGES, 0))
    assert seen == [(True, 0), (True, 4), (False, 0), (False, 4), (True, 0)]
    assert not objective.eval().trains_documents
    with pytest.raises(UserError, match="turn_steps is 0"):
        make(tiny_folder("bert"), "laprador", turn_steps=0)


def test_pool_and_turn_are_in_a_training_checkpoint(tiny_folder: Folder, tmp_path: Path) -> None:
    first = contrastive(tiny_folder("bert"), "laprador", turn_steps=2)
    for _ in range(4):
        first.begin_step()
        first(batch_of(PASSAGES, 0))
    save_model(first, str(tmp_path / "state.safetensors"))
    again = contrastive(tiny_folder("bert"), "laprador", turn_steps=2)
    load_model(again, tmp_path / "state.safetensors")
    assert torch.equal(again.pool.content(), first.pool.content())
    assert not again.trains_documents
    assert not any("pool" in name or "steps" in name for name in first.head_tensors())
    assert torch.equal(again(batch_of(PASSAGES, 0))["loss"], first(batch_of(PASSAGES, 0))["loss"])
