"""Requests that come at the same time share one pass of the model, which runs on one thread.

A request is a list of tasks. Waiting requests take turns, one task each, until a batch is full: a search never
waits for the thousand texts of somebody else's request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from retromae.app.server.limits import Limits
from retromae.app.server.metrics import Metrics
from retromae.app.server.problems import Refused

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Task, Result]):
    task: Task
    future: asyncio.Future[Result]


class _Request(NamedTuple, Generic[Task, Result]):
    tasks: deque[_Waiting[Task, Result]]
    since: float


class Batcher(Generic[Task, Result]):
    """`await batcher(tasks)` gives their results, in order. To be used between `start` and `close`."""

    def __init__(self, work: Callable[[list[Task]], list[Result]], limits: Limits, metrics: Metrics) -> None:
        """`work` answers many tasks at once, one result each; it is called on a thread of its own."""
        self._work, self._limits, self._metrics = work, limits, metrics
        self._requests: deque[_Request[Task, Result]] = deque()
        self._queued = 0  # tasks
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop: asyncio.Task[None] | None = None
        metrics.queue = lambda: self._queued

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Refuse what still waits and let the pass that is running end."""
        loop, self._loop = self._loop, None
        for waiting in self._take(self._queued):
            _fail(waiting, _closing())
        if loop is not None:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def __call__(self, tasks: Sequence[Task]) -> list[Result]:
        if self._loop is None:
            raise _closing()
        if self._queued + len(tasks) > self._limits.max_queue:
            raise Refused(
                503,
                f"{self._queued} texts are waiting already; try again in a moment.",
                code="overloaded",
                headers={"retry-after": "1"},
            )
        if not tasks:
            return []
        create = asyncio.get_running_loop().create_future
        waiting = [_Waiting(task, create()) for task in tasks]
        self._requests.append(_Request(deque(waiting), time.monotonic()))
        self._queued += len(waiting)
        self._arrived.set()
        if self._queued >= self._limits.max_batch:
            self._full.set()
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return list(await asyncio.gather(*(one.future for one in waiting)))
        except TimeoutError:
            raise Refused(
                504,
                f"this took longer than {self._limits.timeout_seconds:g} seconds; ask for less at once.",
                code="timeout",
            ) from None
        finally:  # after an error nobody waits for the others either
            for one in waiting:
                one.future.cancel()

    def _take(self, most: int) -> list[_Waiting[Task, Result]]:
        """Up to `most` tasks that somebody still waits for, one of each request in turn."""
        batch: list[_Waiting[Task, Result]] = []
        while self._requests and len(batch) < most:
            request = self._requests.popleft()
            one = request.tasks.popleft()
            self._queued -= 1
            if request.tasks:
                self._requests.append(request)
            if not one.future.done():
                batch.append(one)
        return batch

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            waited = time.monotonic() - self._requests[0].since
            await self._until_full(self._limits.max_wait_ms / 1000 - waited)
            batch = self._take(self._limits.max_batch)
            if not self._requests:
                self._arrived.clear()
            if self._queued < self._limits.max_batch:
                self._full.clear()
            if batch:
                await self._answer(batch)

    async def _until_full(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._full.wait()
        except TimeoutError:
            pass

    async def _answer(self, batch: list[_Waiting[Task, Result]]) -> None:
        """One pass. If it fails, each task alone, so that one bad text does not spoil the others'."""
        start = time.monotonic()
        try:
            results = await self._pass([one.task for one in batch])
        except asyncio.CancelledError:
            for one in batch:
                _fail(one, _closing())
            raise
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            else:
                _fail(batch[0], error)
            return
        self._metrics.batch(len(batch), time.monotonic() - start)
        for one, result in zip(batch, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)

    async def _pass(self, tasks: list[Task]) -> list[Result]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, tasks)


def _fail(waiting: _Waiting[Task, Result], error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)


def _closing() -> Refused:
    return Refused(503, "the server is shutting down.", code="shutting_down")
