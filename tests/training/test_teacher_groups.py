"""What a cross-encoder is trained and measured on: groups, batches, losses, figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retromae.text.candidates import Candidates
from retromae.text.pairs import Lists, Pairs
from retromae.training.cross_encoder import open_cross_encoder
from retromae.training.reranking import Reranking
from retromae.training.teacher_groups import GroupPlan, Groups, GroupTexts, Loss, ShareOfPlan, negatives_of
from retromae.training.teacher_trainer import build_loss
from training.teachers import open_pairs, some_candidates, spread, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return open_pairs(write_pairs(tmp_path_factory.mktemp("pairs") / "set"))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    size=st.integers(2, 9),
    window=st.integers(1, 12),
    number=st.integers(0, 3),
    depth=st.integers(1, 12),
)
def test_a_group_is_an_answer_and_negatives_from_the_window(
    seed: int, size: int, window: int, number: int, depth: int, pairs: Pairs
) -> None:
    candidates = some_candidates(pairs, depth, seed=seed % 1000)
    groups = Groups(pairs, candidates, size, window, seed)
    trainable = groups.trainable()
    pools = []  # by the obvious way
    for row in range(len(pairs)):
        answers = pairs.positives[row].tolist()
        pools.append([int(c) for c in candidates.lists[row] if c not in answers][:window])
    assert trainable.tolist() == [row for row, pool in enumerate(pools) if pool]
    rows = trainable[::-1]
    drawn = groups.draw(np.full(len(rows), number), rows)
    for row, members in zip(rows.tolist(), drawn):
        first, *rest = members.tolist()
        assert first in pairs.positives[row]
        assert len(set(rest)) == len(rest) == min(size - 1, len(pools[row])) and set(rest) <= set(pools[row])
    alone = groups.draw(np.array([number]), rows[-1:])  # whatever stands beside it
    assert alone.members.tolist() == drawn[len(rows) - 1].tolist()


def test_draws_are_even_and_differ_by_pass_query_and_seed(pairs: Pairs) -> None:
    candidates = some_candidates(pairs, depth=9)
    passes, rows = np.arange(3000), np.full(3000, 5)
    groups = Groups(pairs, candidates, 3, 6, seed=1)
    drawn = groups.draw(passes, rows).members.reshape(-1, 3)
    pool = negatives_of(pairs, candidates, rows[:1], 6).members
    counts = np.array([(drawn[:, 1:] == each).sum() for each in pool])
    assert np.abs(counts - 1000).max() < 130  # 6 standard deviations
    first = groups.draw(passes, np.zeros(3000, dtype=np.int64)).members.reshape(-1, 3)[:, 0]
    assert len(pairs.positives[0]) == 2
    assert np.abs((first == pairs.positives[0][0]).sum() - 1500) < 170
    other = Groups(pairs, candidates, 3, 6, seed=2).draw(passes, rows).members.reshape(-1, 3)
    assert (other != drawn).any(axis=1).mean() > 0.8


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 30),
    batch_size=st.integers(1, 7),
    world=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    start=st.integers(0, 12),
    total=st.integers(1, 14),
)
def test_the_plan_shows_every_query_once_per_pass_however_it_is_dealt(
    queries: int, batch_size: int, world: int, accumulation: int, start: int, total: int
) -> None:
    rows = np.arange(queries) * 3
    plan = GroupPlan(rows, batch_size, world * accumulation, seed=4)
    shares = [list(ShareOfPlan(plan, rank, world, 0, total)) for rank in range(world)]
    assert {len(share) for share in shares} == {total * accumulation}
    dealt = [batch for micro in zip(*shares) for batch in micro]
    passes = np.concatenate([batch.passes for batch in dealt])
    seen = np.concatenate([batch.rows for batch in dealt])
    for number in range(int(passes.max())):
        assert sorted(seen[passes == number]) == rows.tolist()
    assert len(set(seen[passes == passes.max()])) == (passes == passes.max()).sum()
    whole = GroupPlan(rows, batch_size, 1, seed=4).batches()
    assert [batch.rows.tolist() for batch in dealt] == [next(whole).rows.tolist() for _ in dealt]
    if start < total:
        later = [batch.rows.tolist() for batch in ShareOfPlan(plan, 0, world, start, total)]
        assert later == [batch.rows.tolist() for batch in shares[0]][start * accumulation :]


@pytest.mark.parametrize("loss", ["listwise", "binary"])
def test_losses_against_the_plain_equations(
    loss: Loss, pairs: Pairs, tiny_folder: Callable[[str], Path]
) -> None:
    model = spread(open_cross_encoder(tiny_folder("bert"), max_seq_length=48, device="cpu"), 100.0).eval()
    lists = [[1, 2, 3, 4], [7], [5, 9]]  # groups of different sizes
    candidates = Candidates(
        Lists.from_lists([*lists, *[[] for _ in range(len(pairs) - 3)]]), np.zeros(7, np.float32), {}
    )
    texts = GroupTexts(Groups(pairs, candidates, 4, 10, seed=0), loss)
    plan = GroupPlan(np.arange(3), 3, 1, seed=0)
    batch = next(plan.batches())
    item = texts[batch]
    labels = item.pop("label")
    got = build_loss(loss, model)(list(item.values()), labels)
    got.backward()
    gradient = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    drawn = texts.groups.draw(batch.passes, batch.rows)
    parts, place = [], 0
    for row, count in zip(batch.rows.tolist(), drawn.lengths.tolist()):
        numbers = drawn.members[place : place + count]
        place += count
        documents = [pairs.passages[int(number)] for number in numbers]
        shown = [(pairs.queries[row].text, f"{d.title} {d.text}" if d.title else d.text) for d in documents]
        logits = model(model.preprocess(shown))["scores"].view(-1)
        if loss == "listwise":
            parts.append(-(logits[0].exp() / logits.exp().sum()).log()[None])
        else:
            right = torch.sigmoid(logits)
            parts.append(-torch.cat([right[:1].log(), (1 - right[1:]).log()]))
    assert sorted(drawn.lengths.tolist()) == [2, 3, 4]
    expected = torch.cat(parts).mean()
    expected.backward()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradient[name], weight.grad, rtol=1e-3, atol=1e-5, msg=name)


# Measuring


def test_reranking_equals_the_textbook(pairs: Pairs, tiny_folder: Callable[[str], Path]) -> None:
    model = spread(open_cross_encoder(tiny_folder("bert"), max_seq_length=48, device="cpu"))
    candidates = some_candidates(pairs, depth=30)
    queries = np.array([0, 3, 4, 11])
    got = Reranking(pairs, candidates, queries, depth=20)(model)
    ndcg, rr = [], []
    for row in queries.tolist():
        answers = pairs.positives[row].tolist()
        pool = [int(c) for c in candidates.lists[row] if c not in answers][:20] + answers
        shown = [(pairs.queries[row].text, pairs.passages.texts([number])[0]) for number in pool]
        ranked = [pool[place] for place in np.argsort(-model.predict(shown))][:10]
        hits = [rank for rank, number in enumerate(ranked, 1) if number in answers]
        ideal = sum(1 / np.log2(rank + 1) for rank in range(1, len(answers) + 1))
        ndcg.append(sum(1 / np.log2(rank + 1) for rank in hits) / ideal)
        rr.append(1 / hits[0] if hits else 0.0)
    assert 0 < np.mean(rr) < 1
    assert got["nDCG@10"] == pytest.approx(np.mean(ndcg)) and got["RR@10"] == pytest.approx(np.mean(rr))
    assert got["nDCG@10_low"] <= got["nDCG@10"] <= got["nDCG@10_high"]
    with torch.no_grad():
        model.model.classifier.weight.zero_()
    assert Reranking(pairs, candidates, queries, depth=20)(model)["RR@10"] == 0, "a constant earns nothing"
