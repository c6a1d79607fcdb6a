"""Data sets on the hub (or local folders in its layout), streamed, and folders written by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError

HUB = "hub:"


def _hub_parts(source: str) -> tuple[str, str | None, str]:
    """hub:name:config@split → (name, config or None, split)."""
    name, _, split = source.removeprefix(HUB).partition("@")
    name, _, config = name.partition(":")
    return name, config or None, split or "train"


def hub_rows(source: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    name, config, split = _hub_parts(source)
    try:
        yield from load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # the hub client raises many kinds; each is the user's or the network's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The data set {source} cannot be read ({reason}); check its name, configuration and split "
            "(hub:NAME:CONFIG@SPLIT) and the connection."
        ) from error


def saved_rows(path: Path) -> Iterator[dict[str, Any]]:
    from datasets import load_from_disk

    try:
        yield from load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"The folder {path} was saved by datasets but cannot be read ({error}).") from error


def hub_hash(source: str) -> str:
    """What `datasets` calls the hash of this data set: of its revision on the hub, or of its local files."""
    from datasets import load_dataset_builder

    name, config, _ = _hub_parts(source)
    try:
        return str(load_dataset_builder(name, config).hash)
    except Exception as error:  # as in hub_rows
        raise UserError(f"The data set {source} cannot be opened ({error}).") from error
