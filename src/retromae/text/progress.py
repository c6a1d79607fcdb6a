"""A progress bar with documents per second, megabytes per second and, where the end is known, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar:
    """What a long reading reports to; without a display it only counts."""

    def __init__(self, display: Progress | None, task: TaskID, start: int) -> None:
        self._display = display
        self._task = task
        self._start = start
        self._began = time.monotonic()
        self.documents = 0

    def advance(self, documents: int, position: int) -> None:
        """So many more documents are done, and the sources are read up to this byte."""
        self.documents += documents
        if self._display is None:
            return
        seconds = max(time.monotonic() - self._began, 1e-9)
        megabytes = (position - self._start) / seconds / 1e6
        speed = f"{self.documents:,} documents, {self.documents / seconds:,.0f}/s, {megabytes:.1f} MB/s"
        self._display.update(self._task, completed=position, speed=speed)


@contextmanager
def progress_bar(what: str, total: int, shown: bool, start: int = 0) -> Iterator[Bar]:
    """`total` and `start` in bytes; a total of 0 means that it is not known."""
    if not shown:
        yield Bar(None, TaskID(0), start)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as display:
        task = display.add_task(what, total=total or None, completed=start, speed="")
        yield Bar(display, task, start)
