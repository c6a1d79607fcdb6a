"""A folder of text in, a proven better retriever out: the stages in their order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from retromae.app.adapt.plan import PLAN
from retromae.app.adapt.settings import AdaptConfig, check
from retromae.app.adapt.stages import STATE, Stage, Stages
from retromae.app.adapt.start import default_base
from retromae.app.adapt.telling import SYSTEM, VERDICT
from retromae.app.adapt.work import Work
from retromae.core.config import write_yaml
from retromae.core.errors import UserError
from retromae.core.locks import only_writer
from retromae.core.runs import RunFolder, facts_about_here
from retromae.text.digests import file_digest
from retromae.text.sources import list_files

# What the stages depend on, besides the text itself.
_READING = (
    *("text_field", "title_field", "passage_max_len", "questions_from", "judge_by", "pairs", "seed"),
    *("eval_queries", "vocabulary"),
)
_BASE = (
    *("model_name_or_path", "from_scratch", "query_max_len", "per_device_train_batch_size"),
    *("num_hidden_layers", "hidden_size", "objective", "learning_rate"),
)


def adapt(config: AdaptConfig, console: Console) -> Path:
    """Do what is not done yet; `Interrupted` where a signal ended it. Gives back the run folder."""
    check(config)
    if not config.from_scratch and not config.model_name_or_path:
        config = replace(config, model_name_or_path=default_base())
    run = RunFolder(config.output_dir)
    with only_writer(run.path):
        _do(config, run, console)
    return run.path


def _do(config: AdaptConfig, run: RunFolder, console: Console) -> None:
    _claim(run, config)
    stages = Stages(run.path, 60 * config.minutes, lambda text: console.print(text, soft_wrap=True))
    work = Work(config, console, stages.spent)
    for stage in _stages(config, work):
        stages.do(stage)


def _claim(run: RunFolder, config: AdaptConfig) -> None:
    """Refuse a folder that holds something else, before anything is written."""
    sources = [file_digest(file) for file in list_files(config.sources, config.reading)]
    if run.path.is_file():
        raise UserError(f"'{run.path}' is a file; choose another output_dir.")
    if run.path.is_dir() and any(run.path.iterdir()) and not (run.path / STATE).is_file():
        raise UserError(f"'{run.path}' is not empty and holds no run of adapt; choose another output_dir.")
    run.path.mkdir(parents=True, exist_ok=True)
    run.clear_unfinished(everywhere=True)
    write_yaml(run.config, asdict(config))
    run.update_manifest(**facts_about_here(), sources=sources)
    if not (run.path / STATE).is_file():
        (run.path / STATE).write_text(json.dumps({"stages": [], "budget_seconds": 60 * config.minutes}))


def _stamps(source: str | None) -> list[tuple[str, int, int]]:
    """What tells whether the user's pairs have changed: judgements are added to them (`retromae serve`)."""
    path = Path(source or "")
    if source is None or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _stages(config: AdaptConfig, work: Work) -> list[Stage]:
    settings = asdict(config)

    def inputs(*names: str) -> dict[str, Any]:
        return {name: settings[name] for name in names}

    sources = RunFolder(config.output_dir).read_manifest()["sources"]
    text = {"sources": sources, "pairs are": _stamps(config.pairs), **inputs(*_READING)}
    return [
        *_before(work, {**text, **inputs(*_BASE)}, inputs),
        *_trainings(work, inputs),
        *_after(work, inputs),
    ]


def _before(work: Work, start: dict[str, Any], inputs: Callable[..., dict[str, Any]]) -> list[Stage]:
    judging = inputs("eval_passages", "language")
    return [
        Stage(
            "plan",
            "a look at text, base and machine",
            work.make_plan,
            {**start, **judging, **inputs("minutes", "base_index")},
            leaves=(PLAN,),
        ),
        Stage("corpus", "passages, and queries made of them", work.read, start, leaves=("corpus",)),
        Stage(
            "questions",
            "questions by a language model",
            work.generate,
            inputs("generate_url", "generate_model", "generate_most"),
            after=("corpus",),
        ),
        Stage(
            "base",
            "what is there without training: the base and BM25",
            work.judge_untouched,
            {**inputs(*_BASE), **judging},
            after=("plan", "corpus"),
            leaves=("judged/bm25.trec",),
        ),
    ]


def _trainings(work: Work, inputs: Callable[..., dict[str, Any]]) -> list[Stage]:
    def leaves(name: str, *more: str) -> tuple[str, ...]:
        return *more, f"stages/{name}", f"judged/{name}.trec"

    return [
        Stage(
            "pretrained",
            "pre-training on the text",
            work.pretrain,
            after=("plan", "corpus"),
            leaves=leaves("pretrained", "rows"),
            run="stages/pretrained",
        ),
        Stage(
            "contrastive",
            "training on pairs from the text",
            work.train,
            after=("pretrained", "questions"),
            leaves=leaves("contrastive"),
            run="stages/contrastive",
        ),
        Stage(
            "hard",
            "training again, with mined negatives",
            work.train_again,
            after=("contrastive",),
            leaves=leaves("hard", "stages/negatives"),
            run="stages/hard",
        ),
        Stage(
            "averaged",
            "half way back to the base",
            work.average,
            inputs("trained_share"),
            after=("base", "hard"),
            leaves=leaves("averaged"),
        ),
    ]


def _after(work: Work, inputs: Callable[..., dict[str, Any]]) -> list[Stage]:
    judged = ("base", "pretrained", "contrastive", "hard", "averaged")
    return [
        Stage("verdict", "the verdict", work.judge, after=judged, leaves=(VERDICT, SYSTEM, "model")),
        Stage("index", "an index of all passages", work.index, after=("verdict",), leaves=("index",)),
        Stage(
            "base_index",
            "the same with the untouched base, to look at side by side",
            work.index_base,
            inputs("base_index"),
            after=("base",),
            leaves=("base_index",),
        ),
        Stage("report", "the report", work.report, after=("index", "base_index"), leaves=("report.html",)),
    ]


def verdict_of(run: Path) -> str:
    """The verdict's sentence."""
    return str(json.loads((run / VERDICT).read_text(encoding="utf-8"))["sentence"])
