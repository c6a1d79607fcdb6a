"""What a run's folder says of where it was made."""

from __future__ import annotations

import sys

import pytest

from retromae.core.runs import facts_about_here


@pytest.mark.parametrize("program", ["/somewhere/bin/retromae", "/elsewhere/src/retromae/__main__.py"])
def test_the_command_is_told_as_it_is_typed(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program, "pretrain", "--rows", "runs/rows"])
    assert facts_about_here()["command"] == ["retromae", "pretrain", "--rows", "runs/rows"]
