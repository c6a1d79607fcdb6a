"""Fixtures for all tests. Nothing here, or anywhere in the tests, reaches the network."""

from __future__ import annotations

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from tiny import tiny_model

torch.set_num_threads(1)
logging.disable_progress_bar()


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage, which every Trainer calls, need not look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_folder(family)` is a folder in the hub's layout, made once per session; do not write to it."""

    @cache
    def folder(family: str) -> Path:
        return tiny_model(family, tmp_path_factory.mktemp("tiny") / family)

    return folder
