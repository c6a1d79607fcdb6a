"""Measure retrievers against each other: the settings, and what is done in which order."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from retromae.app import systems
from retromae.app.encoders import EncoderSettings
from retromae.app.systems import Retrievers, System
from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.core.ranking import Run
from retromae.evaluation.answers import ANSWERS_AT, accuracy_cut, answer_accuracy
from retromae.evaluation.benchmarks import CQADUPSTACK, benchmark, touche_version
from retromae.evaluation.leakage import Leakage, TrainingText, check, training_text
from retromae.evaluation.metrics import Result, evaluate_run, metric_name
from retromae.evaluation.mteb_tasks import evaluate_mteb, tasks_named
from retromae.evaluation.sts import StsResult, evaluate_sts, read_sts
from retromae.evaluation.transfer import TransferResult, evaluate_transfer
from retromae.evaluation.transfer_data import read_task
from retromae.retrieval.encoder import Encoder
from retromae.text.collections import Collection, full_text
from retromae.text.layouts import Qrels

Form = Literal["text", "markdown", "latex", "json"]


@dataclass
class EvaluateConfig:
    """What is measured on what."""

    beir: list[str] = setting([], "folder of a retrieval set (BEIR, MS MARCO or DPR files)")
    split: str | None = setting(None, "split that is measured (default: the set's own, mostly test)")
    sts: list[str] = setting([], "folder of a similarity task")
    transfer: list[str] = setting([], "folder of a classification task (SentEval)")
    mteb: list[str] = setting([], "task or benchmark of mteb")
    against: list[str] = setting(
        [],
        "compare with: bm25, fusion (of the model and BM25), another model, or a TREC run; NAME=… names it",
    )
    baseline: str | None = setting(
        None,
        "system that the others are tested against (default: bm25 if it takes part, otherwise the model)",
    )
    metrics: list[str] = setting(
        ["nDCG@10", "MRR@10", "R@100"],
        "nDCG@k, MRR@k, Recall@k, MAP, Success@k or P@k; Accuracy@k where there are answer strings",
    )
    depth: int = setting(100, "results of each query that are kept, fused and measured")
    fusion_weight: float | None = setting(
        None, "fuse scores, the model's with this weight (0 to 1), instead of reciprocal ranks"
    )
    on_error: Literal["raise", "warn"] = setting(
        "raise",
        "judged documents or queries that the set lacks: refuse it, or go on and count them as not found",
    )
    leakage: bool = setting(True, "look for queries and relevant passages in what the models were trained on")
    vectors: str | None = setting(
        None, "folder where vectors are kept and taken from (default: in output_dir, else removed at the end)"
    )
    output_dir: str | None = setting(None, "folder for the table, runs, per-query values and comparisons")
    form: Form = setting("text", "form of the table that is printed")


@dataclass(frozen=True)
class SetOutcome:
    """One retrieval set, measured. `results` are in the order of the systems."""

    name: str
    split: str
    documents: int
    judgements: int
    unknown: int  # judged documents that the corpus lacks
    results: list[Result]
    runs: dict[str, Run]
    leakage: list[Leakage]
    note: str = ""


@dataclass
class Report:
    """Everything that was measured; sentence tasks by task, then by system."""

    systems: list[System]
    baseline: str | None
    metrics: list[str]
    sets: list[SetOutcome] = field(default_factory=list)
    sts: dict[str, dict[str, StsResult]] = field(default_factory=dict)
    transfer: dict[str, dict[str, TransferResult]] = field(default_factory=dict)
    mteb: dict[str, dict[str, float]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)


def evaluate(model: str, config: EvaluateConfig, settings: EncoderSettings | None = None) -> Report:
    """Measure `model` and what it is compared with. Everything that can be refused is refused first."""
    wanted = [systems.parse(spec) for spec in (model, *config.against)]
    systems.check(wanted)
    if not (config.beir or config.sts or config.transfer or config.mteb):
        raise UserError(
            "there is nothing to measure on: name a set with --beir, --sts, --transfer or --mteb."
        )
    settings = settings or EncoderSettings()
    if settings.fits and (config.sts or config.transfer or config.mteb):
        raise UserError(
            "dense_dimension is fitted on the corpus of a retrieval set, and sentence tasks have none; leave it "
            "out, or evaluate a model that was reduced before (the folder `encoder` among its vectors)."
        )
    judged = [metric for metric in config.metrics if accuracy_cut(metric) is None]
    metrics = [metric_name(metric) for metric in judged or EvaluateConfig().metrics]
    report = Report(wanted, _baseline(wanted, config), metrics)
    collections = _collections(config)
    if len(judged) < len(config.metrics) and all(collection.qrels for collection in collections.values()):
        raise UserError(
            f"Accuracy@k is measured by answer strings, and {', '.join(collections) or 'what is measured'} has none; "
            "leave it out, or name a set such as DPR's Natural Questions."
        )
    similar = {Path(folder).name: read_sts(folder, config.split or "test") for folder in config.sts}
    tasks = [read_task(folder) for folder in config.transfer]
    from_mteb = [task for name in config.mteb for task in tasks_named(name)]
    with _vectors_folder(config) as folder:
        retrievers = Retrievers(wanted, settings, folder, config.fusion_weight)
        encoders = {s.name: retrievers.encoder(s) for s in wanted if s.kind == "encoder"}
        report.fingerprints = {name: encoder.fingerprint for name, encoder in encoders.items()}
        if (similar or tasks or from_mteb) and wanted[0].kind != "encoder":
            retrievers.encoder(wanted[0])  # refuses
        for name, collection in collections.items():
            report.sets.append(_measure_set(name, collection, config, metrics, retrievers))
        for name, encoder in encoders.items():
            encode = partial(_sentence_vectors, encoder)
            for task, subsets in similar.items():
                report.sts.setdefault(task, {})[name] = evaluate_sts(subsets, encode, name=task)
            for classes in tasks:
                report.transfer.setdefault(classes.name, {})[name] = evaluate_transfer(classes, encode)
            if from_mteb:
                for task, score in evaluate_mteb(encoder, name, from_mteb).items():
                    report.mteb.setdefault(task, {})[name] = score
    return report


def _baseline(wanted: Sequence[System], config: EvaluateConfig) -> str | None:
    names = [system.name for system in wanted]
    if config.baseline is not None and config.baseline not in names:
        raise UserError(f"the baseline '{config.baseline}' is not among the systems {', '.join(names)}.")
    if len(names) < 2:
        return None
    lexical = [system.name for system in wanted if system.kind == "bm25"]
    return config.baseline or (lexical[0] if lexical else names[0])


def _collections(config: EvaluateConfig) -> dict[str, Collection]:
    """Set name → collection, opened and checked; a folder `cqadupstack` stands for its forums."""
    found: dict[str, Collection] = {}
    for given in map(Path, config.beir):
        parts = [given / forum for forum in CQADUPSTACK if (given / forum).is_dir()]
        for folder in parts if given.name == "cqadupstack" and parts else [given]:
            forum = folder.parent.name == "cqadupstack" and folder.name in CQADUPSTACK
            name = f"cqadupstack/{folder.name}" if forum else folder.resolve().name
            if name in found:
                raise UserError(f"two sets are called {name!r}; rename one of the folders.")
            split = config.split or benchmark(name).split
            found[name] = Collection.open(folder, split, on_error=config.on_error)
    return found


@contextmanager
def _vectors_folder(config: EvaluateConfig) -> Iterator[Path]:
    kept = config.vectors or (str(Path(config.output_dir) / "vectors") if config.output_dir else None)
    if kept is not None:
        yield Path(kept)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def _sentence_vectors(encoder: Encoder, texts: list[str]) -> npt.NDArray[np.float32]:
    return encoder.encode_passages(texts).dense


def _measure_set(
    name: str, collection: Collection, config: EvaluateConfig, metrics: Sequence[str], retrievers: Retrievers
) -> SetOutcome:
    itself = benchmark(name).exclude_self
    cuts = [int(metric.partition("@")[2] or 0) for metric in metrics]
    asked = [cut for cut in map(accuracy_cut, config.metrics) if cut is not None] or list(ANSWERS_AT)
    deepest = max(config.depth, *(cuts if collection.qrels else asked))
    runs = retrievers.runs(name, collection, deepest + itself, progress=sys.stderr.isatty())
    if collection.qrels:
        results = [
            evaluate_run(collection.qrels, run, metrics, name=system, exclude_self=itself)
            for system, run in runs.items()
        ]
    else:
        results = _by_answers(collection, runs, asked)
    judgements = sum(map(len, collection.qrels.values()))
    note = ""
    if name == "webis-touche2020":
        note = (
            f"{name}: version {touche_version(len(collection), judgements)} of the judgements and the corpus."
        )
    leakage = _leakage(collection, retrievers) if config.leakage else []
    return SetOutcome(
        name, collection.split, len(collection), judgements, collection.unknown, results, runs, leakage, note
    )


def _by_answers(collection: Collection, runs: Mapping[str, Run], ks: Sequence[int]) -> list[Result]:
    """Accuracy by answer strings, for sets without judgements (Natural Questions)."""
    if not collection.answers:
        raise UserError(f"{collection.name} has neither judgements nor answer strings to measure by.")
    wanted = {document for run in runs.values() for query in run for document in run[query].ids}
    texts = {document: found.text for document, found in collection.pick(wanted).items()}
    return [answer_accuracy(run, collection.answers, texts, ks=ks, name=name) for name, run in runs.items()]


def _leakage(collection: Collection, retrievers: Retrievers) -> list[Leakage]:
    relevant = _relevant(collection.qrels)
    known: dict[str, TrainingText] = {
        system.name: training_text(system.source) for system in retrievers.systems if system.kind == "encoder"
    }
    passages = {}
    if any(training.rows for training in known.values()):
        passages = {name: found.text or full_text(found) for name, found in collection.pick(relevant).items()}
    sources = {system.name: system.source for system in retrievers.systems}
    return [
        check(name, training, collection.queries, passages, sources[name]) for name, training in known.items()
    ]


def _relevant(qrels: Qrels) -> set[str]:
    return {document for grades in qrels.values() for document, grade in grades.items() if grade > 0}
