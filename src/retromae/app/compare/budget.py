"""What every arm may spend on pre-training: `20M-tokens`, `3e15-flops`, `30-minutes`, `500-steps`, `8-epochs`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from retromae.core.errors import UserError
from retromae.training.row_plan import Flops, RowPlan, Spent

Kind = Literal["tokens", "flops", "minutes", "steps", "epochs"]
_WHOLE = ("steps", "epochs")
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_FORM = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([kKMGBTPE]?)-([a-z]+)")


@dataclass(frozen=True)
class Budget:
    """So much of one kind, the same for every arm.

    Tokens are those of the text that an arm is shown, however often its objective encodes them. FLOPs are those of
    its matrix products, so that an objective with a dear decoder is shown less text.
    """

    amount: float
    kind: Kind

    @classmethod
    def parse(cls, text: str) -> Budget:
        match = _FORM.fullmatch(str(text).strip())
        kind = next((kind for kind in get_args(Kind) if match and match[3] in (kind, kind[:-1])), None)
        if match is None or kind is None:
            raise UserError(
                f"the budget is a number and what it counts, such as 20M-tokens, 3e15-flops, 30-minutes, "
                f"500-steps or 8-epochs, not '{text}'."
            )
        amount = float(match[1]) * _SCALES[match[2]]
        if not 0 < amount < math.inf or (kind in _WHOLE and amount != int(amount)):
            whole = f"a whole number of {kind}, at least one" if kind in _WHOLE else "above zero"
            raise UserError(f"the budget must be {whole}, not '{text}'.")
        return cls(amount, kind)

    def __str__(self) -> str:
        return f"{_short(self.amount)}-{self.kind}"

    def steps(self, plan: RowPlan, flops: Flops) -> int | None:
        """How many optimiser steps of a plan it is worth; None where time alone decides."""
        if self.kind == "epochs":
            return plan.batches.steps_in(int(self.amount))
        return self.of_spending(plan.spending(flops if self.kind == "flops" else None))

    def of_spending(self, spending: Iterator[Spent]) -> int | None:
        """The same, given what each step takes: the number whose sum comes nearest, and at least one."""
        if self.kind == "minutes":
            return None
        if self.kind == "steps":
            return int(self.amount)
        total = 0.0
        for number, spent in enumerate(spending, 1):
            before, total = total, total + getattr(spent, self.kind)
            if total <= before:
                raise UserError(f"a step takes no {self.kind}, so the budget {self} would never be spent.")
            if total >= self.amount:
                return number if number == 1 or total - self.amount <= self.amount - before else number - 1
        raise ValueError("spending must not end")


def _short(amount: float) -> str:
    """The shortest of the forms that `parse` reads back to the same number."""
    forms = [repr(amount), f"{amount:g}"]
    forms += [f"{amount / scale:g}{letter}" for letter, scale in _SCALES.items()]
    if amount == int(amount):
        forms.append(str(int(amount)))
    exact = [
        form for form in forms if (match := _FORM.fullmatch(f"{form}-steps")) and _value(match) == amount
    ]
    return min(exact, key=len)


def _value(match: re.Match[str]) -> float:
    return float(match[1]) * _SCALES[match[2]]
