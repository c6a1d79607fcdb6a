"""JSON from a run folder, read strictly: what is missing or of another kind is one clear sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError


class Fields:
    """One JSON object of a file; `where` is the way to it, for the sentence about what is damaged."""

    def __init__(self, value: Any, path: Path, where: str = "") -> None:
        self.path, self.where = path, where
        if not isinstance(value, dict):
            raise self.damaged("is no object")
        self.values: dict[str, Any] = value

    @classmethod
    def open(cls, path: Path, missing: str) -> Fields:
        """The object that a file holds; `missing` is the sentence for when there is no such file."""
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError:
            raise UserError(missing) from None
        except (OSError, ValueError):
            raise UserError(f"'{path}' is damaged: it cannot be read as JSON; run the job again.") from None

    def damaged(self, what: str, name: str = "") -> UserError:
        place = ".".join(part for part in (self.where, name) if part)
        return UserError(f"'{self.path}' is damaged: {place or 'its content'} {what}; run the job again.")

    def _get(self, name: str, kinds: tuple[type, ...], expected: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.damaged(f"is not {expected}", name)
        return value

    def _below(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        return str(self._get(name, (str,), "a text"))

    def whole(self, name: str) -> int:
        return int(self._get(name, (int,), "a whole number"))

    def number(self, name: str) -> float:
        value = float(self._get(name, (int, float), "a number"))
        if not math.isfinite(value):
            raise self.damaged("is not a number", name)
        return value

    def maybe_text(self, name: str) -> str | None:
        return self.text(name) if self.has(name) else None

    def maybe_whole(self, name: str) -> int | None:
        return self.whole(name) if self.has(name) else None

    def maybe_number(self, name: str) -> float | None:
        return self.number(name) if self.has(name) else None

    def part(self, name: str) -> Fields:
        return Fields(self._get(name, (dict,), "an object"), self.path, self._below(name))

    def parts(self, name: str) -> list[Fields]:
        found = self._get(name, (list,), "a list")
        return [Fields(value, self.path, f"{self._below(name)}[{at}]") for at, value in enumerate(found)]

    def weights(self, name: str) -> list[tuple[str, float]]:
        """A list of [word, weight]."""
        found = self._get(name, (list,), "a list")
        pairs = []
        for one in found:
            if not (isinstance(one, list) and len(one) == 2):
                raise self.damaged("is not a list of words with weights", name)
            pair = Fields({"word": one[0], "weight": one[1]}, self.path, self._below(name))
            pairs.append((pair.text("word"), pair.number("weight")))
        return pairs
