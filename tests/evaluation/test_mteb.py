"""mteb takes our encoders: a task of its own kind with data that is made here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.evaluation.metrics import evaluate_run
from retromae.evaluation.mteb_tasks import MtebEncoder, evaluate_mteb, require_mteb, tasks_named
from retromae.retrieval.encoder import Encoder
from tiny import SENTENCES

Folder = Callable[[str], Path]
QUERIES = {f"q{n}": " ".join(SENTENCES[n].split()[2:6]) for n in range(8)}
QRELS = {f"q{n}": {f"d{n}": 1, f"d{n + 8}": 1} for n in range(8)}


@pytest.fixture
def task() -> Any:
    pytest.importorskip("mteb", reason="the extra `mteb` is not installed")
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class Toy(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Toy",
            type="Retrieval",
            description="Made up here.",
            reference="https://example.org",
            dataset={"path": "nowhere", "revision": "0"},
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            corpus = [{"id": f"d{n}", "title": f"Part {n}", "text": text} for n, text in enumerate(SENTENCES)]
            queries = [{"id": name, "text": text} for name, text in QUERIES.items()]
            data = RetrievalSplitData(
                corpus=Dataset.from_list(corpus),
                queries=Dataset.from_list(queries),
                relevant_docs=QRELS,
                top_ranked=None,
            )
            self.dataset = {"default": {"test": data}}
            self.data_loaded = True

    return Toy()


def test_mteb_measures_what_we_measure(tiny_folder: Folder, task: Any) -> None:
    encoder = Encoder.open(tiny_folder("bert"), pooling="mean", query_prompt="find: ", normalize=True)
    scores = evaluate_mteb(encoder, "toy", [task])
    queries = encoder.encode_queries(list(QUERIES.values())).dense
    documents = encoder.encode_passages(SENTENCES, [f"Part {n}" for n in range(len(SENTENCES))]).dense
    run = Run.from_dict(
        {
            query: {f"d{n}": float(score) for n, score in enumerate(row)}
            for query, row in zip(QUERIES, np.float64(queries) @ documents.T)
        }
    )
    assert scores == {"Toy": pytest.approx(evaluate_run(QRELS, run)["nDCG@10"], abs=1e-4)}


@pytest.mark.slow
def test_names_that_mteb_does_not_know() -> None:
    pytest.importorskip("mteb", reason="the extra `mteb` is not installed")
    assert len(tasks_named("NanoBEIR")) > 10
    with pytest.raises(UserError, match="neither a benchmark nor a task called 'NoSuchTask'"):
        tasks_named("NoSuchTask")


def test_without_mteb_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'retromae\[mteb\]'"):
        require_mteb()


def test_a_lexical_half_is_refused(tiny_folder: Folder) -> None:
    with pytest.raises(UserError, match="without its lexical half"):
        MtebEncoder(Encoder.open(tiny_folder("bert"), lexical_terms=4), "a")
