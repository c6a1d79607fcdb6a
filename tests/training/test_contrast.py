"""The loss of fine-tuning against slow and obvious ones, and against sentence-transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score
from torch import Tensor

from retromae.retrieval.opening import open_model
from retromae.training.contrast import GroupLoss, Part, Rider
from retromae.training.distil import Distillation, distillation
from tiny import SENTENCES

GROUP = 3
COLUMNS = [SENTENCES[0:4], SENTENCES[4:8], SENTENCES[8:12], SENTENCES[12:16]]  # queries, then the groups


@pytest.fixture
def model(tiny_folder: Callable[[str], Path]) -> SentenceTransformer:
    return open_model(tiny_folder("bert"), pooling="cls", lexical_terms=None, device="cpu").double()


def features(model: SentenceTransformer, columns: list[list[str]] = COLUMNS) -> list[dict[str, Any]]:
    return [dict(model.preprocess(texts)) for texts in columns]


def gradients(model: SentenceTransformer, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def group_loss(model: SentenceTransformer, **settings: Any) -> GroupLoss:
    contrast = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    return GroupLoss(model, [Part("contrastive", 1.0, contrast)], **{"chunk_tokens": 60, **settings})


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=rtol / 100)


def naive(model: SentenceTransformer) -> Tensor:
    """Every query against every passage of the batch, one text and one score at a time."""
    vectors = [
        [model(dict(model.preprocess([text])))["sentence_embedding"][0] for text in c] for c in COLUMNS
    ]
    losses = []
    for row, query in enumerate(vectors[0]):
        scores = [query @ passage for column in vectors[1:] for passage in column]
        right = query @ vectors[1][row]
        losses.append(torch.logsumexp(torch.stack(scores), dim=0) - right)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 60, 100_000])
def test_equal_to_the_equation(model: SentenceTransformer, cached: bool, chunk_tokens: int) -> None:
    model.eval()
    wanted = naive(model)
    reference = gradients(model, wanted)
    losses = group_loss(model, cached=cached, chunk_tokens=chunk_tokens)(features(model), None)
    torch.testing.assert_close(total(losses), wanted, rtol=1e-5, atol=1e-6)
    assert_same(gradients(model, total(losses)), reference)


def test_equal_to_the_librarys_own_losses(model: SentenceTransformer) -> None:
    model.eval()
    plain = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    cached = CachedMultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score, mini_batch_size=2)
    labels = torch.zeros(4)
    mine = gradients(model, total(group_loss(model)(features(model), None)))
    assert_same(mine, gradients(model, plain(features(model), labels)))
    assert_same(mine, gradients(model, cached(features(model), labels)))


def test_gradient_caching_draws_dropout_again(model: SentenceTransformer) -> None:
    """With dropout the second embedding must be the first: then the gradient is that of one graph."""
    model.train()
    torch.manual_seed(5)
    one = group_loss(model)(features(model), None)
    plain = gradients(model, total(one))
    torch.manual_seed(5)
    two = group_loss(model, cached=True)(features(model), None)
    after = torch.get_rng_state()
    again = gradients(model, 3.0 * total(two))
    torch.testing.assert_close(total(one), total(two))
    assert_same({name: 3.0 * value for name, value in plain.items()}, again)
    assert torch.equal(torch.get_rng_state(), after)  # the replay leaves the generator alone


def test_matryoshka_is_the_mean_over_the_widths(model: SentenceTransformer) -> None:
    model.eval()
    whole = model.get_embedding_dimension()
    assert whole is not None
    widths = [whole, whole // 2]
    mine = total(group_loss(model, dimensions=widths)(features(model), None))
    contrast = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    parts = []
    for width in widths:
        columns = [model(dict(part))["sentence_embedding"][:, :width] for part in features(model)]
        parts.append(contrast.compute_loss_from_embeddings(columns, torch.zeros(4)))
    torch.testing.assert_close(mine, torch.stack(parts).mean())
    # The library's own compares vectors of length 1, whatever the similarity: equal for the cosine.
    cosine = MultipleNegativesRankingLoss(model, scale=20.0)
    theirs = MatryoshkaLoss(model, cosine, widths, matryoshka_weights=[0.5, 0.5])
    loss = GroupLoss(model, [Part("contrastive", 1.0, cosine)], chunk_tokens=60, dimensions=widths)
    torch.testing.assert_close(total(loss(features(model), None)), theirs(features(model), torch.zeros(4)))


TEACHER = torch.tensor([[4.0, 1.0, -2.0], [0.5, 0.25, 3.0], [1.0, 1.0, 1.0], [-3.0, -1.0, 2.0]])


def naive_distillation(name: str, scores: Tensor, student: float, teacher: float) -> Tensor:
    """From the definitions, one number at a time."""
    values = []
    for row, wanted in zip(scores, TEACHER):
        if name == "margin_mse":
            values += [((row[0] - row[k]) - (wanted[0] - wanted[k])) ** 2 for k in (1, 2)]
            continue
        p = torch.exp(wanted / teacher) / torch.exp(wanted / teacher).sum()
        q = torch.exp(row / student) / torch.exp(row / student).sum()
        terms = [p[k] * (torch.log(p[k]) - torch.log(q[k])) for k in range(GROUP)]
        values += [torch.stack(terms).sum() * student**2] if name == "kl" else terms
    return torch.stack(values).mean()


@pytest.mark.parametrize("name", ["kl", "margin_mse", "kl_unscaled"])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_distillation_and_contrast_in_one(
    model: SentenceTransformer, name: Distillation, cosine: bool, cached: bool
) -> None:
    model.eval()
    against = distillation(name, model, cosine=cosine, student_temperature=2.0, teacher_temperature=1.5)
    contrast = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    parts = [Part("distillation", 0.7, against), Part("contrastive", 0.3, contrast)]
    loss = GroupLoss(model, parts, chunk_tokens=60, cached=cached)
    labels = torch.cat([TEACHER, torch.zeros(4, 5)], dim=1).double()  # as with a rider: numbers behind scores
    losses = loss(features(model), labels)
    vectors = [model(dict(part))["sentence_embedding"] for part in features(model)]
    if cosine:
        vectors = [torch.nn.functional.normalize(column, dim=1) for column in vectors]
    scores = torch.stack([(vectors[0] * column).sum(dim=1) for column in vectors[1:]], dim=1)
    wanted = 0.7 * naive_distillation(name, scores, 2.0, 1.5)
    torch.testing.assert_close(losses["distillation"], wanted)
    reference = gradients(model, wanted + 0.3 * naive(model))
    assert_same(gradients(model, total(losses)), reference)


def test_dupmae_halves_are_trained_as_they_are_searched(tiny_folder: Callable[[str], Path]) -> None:
    """score = dense dot product + the passage's k largest terms, all of the query's; positions one at a time."""
    terms = 5
    model = open_model(tiny_folder("bert"), pooling=None, lexical_terms=terms, device="cpu").eval()
    columns = features(model)
    for place, column in enumerate(columns):
        column["task"] = "document" if place else "query"
    losses = group_loss(model)(columns, None)
    module: Any = model[0]
    dense, lexical = [], []
    for texts in COLUMNS:
        for text in texts:
            ids = module.tokenizer(text)["input_ids"]
            hidden = module.backbone.encode(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
            head = module.backbone
            logits = [
                head.head_transform(hidden[i]) @ head.head_weight.T + head.head_bias
                for i, token in enumerate(ids)
                if module.ordinary[token]
            ]
            dense.append(module.linear(hidden[0]))
            lexical.append(torch.stack(logits).max(dim=0).values)
    queries, passages = range(4), range(4, 16)
    rows = []
    for q in queries:
        scores = []
        for p in passages:
            best = lexical[p].topk(terms).indices
            scores.append(dense[q] @ dense[p] + sum(lexical[q][i] * lexical[p][i] for i in best))
        rows.append(torch.logsumexp(torch.stack(scores), dim=0) - scores[q])
    torch.testing.assert_close(total(losses), torch.stack(rows).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("queries", [False, True])
def test_reconstruction_rides_along(tiny_folder: Callable[[str], Path], cached: bool, queries: bool) -> None:
    """Contrast of the masked [CLS] plus the objective's own loss on all texts in one batch."""
    from retromae.objectives.unified import UnifiedEncoder

    module = UnifiedEncoder.from_checkpoint(tiny_folder("bert"), "retromae", seed=7, dropout=0.0)
    model = SentenceTransformer(modules=[module], similarity_fn_name="dot", device="cpu").train()
    rider = Rider(weight=0.5, parts=module.weights, queries=queries, passages=100)
    numbers = torch.tensor([[2, row, 10 + row, 20 + row, 30 + row] for row in range(4)]).double()
    loss = group_loss(model, rider=rider, cached=cached)
    mine = gradients(model, total(loss(features(model), numbers)))

    def embedded(column: int, mask: bool) -> tuple[Tensor, dict[str, Any]]:
        inputs = features(model)[column]
        ids = torch.tensor([100 + row if column == 0 else 10 * column + row for row in range(4)])
        known = {"row_ids": ids, "epochs": torch.full((4,), 2), "progress": 0.0, "mask": mask}
        return model({**inputs, **known})["sentence_embedding"], {**inputs, **known}

    vectors, rebuilt = [], []
    for column in range(4):
        vector, known = embedded(column, mask=column > 0 or queries)
        vectors.append(vector)
        if column or queries:
            rebuilt.append(module.batch(known))
    contrast = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    wanted = contrast.compute_loss_from_embeddings(vectors, torch.zeros(4))
    drawn = [module.objective.draw(batch) for batch in rebuilt]
    totals = {name: sum(d.counts[name] for d in drawn) for name in drawn[0].counts}
    for batch, draw in zip(rebuilt, drawn):
        wanted = wanted + 0.5 * module.objective(batch, draw, totals)["loss"]
    assert_same(mine, gradients(model, wanted), rtol=1e-3)  # in float32, summed in another order
