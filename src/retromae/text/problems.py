"""What could not be read: counted by kind, with the first examples kept, and never silent.

A `Problem` travels in the same stream as the documents, so that its place in the order is known and an
interrupted preparation counts each one exactly once. `Problems` collects them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from retromae.core.errors import UserError

OnError = Literal["skip", "stop"]

EXAMPLES_PER_KIND = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was not read. `line` is 0 where the whole file is meant."""

    kind: str
    file: str
    line: int
    sentence: str
    harmless: bool = False
    """True for what nobody expects to be read (an image in a folder): reported, never a reason to stop."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


@dataclass
class Problems:
    """Counts by kind, and the first few of each kind in words. With "stop", the first real one raises."""

    on_error: OnError = "skip"
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: Problem) -> None:
        if self.on_error == "stop" and not problem.harmless:
            raise UserError(f"{problem} Mend it, or go on without it: --on-error skip.")
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
        examples = self.examples.setdefault(problem.kind, [])
        if len(examples) < EXAMPLES_PER_KIND:
            examples.append(str(problem))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        """One line per kind with its first example; empty when all was well."""
        return "\n".join(
            f"{count} × {kind.replace('_', ' ')}, first: {self.examples[kind][0]}"
            for kind, count in sorted(self.counts.items())
        )

    def state(self) -> dict[str, Any]:
        """Plain values for a JSON file; `restore` takes them back."""
        return {"counts": dict(self.counts), "examples": {kind: list(e) for kind, e in self.examples.items()}}

    @classmethod
    def restore(cls, state: dict[str, Any], on_error: OnError = "skip") -> Problems:
        return cls(on_error, dict(state["counts"]), {kind: list(e) for kind, e in state["examples"].items()})
