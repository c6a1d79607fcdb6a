"""One job per folder, with real processes that end in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retromae.core.errors import UserError
from retromae.core.locks import claim, only_writer
from training.processes import forks
from training.runs import launch

HOLDS = """
import multiprocessing, os, sys, time
from retromae.core.locks import only_writer

def work():
    print(os.getpid(), flush=True)
    time.sleep(120)

if __name__ == "__main__":
    with only_writer(sys.argv[1]):
        # As a data loader's worker: forked while the folder is held, and alive after its parent was killed.
        multiprocessing.get_context("fork").Process(target=work).start()
        time.sleep(120)
"""


def held_elsewhere(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that holds the folder, and the number of its worker."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_is_free_when_its_process_ended_though_its_workers_live(
    end: signal.Signals, tmp_path: Path
) -> None:
    process, worker = held_elsewhere(tmp_path / "run")
    with (
        pytest.raises(UserError, match=r"Another process is at work in '.*run'; wait"),
        only_writer(tmp_path / "run"),
    ):
        pytest.fail("two at once")
    process.send_signal(end)
    process.wait(60)
    with only_writer(tmp_path / "run"):
        os.kill(worker, 0)  # it is alive
    os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
def test_whoever_waits_gets_it_next(tmp_path: Path) -> None:
    process, worker = held_elsewhere(tmp_path / "run")
    begin = forks.Event()
    waiting = forks.Process(target=_wait_for, args=(tmp_path / "run", begin))
    waiting.start()
    assert begin.wait(60)
    time.sleep(0.2)
    assert not (tmp_path / "run" / "mine").exists()
    process.kill()
    waiting.join(30)
    assert (tmp_path / "run" / "mine").exists()
    os.kill(worker, signal.SIGKILL)


def _wait_for(folder: Path, begin) -> None:  # type: ignore[no-untyped-def]
    begin.set()
    with claim(folder, wait=True) as mine:
        assert mine
        (folder / "mine").touch()


def test_nothing_is_left_of_a_folder_that_nothing_was_put_into(tmp_path: Path) -> None:
    with claim(tmp_path / "a" / "b") as mine:
        assert mine
        with claim(tmp_path / "a" / "b") as again:
            assert not again
    assert not (tmp_path / "a" / "b").exists()
    with claim(tmp_path / "c"):
        (tmp_path / "c" / "file").touch()
    assert (tmp_path / "c" / "file").exists()
    with claim(tmp_path / "c" / "file") as mine:  # no folder: others refuse it in better words
        assert mine
    assert (tmp_path / "c" / "file").exists()


@pytest.mark.slow
def test_of_a_group_the_first_process_decides_for_all(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        "from retromae.core import distributed\n"
        "from retromae.core.locks import claim\n"
        "distributed.start()\n"
        "with claim(sys.argv[1]) as mine:\n"
        "    sys.stdout.write(f'{distributed.rank()} {mine}\\n')\n"
    )
    for free in (True, False):
        with claim(tmp_path / ("other" if free else "run")):
            done = launch([str(script), str(tmp_path / "run")], processes=2)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.split("\n")) == ["", f"0 {free}", f"1 {free}"]
