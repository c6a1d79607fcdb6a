"""Python processes for the tests, without the ten seconds that each takes to import torch and transformers.

They are forked from one that has these imports behind it, and real in what is tested with them: memory, signals,
kills, locks, exit codes, what is printed. Our own modules are imported anew in each, as `python -m` does. Two things
differ: no launcher starts a group, and all forks order a set of strings alike. So that a group under the real torchrun
and a run in processes of their own agree is tested too, once for each kind of job.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["sentence_transformers", "transformers.trainer", "datasets", "scipy.stats"])


class Started:
    """`python words…` at work, once or as a group of several, like torchrun's. To be used like a `Popen`."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], processes: int = 0) -> None:
        self.args = list(words)
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name) / name for name in ("out", "err")]
        for file in self._said:
            file.touch()
        places = _group(processes) if processes else [{}]
        self._processes = [self._start({**environment, **place}) for place in places]

    def _start(self, environment: Mapping[str, str]) -> BaseProcess:
        files = [str(file) for file in self._said]
        process = forks.Process(target=_work, args=(self.args, environment, os.getcwd(), *files))
        process.start()
        atexit.register(process.kill)  # a test that fails leaves none behind
        return process

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        """None while it works; then 0, or the first code of the group that is not. A signal's is negative."""
        codes = [process.exitcode for process in self._processes]
        return next((code for code in codes if code), None if None in codes else 0)

    def send_signal(self, number: int) -> None:
        for process in self._processes:
            if process.exitcode is None:
                os.kill(process.pid or 0, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        """Of a group, none outlives one that failed: it would wait for it."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill()
        for process in self._processes:
            process.join()
        assert code is not None, f"still at work after {timeout} s: {self.printed()}"
        return code

    def printed(self) -> tuple[str, str]:
        """What it said so far, and its errors."""
        out, err = (file.read_text(encoding="utf-8") for file in self._said)
        return out, err

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        return self.printed()


def completed(
    words: Sequence[str], environment: Mapping[str, str], processes: int = 0
) -> subprocess.CompletedProcess[str]:
    started = Started(words, environment, processes)
    code = started.wait()
    return subprocess.CompletedProcess(started.args, code, *started.printed())


def _group(size: int) -> list[dict[str, str]]:
    """What torchrun tells every process of a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    return [
        {**common, "LOCAL_WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(size)
    ]


def _work(words: list[str], environment: Mapping[str, str], folder: str, out: str, err: str) -> None:
    gc.freeze()  # the imports stay
    multiprocessing.set_start_method(None, force=True)  # a fork's would be the fork server
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
