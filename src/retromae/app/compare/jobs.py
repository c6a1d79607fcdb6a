"""The pieces of work of a comparison, and who does which.

arms/NAME/seed-N/
  arm.json                  what is done, with what, and what it took
  pretrained/  finetuned/   run folders, as `retromae pretrain` and `retromae finetune` leave them
  tests/SET/                the value of every query
  .lock                     held by the process that works on it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retromae.app.compare.arms import Arm
from retromae.app.compare.settings import Comparison, EvalSet
from retromae.app.ledger import Ledger
from retromae.core.errors import UserError


@dataclass(frozen=True)
class Job:
    """One arm with one seed."""

    arm: Arm
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "arm.json")


def jobs_of(comparison: Comparison) -> list[Job]:
    """Seed by seed, so that a comparison that is broken off has all arms alike. BM25 knows no seeds."""
    return [
        Job(arm, seed, comparison.folder / "arms" / arm.name / f"seed-{seed}")
        for seed in comparison.seeds
        for arm in comparison.arms
        if arm.trains or seed == comparison.seeds[0]
    ]


def alike(comparison: Comparison, job: Job) -> list[Job]:
    """Jobs of other arms that are pre-trained in the same way with the same seed: only their fine-tuning differs."""
    if not job.arm.pretrains:
        return []
    same = comparison.pretraining(job.arm, seed=job.seed)
    return [
        other
        for other in jobs_of(comparison)
        if other.seed == job.seed and other.arm.pretrains and other.arm != job.arm
        if comparison.pretraining(other.arm, seed=other.seed) == same
    ]


def part_of(jobs: Sequence[Job], part: str | None, only: Iterable[str]) -> list[Job]:
    """The share of one machine: `2/3` is every third job from the second on; `only` names arms."""
    names = list(only)
    unknown = [name for name in names if all(job.arm.name != name for job in jobs)]
    if unknown:
        known = ", ".join(dict.fromkeys(job.arm.name for job in jobs))
        raise UserError(f"--only: there is no arm '{unknown[0]}'; there are {known}.")
    chosen = [job for job in jobs if not names or job.arm.name in names]
    if part is None:
        return chosen
    which, _, parts = part.partition("/")
    if not (which.isdecimal() and parts.isdecimal() and 1 <= int(which) <= int(parts)):
        raise UserError(f"--part is one of so many, such as 1/2, not '{part}'.")
    return chosen[int(which) - 1 :: int(parts)]


def test_folder(job: Job, test: EvalSet) -> Path:
    safe = "".join(letter if letter.isalnum() or letter in "-_.+" else "-" for letter in test.name)
    return job.folder / "tests" / safe
