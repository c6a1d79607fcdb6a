"""What is finished of a comparison as it is said now.

What was made otherwise may lie in its folder too, and does not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retromae.app.compare.arms import BM25
from retromae.app.compare.ground import Ground, model_fingerprint
from retromae.app.compare.jobs import Job
from retromae.app.compare.settings import Comparison
from retromae.app.compare.stages import Outline, Stages, outlines, pairs_content, set_content
from retromae.app.ledger import Ledger, changes
from retromae.core.config import fingerprint
from retromae.core.errors import UserError

Key = tuple[Any, ...]
_DIGEST = re.compile(r"[0-9a-f]{16,64}")  # what a folder's content is known by; a hub's model has its name


@dataclass
class Finished:
    """Of one job."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage → what came of it
    strange: str | None = None  # the first stage that was made otherwise, and how

    def all(self, comparison: Comparison) -> bool:
        return all(f"test {test.name}" in self.results for test in comparison.tests)


class Inspection:
    """Looks at one job after the other.

    With the ground every input is known. Without it, those that the comparison says are, and the content of data and
    models that are here; of what is not, as in a folder that was carried to another machine, every job must have what
    the first one had that has the rest right.
    """

    def __init__(self, comparison: Comparison, ground: Ground | None = None) -> None:
        self.comparison = comparison
        self.stages = Stages(comparison, ground) if ground is not None else None
        self.first: dict[Key, Any] = {}

    def of(self, job: Job) -> Finished:
        entries, found = job.ledger.read(), Finished()
        known = self._known(job) if entries else {}
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
                **self._here(job, outline, inputs),
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

    def _known(self, job: Job) -> dict[str, dict[str, Any]]:
        """By stage; of an arm whose own model is not whole at the moment, nothing."""
        try:
            return {stage.name: stage.inputs for stage in self.stages.of(job)} if self.stages else {}
        except UserError:
            if job.arm.model is None:
                raise
            return {}

    def _here(self, job: Job, outline: Outline, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What can be known of a stage's origin without the ground: from data and models that are on this machine."""
        found: dict[str, Any] = {}
        model = job.arm.model or (None if self.comparison.common else self.comparison.model)
        if job.arm.trains and outline.after is None and model is not None and outline.origin in inputs:
            content = _model_content(model)
            if content is not None and (
                content != model or not _DIGEST.fullmatch(str(inputs[outline.origin]))
            ):
                found[outline.origin] = content
        if "pairs" in inputs:
            config = self.comparison.finetuning(job.arm, seed=job.seed)
            if Path(config.pairs).exists():
                found["pairs"] = pairs_content(config.pairs, config.split, config.cache)
        test = outline.test
        if test is not None and test.split is not None and Path(test.beir).is_dir():
            found["set"] = set_content(test.beir, test.split)
        return found

    def leaks(self) -> list[str]:
        """Test texts in the training text. They were looked up for one arm, which may be none of the comparison's."""
        found = []
        ledgers = sorted(self.comparison.folder.glob("arms/*/seed-*/arm.json"))
        for name in (f"test {test.name}" for test in self.comparison.tests):
            for entries in (Ledger(file).read() for file in ledgers):
                looked_up = entries.get(name, {}).get("result", {}).get("warnings", [])
                origin = [("pretrained", "rows"), ("finetuned", "pairs"), (name, "set")]
                if looked_up and all(self._of_these(entries, stage, data) for stage, data in origin):
                    found += looked_up
        return list(dict.fromkeys(found))

    def _of_these(self, entries: dict[str, Any], stage: str, name: str) -> bool:
        """Has it the data that those have which were looked at? A stage that is not there has none."""
        if stage not in entries or (stage, name) not in self.first:
            return stage not in entries
        return bool(entries[stage]["inputs"].get(name) == self.first[stage, name])


def _model_content(model: str) -> str | None:
    """As the ground knows it; None for a folder that is not whole."""
    try:
        return model_fingerprint(model)
    except UserError:
        return None


def _shared(job: Job, outline: Outline, inputs: Mapping[str, Any]) -> dict[str, Key]:
    """The inputs that other jobs have in common with this one, and by what they are known."""
    names = (name for name in ("rows", "pairs", "published negatives", "set") if name in inputs)
    found: dict[str, Key] = {name: (outline.name, name) for name in names}
    if outline.after is None and job.arm.model is None and outline.origin in inputs:
        found[outline.origin] = ("start", job.seed if job.arm.trains else BM25)
    return found
