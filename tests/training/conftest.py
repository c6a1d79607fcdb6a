"""Rows and settings that tests of pre-training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import runs


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]) -> Path:
    return runs.prepare_rows(tmp_path_factory.mktemp("data"), tiny_folder("bert"))


@pytest.fixture
def given(rows: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`given(**changed)` are the settings of a small run into `tmp_path / "run"`, with those changed."""
    return lambda **changed: runs.settings(rows, tiny_folder("bert"), tmp_path / "run") | changed
