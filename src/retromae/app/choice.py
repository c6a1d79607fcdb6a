"""What is chosen for a text, a base and a machine, with its reasons: between `doctor`, which shows it, and `adapt`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    reasons: list[str]
    """Sentences: what is chosen and why."""
    command: list[str]
    """The words of the exact command to run, quoted for a shell where they need it."""
