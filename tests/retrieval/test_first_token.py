"""The last layer at [CLS] alone: the same vectors and gradients for less work, and only where nothing else is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from retromae.retrieval.encoder import Encoder
from retromae.retrieval.first_token import FirstToken
from retromae.training.contrast import GroupLoss, Part
from tiny import FAMILIES, SENTENCES

Folder = Callable[[str], Path]
WHOLE = {"albert"}  # its last layer is also all the others


def opened(folder: Path, pooling: str = "cls") -> SentenceTransformer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, pooling)])


def operations(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_sentence_transformers_for_less_work(family: str, tiny_folder: Folder) -> None:
    model = opened(tiny_folder(family))
    encoder = Encoder(model, normalize=False)
    np.testing.assert_allclose(encoder.encode_passages(SENTENCES).dense, model.encode(SENTENCES), atol=2e-5)
    features = model.preprocess(SENTENCES[:8])
    whole = operations(lambda: model(dict(features)))

    def alone() -> None:
        with FirstToken(model).alone(features["input_ids"]):
            model(dict(features))

    less = operations(alone)
    assert less == whole if family in WHOLE else less < 0.9 * whole


def test_a_mean_over_tokens_takes_the_whole_layer(tiny_folder: Folder) -> None:
    model = opened(tiny_folder("bert"), "mean")
    assert FirstToken(model).last is None
    np.testing.assert_allclose(
        Encoder(model, normalize=False).encode_passages(SENTENCES).dense, model.encode(SENTENCES), atol=2e-5
    )


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_has_the_same_loss_and_gradient(cached: bool, dropout: float, tiny_folder: Folder) -> None:
    def step(first: bool) -> dict[str, Tensor]:
        model = opened(tiny_folder("bert")).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        loss = GroupLoss(
            model,
            [Part("contrastive", 1.0, MultipleNegativesRankingLoss(model))],
            chunk_tokens=64,
            cached=cached,
            first=FirstToken(model) if first else None,
        )
        columns = [model.preprocess(SENTENCES[:6]), model.preprocess(SENTENCES[6:12])]
        torch.manual_seed(0)
        value = torch.stack(list(loss(columns, None).values())).sum()
        value.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {"loss": value.detach(), **grads}

    whole, alone = step(False), step(True)
    assert whole.keys() == alone.keys()
    for name, value in whole.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-4, atol=1e-6, msg=name)
