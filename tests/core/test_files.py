"""A folder that is replaced is always there, whole, whenever its writer dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from retromae.core import files
from retromae.core.files import remove_folder, replacing_folder, restore
from training.runs import launch

# Replaces a folder, and kills itself instead of renaming for the n-th time, or after it did.
WRITER = """
import os, signal, sys
from retromae.core.files import replacing_folder

rename, calls = os.replace, 0

def dying(source, target):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        if sys.argv[3] == "after":
            rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

with replacing_folder(sys.argv[1]) as folder:
    (folder / "a").write_text("new")
    (folder / "b").write_text("new")
    os.replace = dying
"""


def killed(path: Path, rename: int, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), str(rename), when], check=False)
    assert done.returncode == -signal.SIGKILL


def write(path: Path, text: str) -> None:
    with replacing_folder(path) as folder:
        for name in "ab":
            (folder / name).write_text(text)


def read(path: Path) -> str:
    restore(path)
    first, second = ((path / name).read_text() for name in "ab")
    assert first == second
    return first


@pytest.mark.parametrize(
    ("rename", "when", "found"),
    [(1, "before", "old"), (2, "before", "old"), (2, "after", "new"), (3, "after", "new")],
)
def test_a_writer_killed_at_a_rename(tmp_path: Path, rename: int, when: str, found: str) -> None:
    path = tmp_path / "name [1]"
    write(path, "old")
    killed(path, rename, when)
    if rename == 2 and when == "before":
        assert not path.exists()  # this is the moment that is meant
    assert read(path) == found
    write(path, "newer")
    files.remove_left_overs(path)
    assert read(path) == "newer"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_killed_at_the_worst_moment_twice(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write(path, "old")
    killed(path, 2, "before")
    # The next writer puts the old one back first: its renames are that one, then the two of the replacement.
    killed(path, 2, "before")
    assert read(path) == "old"


def test_a_reader_between_the_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It restores the old folder, and the writer still puts the new one in its place."""
    path = tmp_path / "folder"
    write(path, "old")
    rename, seen = os.replace, []

    def watched(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(source) == path and not seen:
            seen.append(read(path))

    monkeypatch.setattr(files.os, "replace", watched)
    write(path, "new")
    assert seen == ["old"] and read(path) == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_what_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    write(path, "old")
    rename = os.replace

    def refused(source: Path, target: Path) -> None:
        if Path(target) == path and Path(source).suffix == ".tmp":
            raise PermissionError("no")
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", refused)
    with pytest.raises(PermissionError):
        write(path, "new")
    assert read(path) == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this machine lets us have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", str(place)], check=False)


def test_a_full_disk_is_known_whoever_says_so(small_disk: Path) -> None:
    big = torch.zeros(1 << 20)
    for write_big in (
        lambda: (small_disk / "plain").write_bytes(bytes(1 << 20)),
        lambda: torch.save(big, small_disk / "torch"),
        lambda: save_file({"big": big}, small_disk / "safetensors"),
    ):
        with pytest.raises(Exception) as caught:  # each library has its own
            write_big()
        assert files.no_room(caught.value), repr(caught.value)
        for left in small_disk.iterdir():
            left.unlink()
    assert not files.no_room(FileNotFoundError(2, "no such file")) and not files.no_room(None)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_on_the_command_line(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "{n} {"word " * 400}"}}\n' for n in range(500)))
    words = ["prepare", tmp_path / "text.jsonl", "--out", small_disk / "rows", "--train_tokenizer", "300"]
    done = launch(["-m", "retromae", *map(str, words), "--workers", "1"])
    assert done.returncode == 2 and "the disk is full" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_is_removed_with_what_a_killed_removal_left(tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    remove_folder(folder)  # it need not be there
    (folder / "shard").mkdir(parents=True)
    (tmp_path / ".vectors.1.tmp" / "shard").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    remove_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
