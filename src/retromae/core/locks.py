"""Who writes where: a folder is held by one job at a time, and let go of when its process ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retromae.core import distributed
from retromae.core.errors import UserError

_held: set[int] = set()  # open folders; a copy in a forked child would outlive a process that is killed


def _let_go() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def claim(folder: str | Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold `folder` while the block runs; False, for a whole process group, where another job holds it.

    With `wait` the block runs once nobody else holds it. The folder is made, and removed again where nothing was put
    into it.
    """
    if distributed.writes():
        with _claim(Path(folder), wait) as mine:
            yield distributed.first_decides(lambda: mine)
    else:
        yield distributed.first_decides(lambda: False)


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Hold `folder` while the block runs, or refuse: two jobs in one folder would spoil each other's work."""
    with claim(folder) as mine:
        if not mine:
            raise UserError(
                f"Another process is at work in '{folder}'; wait until it has ended, or choose another output_dir.",
                told=not distributed.writes(),
            )
        yield


@contextmanager
def _claim(folder: Path, wait: bool) -> Iterator[bool]:
    if sys.platform == "win32" or (folder.exists() and not folder.is_dir()):
        yield True  # no such locks; or a file, which whoever wants to write there refuses in better words
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        yield _locked(descriptor, wait)
    finally:
        _held.discard(descriptor)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # something was put into it
                folder.rmdir()


def _locked(descriptor: int, wait: bool) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
