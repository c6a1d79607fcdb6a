"""Negatives that follow the weights (ANCE): mined anew every so many steps, until they no longer change."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.core.runs import RunFolder
from retromae.text.candidates import Candidates
from retromae.text.pairs import Pairs
from retromae.training.finetune_settings import FinetuneConfig
from retromae.training.negatives import MineConfig, mine, turnover
from retromae.training.student import Student


class Refreshing:
    """The mined negatives of a run. What was mined lies in `negatives/step-N` of its folder."""

    def __init__(
        self, config: FinetuneConfig, run: RunFolder, pairs: Pairs, student: Student, console: Console | None
    ) -> None:
        self.config, self.run, self.pairs, self.student, self.console = config, run, pairs, student, console
        self.folder = run.path / "negatives"

    def _mined(self) -> list[int]:
        """The steps that there are negatives of, in order."""
        return sorted(int(path.name.split("-")[1]) for path in self.folder.glob("step-*") if path.is_dir())

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _open(self, step: int) -> Candidates:
        return Candidates.open(self._path(step), self.pairs)

    def settled(self, step: int) -> bool:
        """Have the negatives stopped changing, as far as this step knows?"""
        known = [at for at in self._mined() if at <= step]
        return bool(known) and bool(self._open(known[-1]).facts.get("settled"))

    def next_after(self, step: int, last: int) -> int:
        """Where the segment that holds `step` ends."""
        every = self.config.refresh_every
        return last if every is None or self.settled(step) else min(last, step - step % every + every)

    def at(self, step: int, given: Candidates | None) -> Candidates | None:
        """The negatives to train on from `step`: `given` ones until the first refresh, mined ones then.

        Where a segment begins here the current weights mine them, unless a run that was interrupted has done so.
        """
        every = self.config.refresh_every
        if every is None or (step < every and given is not None):
            return given
        known = [at for at in self._mined() if at <= step]
        begin = step - step % every
        if self.settled(step) or (known and known[-1] == begin):
            return self._open(known[-1])
        if step != begin:
            raise UserError(f"'{self._path(begin)}' is missing; restore it, or start the run again.")
        before = self._open(known[-1]) if known else given
        distributed.first_decides(lambda: self._drop_older(known))
        return self._mine(step, before)

    def _mine(self, step: int, before: Candidates | None) -> Candidates:
        config = self.config
        rules = MineConfig(
            depth=config.refresh_depth,
            absolute_margin=config.absolute_margin,
            relative_margin=config.relative_margin,
        )
        work = self.folder / f".work-{step}"
        device = self.student.model.device.type
        with warnings.catch_warnings(), torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            # passage_max_len says so
            warnings.filterwarnings("ignore", message=".* are longer than .* tokens")
            found = mine(self.student.encoder(), self.pairs, work, rules, progress=self.console is not None)
        facts: dict[str, Any] = {"step": step}
        if before is not None:
            new = turnover(before.lists, found.lists, config.negatives_window)
            facts |= {"turnover": round(new, 4), "settled": new < config.refresh_until}
        found.facts.update(facts)
        distributed.first_decides(lambda: self._keep(step, found))
        if before is not None and distributed.writes():
            self.run.log({"step": step, "negatives_turnover": facts["turnover"]})
        if self.console is not None:
            new_share = f", {facts['turnover']:.0%} of them new" if before is not None else ""
            ending = "; they no longer change much, so this was the last time" if facts.get("settled") else ""
            self.console.print(
                f"step {step}: negatives mined with the current weights{new_share}{ending}", highlight=False
            )
        return found

    def _keep(self, step: int, found: Candidates) -> None:
        found.write(self._path(step), self.pairs)
        write_json(self.folder / f"step-{step}.json", found.facts)

    def _drop_older(self, known: list[int]) -> None:
        """All but the last are no longer needed; their facts stay."""
        for step in known[:-1]:
            shutil.rmtree(self._path(step))

    def history(self) -> list[dict[str, Any]]:
        """Step, turnover and what was dropped, of every refresh."""
        wanted = ("step", "turnover", "settled", "candidates", "dropped")
        files = self.folder.glob("step-*.json")
        facts = sorted((json.loads(file.read_text("utf-8")) for file in files), key=lambda fact: fact["step"])
        return [{name: fact[name] for name in wanted if name in fact} for fact in facts]

    def clean(self) -> None:
        """Vectors that an interrupted refresh has left."""
        for path in self.folder.glob(".work-*"):
            shutil.rmtree(path, ignore_errors=True)
