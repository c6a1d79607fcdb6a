"""What all arms stand on: data sets of the hub, token rows, and the start, made once and the same for all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from retromae.app.compare.arms import SHAPE
from retromae.app.compare.settings import Common, Comparison, common_run, fetched, fresh_start
from retromae.app.compare.work import FREE, budgeted
from retromae.app.ledger import Ledger, changes
from retromae.core import distributed
from retromae.core.config import fingerprint
from retromae.core.errors import UserError
from retromae.core.files import file_sha256, replacing_folder
from retromae.core.locks import claim
from retromae.models.checkpoint import save
from retromae.models.folders import ModelFolder
from retromae.text.hub_collections import fetch
from retromae.text.layouts import need_file
from retromae.text.pairs import Pairs
from retromae.text.prepare import PrepareConfig
from retromae.text.prepare import prepare as prepare_rows
from retromae.text.rows import Rows
from retromae.training.negatives import mine_bm25
from retromae.training.pretrain import pretrain
from retromae.training.published_negatives import read_published
from retromae.training.session import went_through
from retromae.training.settings import PretrainConfig
from retromae.training.settings import resolve as resolve_settings
from retromae.training.start import open_start

Say = Callable[[str], None]
MARK = "ground.json"  # in a folder that holds a comparison


@dataclass(frozen=True)
class Start:
    """A model to go on from, and what tells whether it changed."""

    model: str
    fingerprint: str


@dataclass(frozen=True)
class Ground:
    """Rows for all arms, and the start of each seed."""

    rows: Rows
    starts: dict[int, Start]
    negatives: str | None
    """Mined for all arms."""
    published: str | None
    """The content of the file that they are from, if they were not mined."""


def prepare(comparison: Comparison, say: Say, console: Console | None, *, restart: bool) -> Ground:
    """Make what is not there yet. A second process waits until the first has made it."""
    with claim(comparison.folder, wait=True):
        return _Making(comparison, say, console, restart).ground()


def check(comparison: Comparison) -> None:
    """Refuse a folder whose rows or start were made with other settings than the comparison says; makes nothing."""
    entries = Ledger(comparison.folder / MARK).read()
    for stage, inputs in _said(comparison).items():
        if stage in entries:
            before = {name: value for name, value in entries[stage]["inputs"].items() if name in inputs}
            _refuse(comparison, stage, changes(before, inputs))


def _said(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Stage → those of its inputs that depend on nothing that has to be there."""
    common, found = comparison.common, dict[str, dict[str, Any]]()
    for stage, config in (("rows", comparison.prepare), ("common rows", common.prepare if common else None)):
        if config is not None:
            found[stage] = config.deciding()
            if config.tokenizer is None and config.train_tokenizer is None:  # another's
                del found[stage]["tokenizer"]
    if common is not None:
        found["common"] = _common_settings(common) | ({} if comparison.model else {"start": comparison.start})
    elif comparison.model is None:
        found |= {f"start {seed}": _fresh_settings(comparison, seed) for seed in comparison.seeds}
    if comparison.negatives is not None:
        found["negatives"] = vars(comparison.negatives)
    return found


def _common_settings(common: Common) -> dict[str, Any]:
    flat = resolve_settings({"keep_best": False, **common.settings}).flat()
    return {"budget": str(common.budget), **{name: value for name, value in flat.items() if name not in FREE}}


def _fresh_settings(comparison: Comparison, seed: int) -> dict[str, Any]:
    """What decides about a model from scratch, but for its vocabulary."""
    shape = {name: comparison.start[name] for name in SHAPE if name in comparison.start}
    length = {name: comparison.pretrain[name] for name in ("max_seq_length",) if name in comparison.pretrain}
    return {"seed": seed, **shape, **length}


def _refuse(comparison: Comparison, stage: str, different: str) -> None:
    if different:
        raise UserError(
            f"{stage} in '{comparison.folder}' was made with other settings ({different}); choose another output_dir, "
            "or make it again with --restart."
        )


