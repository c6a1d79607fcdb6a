"""Fixtures of the tests that type commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.command_line import CommandLine, write_set


@pytest.fixture
def retromae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_set(tmp_path / "toy")
