"""One made-up run with its report, for all tests that only look; and one that a test may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.report.made_up import make_run
from retromae.app.report.page import write_report


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with its report written; do not write to it."""
    run = make_run(tmp_path_factory.mktemp("report") / "docs")
    write_report(run)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "docs")
