"""Files appear whole or not at all: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it becomes `path`, otherwise it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block ends well.

    A folder cannot be renamed over another one, so the old one is set aside first. Whoever is killed between
    the two renames leaves it there: what opens such folders calls `restore` before it looks.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _replace(path, temporary)
    finally:
        restore(path)
        shutil.rmtree(temporary, ignore_errors=True)


def restore(path: str | Path) -> None:
    """Put the folder back that was set aside to be replaced, where nothing has taken its place."""
    path = Path(path)
    if not path.exists():
        with suppress(OSError):  # there is none, or somebody else was faster
            os.replace(_set_aside(path), path)


def remove_left_overs(path: str | Path) -> None:
    """Remove what writers of `path` that were killed left beside it. Nobody else may be writing it now."""
    path = Path(path)
    for left_over in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        shutil.rmtree(left_over)


def remove_folder(path: str | Path) -> None:
    """Remove a folder that need not be there. It loses its name first: whoever is killed leaves no half of it."""
    path = Path(path)
    remove_left_overs(path)
    with suppress(FileNotFoundError):
        os.replace(path, doomed := _temporary(path))
        shutil.rmtree(doomed)


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _replace(path: Path, new: Path) -> None:
    """Rename `new` to `path`; what was there before ends up under the name that `new` had."""
    old = _set_aside(path)
    while True:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)  # of one that was killed after both renames
            os.replace(path, old)
        try:
            os.replace(new, path)
            break
        except OSError:
            if not path.exists():
                raise
            # a reader came in between and has restored the old one: once more
    with suppress(FileNotFoundError):
        os.replace(old, new)


def cache_folder() -> Path:
    """Where things are kept that can be made again: $RETROMAE_CACHE or ~/.cache/retromae."""
    return Path(os.environ.get("RETROMAE_CACHE") or "~/.cache/retromae").expanduser()


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_FULL = ("No space left on device", "StorageFull", "unexpected pos")


def no_room(error: BaseException | None) -> bool:
    """Did the disk, or the user's share of it, run full? safetensors says so in words only, and torch that less was
    written than it gave."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
