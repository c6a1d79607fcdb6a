"""Frozen sentence vectors for STS and transfer tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError

Encode = Callable[[list[str]], npt.NDArray[Any]]
Vectors = npt.NDArray[np.float64]


def encode_once(encode: Encode, texts: Sequence[str]) -> Vectors:
    """(texts, dimensions): every distinct text is encoded once, all in one call."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = np.asarray(encode(list(places)), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(places):
        raise UserError(f"the encoder gave an array of shape {vectors.shape} for {len(places)} texts.")
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise UserError(f"the encoder gave a vector with NaN or infinity for {list(places)[bad][:80]!r}.")
    return vectors[[places[text] for text in texts]]


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a data file without their ends. Only line feeds end lines, as in the published readers."""
    try:
        text = path.read_text(encoding=encoding)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not {encoding}; is it the file as published?") from None
    return text.removesuffix("\n").split("\n")


def read_columns(path: Path, needed: int, *, header: bool, encoding: str = "utf-8") -> list[list[str]]:
    """The tab-separated rows of a file, each with at least `needed` columns."""
    rows = [line.split("\t") for line in read_lines(path, encoding)][int(header) :]
    for number, row in enumerate(rows, 1 + header):
        if len(row) < needed:
            raise UserError(f"{path}, line {number} has {len(row)} columns, expected at least {needed}.")
    return rows


def as_number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path} has {text!r} where a score should be.") from None
