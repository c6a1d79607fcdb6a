"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from shutil import disk_usage

import torch

_CGROUP = Path("/sys/fs/cgroup")
_PACKAGE = "retromae"
_BUSY = 1.25  # processes that want to run, per core


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Missing:
    """Packages of an extra that are not installed."""

    packages: list[str]
    needed_for: str
    command: str


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes; limits of a container count."""

    cores: int
    """That this process may use."""
    load: float
    """Processes that wanted to run in the last minute, on average."""
    memory: int
    free_memory: int
    output: str
    free_disk: int
    """Where `output` would be written."""
    gpus: list[Gpu]
    torch_threads: int
    busy: bool
    """Whether others want so much of the processors that measured times are long."""
    missing: list[Missing]


def look(output: str | Path, extras: Sequence[tuple[str, str]] = ()) -> Machine:
    """`extras`: (extra of the package, what for) that would be needed."""
    memory, free = _memory()
    place = Path(output).absolute()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Machine(
        cores=_cores(),
        load=load,
        memory=memory,
        free_memory=free,
        output=str(output),
        free_disk=disk_usage(next(p for p in (place, *place.parents) if p.exists())).free,
        gpus=_gpus(),
        torch_threads=torch.get_num_threads(),
        busy=load > _BUSY * (os.cpu_count() or 1),
        missing=[found for extra, what in extras if (found := missing(extra, what)) is not None],
    )


def _cores() -> int:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    allowed = round(int(quota) / int(period)) if quota.isdigit() and period.strip().isdigit() else affinity
    return max(1, min(affinity, allowed))


def _memory() -> tuple[int, int]:
    """(all, free): of the machine or the container, whichever is less."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.M)
    free = int(found[1]) * 1024 if found else total
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        total, free = min(total, int(limit)), min(free, max(0, int(limit) - int(used)))
    return total, free


def _gpus() -> list[Gpu]:
    found = []
    for number in range(torch.cuda.device_count()):
        free, memory = torch.cuda.mem_get_info(number)
        found.append(Gpu(torch.cuda.get_device_name(number), memory, free))
    return found


def missing(extra: str, needed_for: str) -> Missing | None:
    """What is not installed of an extra of this package, or None."""
    wanted = []
    for requirement in metadata.requires(_PACKAGE) or []:
        named = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if named and named[1] == extra:
            wanted.append(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]
    absent = [name for name in wanted if not _installed(name)]
    return Missing(absent, needed_for, f"pip install '{_PACKAGE}[{extra}]'") if absent else None


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
