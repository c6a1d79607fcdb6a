"""The curve between two models as it is asked for: its sets, their splits, its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.evaluation.benchmarks import CQADUPSTACK, benchmark
from retromae.text.layouts import files_of

Role = Literal["in_domain", "out_of_domain"]
ROLES: tuple[Role, Role] = ("in_domain", "out_of_domain")
TUNED = 1.0  # the weight of the second model itself, which every point is tested against


@dataclass
class CurveConfig:
    """What the averages of two models are measured on."""

    in_domain: list[str] = setting(
        [], "folder of a retrieval set like those that the second model learned from"
    )
    out_of_domain: list[str] = setting(
        [], "folder of a retrieval set of another kind; the mean over them counts"
    )
    weights: list[str] = setting(
        ["0,0.25,0.5,0.75,1"], "shares of the second model, with commas between; 1 always takes part"
    )
    metric: str = setting("nDCG@10", "what is measured: nDCG@k, MRR@k, Recall@k, MAP, Success@k or P@k")
    split: str | None = setting(
        None,
        "split that is measured (default: dev where a set has one, otherwise the set's own, mostly test)",
    )
    keep: Literal["best", "all", "none"] = setting(
        "best", "averages whose models are kept; best by the mean of both axes"
    )
    output_dir: str | None = setting(None, "folder for the curve: picture, table, figures, points, models")


@dataclass(frozen=True)
class MeasuredSet:
    """A set of the curve."""

    name: str
    folder: str
    role: Role
    split: str

    def stamp(self) -> list[list[Any]]:
        """Name, size and time of every file that is read: what changes when the data do."""
        return [
            [file.relative_to(self.folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
            for file in _files(Path(self.folder), self.split)
        ]


def parse_weights(given: Sequence[str]) -> list[float]:
    """Rising and without repetition, 1 among them."""
    try:
        found = {float(label(float(w))) for text in given for w in text.split(",") if w.strip()}
    except ValueError:
        raise UserError(f"the weights are numbers with commas between, not {','.join(given)!r}.") from None
    if any(not 0 <= weight <= 1 for weight in found):
        raise UserError(f"every weight is a share from 0 to 1, but {','.join(given)} are given.")
    if not found - {TUNED}:
        raise UserError("a curve needs at least one weight below 1.")
    return sorted(found | {TUNED})


def planned_sets(config: CurveConfig) -> list[MeasuredSet]:
    """The sets with the split of each, dev where there is one and no other is asked for."""
    sets: list[MeasuredSet] = []
    for role in ROLES:
        for given in getattr(config, role):
            name = Path(given).resolve().name
            if not Path(given).is_dir():
                raise UserError(f"there is no folder {given}; name the folder that holds the collection.")
            split = config.split or ("dev" if _has_split(Path(given), "dev") else benchmark(name).split)
            if any(name == other.name for other in sets):
                raise UserError(f"two sets are called {name!r}; rename one of the folders.")
            sets.append(MeasuredSet(name, str(given), role, split))
    for role in ROLES:
        if all(one.role != role for one in sets):
            raise UserError(f"the curve has two axes: name at least one set with --{role}.")
    return sets


def _has_split(folder: Path, split: str) -> bool:
    try:
        _files(folder, split)
    except UserError:  # it says which file is not there
        return False
    return True


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split; of all forums where the folder is CQADupStack's."""
    forums = [folder / forum for forum in CQADUPSTACK if (folder / forum).is_dir()]
    parts = forums if folder.name == "cqadupstack" and forums else [folder]
    return [file for part in parts for file in files_of(part, split)]


def label(weight: float) -> str:
    """A weight as it is written everywhere: six digits at most."""
    return f"{weight:g}"
