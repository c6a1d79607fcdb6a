"""A small run as `adapt` leaves it, opened once, and a server on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.server.serving import CORPUS, Server, Setup, serving
from retromae.app.server.engine import Engine
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import build_index
from retromae.retrieval.systems import open_systems

RECORDS = [
    {"step": 0, "eval_cls_use": 0.0, "eval_probe_ndcg@10": 0.1, "eval_probe_ndcg@10_low": 0.05,
     "eval_probe_ndcg@10_high": 0.2, "eval_encoder_loss": 9.0, "seconds": 1.0},
    {"step": 10, "loss": 16.0, "encoder": 8.1, "decoder": 7.9, "tokens_per_second": 900.5,
     "learning_rate": 1e-4, "grad_norm": 1.5, "tokens": 9000, "seconds": 61.0},
    {"step": 20, "loss": 12.0, "encoder": 6.1, "decoder": 5.9, "tokens_per_second": 950.0,
     "learning_rate": 5e-5, "grad_norm": 1.2, "tokens": 18000, "seconds": 121.5},
    {"step": 20, "eval_cls_use": 0.4, "eval_probe_ndcg@10": 0.3, "eval_probe_ndcg@10_low": 0.25,
     "eval_probe_ndcg@10_high": 0.4, "eval_encoder_loss": 6.0, "seconds": 130.0},
]  # fmt: skip


@pytest.fixture(scope="session")
def run(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(tiny_folder("electra"), folder / "model")
    for name, encoder in {
        "index": Encoder.open(folder / "model", pooling="cls", normalize=True),
        "base_index": Encoder.open(tiny_folder("bert"), pooling="mean"),
    }.items():
        store = embed_corpus(encoder, lambda: iter(CORPUS), folder.parent / f"{name}-vectors")
        assert store is not None
        build_index(store, folder / name)
    (folder / "system.json").write_text('{"kind": "fusion", "weight": 0.5, "depth": 100}')
    stage = folder / "stages" / "pretraining"
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return folder


@pytest.fixture(scope="session")
def engine(run: Path) -> Engine:
    return Engine(open_systems(run))


@pytest.fixture
def setup(engine: Engine, run: Path, tmp_path: Path) -> Setup:
    return Setup(engine, tmp_path / "judgements", [run])


@pytest.fixture
def server(setup: Setup) -> Iterator[Server]:
    with serving(setup) as running:
        yield running