class _Making:
    def __init__(self, comparison: Comparison, say: Say, console: Console | None, restart: bool) -> None:
        self.comparison, self.say, self.console, self.restart = comparison, say, console, restart
        self.folder = comparison.folder
        self.ledger = Ledger(self.folder / MARK)

    def ground(self) -> Ground:
        self.ledger.open()
        rows, starts = self._rows_and_starts()
        file = self.comparison.published_negatives
        published = None if file is None else file_sha256(need_file(Path(file).parent, Path(file).name))
        return Ground(rows, starts, self._negatives(published), published)

    def _rows_and_starts(self) -> tuple[Rows, dict[int, Start]]:
        comparison, common = self.comparison, self.comparison.common
        for name, source in comparison.data.items():
            place = fetched(self.folder, name)
            self._once(f"data {name}", {"source": source}, place, partial(fetch, source))
        if common is not None and (common.rows or common.prepare):
            first = self._rows(common.rows, common.prepare, self.folder / "common" / "rows", comparison.model)
            rows = self._rows(
                comparison.rows, comparison.prepare, self.folder / "rows", str(first.tokenizer_path)
            )
        else:
            rows = self._rows(comparison.rows, comparison.prepare, self.folder / "rows", comparison.model)
            first = rows
        if common is not None:
            start = self._pretrained(common, first)
            return rows, dict.fromkeys(comparison.seeds, start)
        if comparison.model is not None:
            start = Start(comparison.model, model_fingerprint(comparison.model))
            return rows, dict.fromkeys(comparison.seeds, start)
        return rows, {seed: self._fresh(rows, seed) for seed in comparison.seeds}

    def _negatives(self, published: str | None) -> str | None:
        """What BM25 finds for the queries that are trained on, or what was published."""
        comparison, config = self.comparison, self.comparison.negatives
        if config is None or comparison.finetune is None:
            return None
        tuning = comparison.finetune
        pairs = Pairs.open(tuning["pairs"], tuning.get("split", "train"), cache=tuning.get("cache"))
        folder = self.folder / "negatives"
        file = comparison.published_negatives
        inputs = {"pairs": pairs.fingerprint, **vars(config), "file": published}

        def make(at: Path) -> None:
            found = mine_bm25(pairs, config) if file is None else read_published(file, pairs, config)
            found.write(at, pairs)

        self._once("negatives", inputs, folder, make)
        return str(folder)

    def _rows(
        self, given: str | None, config: PrepareConfig | None, folder: Path, tokenizer: str | None
    ) -> Rows:
        if config is None:
            return Rows.open(str(given))
        settings = replace(config, out=str(folder))
        if settings.tokenizer is None and settings.train_tokenizer is None:
            settings = replace(settings, tokenizer=tokenizer)

        stage, inputs = " ".join(folder.relative_to(self.folder).parts), settings.deciding()
        self._state(stage, inputs, folder)

        def make() -> None:
            self.ledger.begin(stage, inputs)
            prepare_rows(
                settings, progress=self.console is not None
            )  # if all is done, looks whether it still holds
            self.ledger.finish(stage, inputs, {})

        distributed.first_decides(make)
        rows = Rows.open(folder)
        self.say(f"rows: {len(rows):,} passages in {folder}")
        return rows

    def _pretrained(self, common: Common, rows: Rows) -> Start:
        """The run that all arms go on from."""
        comparison, folder = self.comparison, common_run(self.folder)
        origin = (
            {"model": model_fingerprint(comparison.model)}
            if comparison.model is not None
            else comparison.start
        )
        values = {"keep_best": False, **common.settings}
        inputs = {"rows": rows.fingerprint, "start": origin, **_common_settings(common)}
        start = Start(str(folder / "model"), fingerprint(inputs))
        if self._state("common", inputs, folder) == "finished":
            self.say("common start: finished before")
            return start
        distributed.first_decides(lambda: self.ledger.begin("common", inputs))
        values |= {**comparison.start, "rows": str(rows.path), "output_dir": str(folder)}
        settings = budgeted(resolve_settings(values, comparison.where), common.budget, rows, set(values))
        self.say(f"common start: {settings.run.objective}, {common.budget}")
        resume = (folder / "config.yaml").is_file()
        went_through(pretrain(settings, resume=resume, console=self.console))
        distributed.first_decides(lambda: self.ledger.finish("common", inputs, {}))
        return start

    def _fresh(self, rows: Rows, seed: int) -> Start:
        """A model from scratch, saved: its weights are the same for all arms of a seed."""
        deciding = _fresh_settings(self.comparison, seed)
        config = PretrainConfig(rows=str(rows.path), **deciding)
        tokenizer = rows.info.tokenizer_fingerprint if rows.info is not None else rows.fingerprint
        inputs = {"tokenizer": tokenizer, **deciding}
        shown = {name: value for name, value in deciding.items() if name != "seed"}

        def make(folder: Path) -> None:
            torch.manual_seed(seed)
            start = open_start(config, rows)
            recipe = {"objective": None, "settings": shown, "provenance": {"seed": seed}}
            save(
                folder,
                start.backbone,
                start.tokenizer,
                {},
                recipe,
                config.max_seq_length,
                name=f"seed-{seed}",
            )

        folder = fresh_start(self.folder, seed)
        self._once(f"start {seed}", inputs, folder, make)
        return Start(str(folder), fingerprint(inputs))

    # -- once ---------------------------------------------------------------------------------------------------

    def _once(
        self, stage: str, inputs: Mapping[str, Any], folder: Path, make: Callable[[Path], None]
    ) -> None:
        """Let `make` fill a folder that is there whole or not at all."""
        if self._state(stage, inputs, folder) == "finished":
            return

        def do() -> None:
            self.ledger.begin(stage, inputs)
            with replacing_folder(folder) as temporary:
                make(temporary)
            self.ledger.finish(stage, inputs, {})

        self.say(stage)
        distributed.first_decides(do)

    def _state(self, stage: str, inputs: Mapping[str, Any], folder: Path) -> str:
        """What is changed is refused, or removed where the person said so."""

        def look() -> str:
            state = self.ledger.state(stage, inputs)
            if state == "changed" and not self.restart:
                _refuse(self.comparison, stage, self.ledger.changes(stage, inputs))
            if state == "changed":
                shutil.rmtree(folder, ignore_errors=True)
            return state if folder.is_dir() else "to do"

        return distributed.first_decides(look)


@cache
def model_fingerprint(model: str) -> str:
    """Of a local folder its content, of a hub's model its name."""
    inner = Path(model) / "model"
    folder = inner if inner.is_dir() else Path(model)
    return ModelFolder.open(folder).fingerprint if folder.is_dir() else model
