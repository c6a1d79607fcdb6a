"""What is finished of a comparison as it is said now.

What was made otherwise may lie in its folder too, and does not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from retromae.app.compare.arms import BM25
from retromae.app.compare.ground import Ground
from retromae.app.compare.jobs import Job
from retromae.app.compare.settings import Comparison
from retromae.app.compare.stages import Outline, Stages, outlines
from retromae.app.ledger import Ledger, changes
from retromae.core.config import fingerprint

Key = tuple[Any, ...]


@dataclass
class Finished:
    """Of one job."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage → what came of it
    strange: str | None = None  # the first stage that was made otherwise, and how

    def all(self, comparison: Comparison) -> bool:
        return all(f"test {test.name}" in self.results for test in comparison.tests)


class Inspection:
    """Looks at one job after the other.

    With the ground every input is known. Without it, as in a folder that was carried to another machine, those that
    the comparison says are; rows, start, pairs and sets have to be those of the first job that has the rest right.
    """

    def __init__(self, comparison: Comparison, ground: Ground | None = None) -> None:
        self.comparison = comparison
        self.stages = Stages(comparison, ground) if ground is not None else None
        self.first: dict[Key, Any] = {}

    def of(self, job: Job) -> Finished:
        entries, found = job.ledger.read(), Finished()
        known = {stage.name: stage.inputs for stage in self.stages.of(job)} if self.stages else {}
        for outline in outlines(self.comparison, job):
            entry = entries.get(outline.name)
            if entry is None or not (outline.after is None or outline.after in found.results):
                continue
            inputs = entry["inputs"]
            shared = _shared(job, outline, inputs)
            after = entries[outline.after]["inputs"] if outline.after else None
            expected = known.get(outline.name) or {
                outline.origin: inputs.get(outline.origin) if after is None else fingerprint(after),
                **{name: self.first.get(key, inputs[name]) for name, key in shared.items()},
                **outline.settings,
            }
            different = changes(inputs, expected)
            if different:
                found.strange = found.strange or f"{outline.name} was made with other settings ({different})"
            elif "result" in entry:
                found.results[outline.name] = dict(entry["result"])
                for name, key in shared.items():
                    self.first.setdefault(key, inputs[name])
        return found

    def leaks(self) -> list[str]:
        """Test texts in the training text. They were looked up for one arm, which may be none of the comparison's."""
        found = []
        ledgers = sorted(self.comparison.folder.glob("arms/*/seed-*/arm.json"))
        for name in (f"test {test.name}" for test in self.comparison.tests):
            for entries in (Ledger(file).read() for file in ledgers):
                looked_up = entries.get(name, {}).get("result", {}).get("warnings", [])
                if (
                    looked_up
                    and self._of_these(entries, "pretrained", "rows")
                    and self._of_these(entries, name, "set")
                ):
                    found += looked_up
        return list(dict.fromkeys(found))

    def _of_these(self, entries: dict[str, Any], stage: str, name: str) -> bool:
        return stage in entries and entries[stage]["inputs"].get(name) == self.first.get((stage, name))


def _shared(job: Job, outline: Outline, inputs: dict[str, Any]) -> dict[str, Key]:
    """The inputs that other jobs have in common with this one, and by what they are known."""
    found: dict[str, Key] = {
        name: (outline.name, name) for name in ("rows", "pairs", "set") if name in inputs
    }
    if outline.after is None and job.arm.model is None and outline.origin in inputs:
        found[outline.origin] = ("start", job.seed if job.arm.trains else BM25)
    return found
