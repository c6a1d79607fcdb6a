"""Pieces that the common start and every arm share: how long a run is, what it took, how it ended."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from retromae.app.compare.arms import SHAPE
from retromae.app.compare.budget import Budget
from retromae.core.runs import RunFolder
from retromae.models.checkpoint import Checkpoint
from retromae.objectives import Objective
from retromae.text.rows import Rows
from retromae.training.row_plan import RowPlan, Spent
from retromae.training.session import last_logged
from retromae.training.settings import Resolved
from retromae.training.start import build_objective, open_start

# Settings that change where something lies or what is shown, not what comes out; lengths follow from the budget.
FREE = {
    *("rows", "model_name_or_path", "output_dir", "max_steps", "minutes", "num_train_epochs", "eval_steps"),
    *("dataloader_num_workers", "logging_steps", "save_steps", "save_total_limit", "report_to"),
    *SHAPE,  # what a run starts from is known by its own fingerprint
}
_MEASUREMENTS = 10  # of a run, unless eval_steps is given


class Opened:
    """An objective on its start, to ask what its steps take before and after they are done."""

    def __init__(self, settings: Resolved, rows: Rows) -> None:
        start: Checkpoint = open_start(settings.run, rows)
        self.objective: Objective = build_objective(settings, start)
        self.plan = RowPlan.of(settings.run, rows, start.tokenizer, self.objective.backbone.max_length)
        self._known: dict[tuple[int, int], float] = {}

    def flops(self, rows: int, length: int) -> float:
        """Of a training step on such a batch; few shapes occur, so each is reckoned once."""
        if (rows, length) not in self._known:
            self._known[rows, length] = self.objective.flops(rows, length)
        return self._known[rows, length]

    def steps(self, budget: Budget) -> int | None:
        return budget.steps(self.plan, self.flops)

    def spent(self, steps: int) -> Spent:
        """What so many steps have taken."""
        parts = list(itertools.islice(self.plan.spending(self.flops), steps))
        return Spent(sum(part.tokens for part in parts), sum(part.flops for part in parts))


def budgeted(settings: Resolved, budget: Budget, rows: Rows, given: set[str]) -> Resolved:
    """The settings with the length that the budget is worth; `given` are the names that somebody wrote down."""
    return with_length(settings, budget, Opened(settings, rows).steps(budget), given)


def with_length(settings: Resolved, budget: Budget, steps: int | None, given: set[str]) -> Resolved:
    run = replace(settings.run, max_steps=steps, minutes=budget.amount if budget.kind == "minutes" else None)
    if steps is not None and "eval_steps" not in given:
        run = replace(run, eval_steps=max(1, steps // _MEASUREMENTS))
    return Resolved(run, settings.objective)


class Stopwatch:
    """Seconds that a run took, those before an interruption included."""

    seconds = 0.0

    @contextmanager
    def running(self, run: RunFolder) -> Iterator[None]:
        before, began = last_logged(run, "seconds"), time.monotonic()
        yield
        self.seconds = before + time.monotonic() - began
