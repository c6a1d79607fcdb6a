"""Fixtures for all tests. Nothing here, or anywhere in the tests, reaches the network.

torch is imported where it is needed: the process that only hands tests out to others does without.
"""

from __future__ import annotations

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage, which every Trainer calls, need not look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_folder(family)` is a folder in the hub's layout, made once per session; do not write to it."""
    from tiny import tiny_model

    @cache
    def folder(family: str) -> Path:
        return tiny_model(family, tmp_path_factory.mktemp("tiny") / family)

    return folder
