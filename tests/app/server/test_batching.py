"""Requests share passes, take turns, and do not spoil each other's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from app.server.serving import CORPUS, Setup, message, serving
from retromae.app.server.batching import Batcher
from retromae.app.server.limits import Limits
from retromae.app.server.metrics import Metrics
from retromae.app.server.problems import Refused
from retromae.core.errors import UserError

Batches = list[list[int]]


def squares(batches: Batches, seconds: float = 0.0) -> Callable[[list[int]], list[int]]:
    """Work that notes its batches; 13 is a bad task."""

    def work(tasks: list[int]) -> list[int]:
        batches.append(list(tasks))
        time.sleep(seconds)
        if 13 in tasks:
            raise UserError("13 is refused.")
        return [task**2 for task in tasks]

    return work


def with_batcher(
    work: Callable[[list[int]], list[int]],
    use: Callable[[Batcher[int, int]], Awaitable[Any]],
    **limits: Any,
) -> Any:
    async def main() -> Any:
        batcher = Batcher(work, Limits(**{"max_texts": 1, **limits}), Metrics())
        batcher.start()
        try:
            return await use(batcher)
        finally:
            await batcher.close()

    return asyncio.run(main())


def test_what_comes_together_is_one_pass_and_answered_in_order() -> None:
    batches: Batches = []

    async def use(batcher: Batcher[int, int]) -> list[list[int]]:
        return await asyncio.gather(*(batcher([n, n + 1]) for n in range(5)))

    assert with_batcher(squares(batches), use) == [[n**2, (n + 1) ** 2] for n in range(5)]
    assert len(batches) == 1 and len(batches[0]) == 10


def test_a_full_batch_does_not_wait() -> None:
    async def use(batcher: Batcher[int, int]) -> float:
        start = time.monotonic()
        await batcher(range(4))
        return time.monotonic() - start

    assert with_batcher(squares([]), use, max_batch=4, max_wait_ms=5000) < 2


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    batches: Batches = []

    async def use(batcher: Batcher[int, int]) -> None:
        large = asyncio.create_task(batcher(range(100, 140)))
        await asyncio.sleep(0)
        assert await batcher([1]) == [1]
        assert not large.done()
        assert await large == [n**2 for n in range(100, 140)]

    with_batcher(squares(batches, 0.01), use, max_batch=8)
    assert 1 in batches[0] and max(map(len, batches)) <= 8


def test_a_bad_task_fails_alone() -> None:
    async def use(batcher: Batcher[int, int]) -> list[Any]:
        return await asyncio.gather(*(batcher([n]) for n in (2, 13, 3)), return_exceptions=True)

    two, bad, three = with_batcher(squares([]), use)
    assert (two, three) == ([4], [9])
    assert isinstance(bad, UserError)


def test_after_an_error_the_rest_of_the_request_is_dropped() -> None:
    batches: Batches = []

    async def use(batcher: Batcher[int, int]) -> None:
        with pytest.raises(UserError):
            await batcher([13, *range(20, 60)])
        await asyncio.sleep(0.1)

    with_batcher(squares(batches), use, max_batch=2)
    assert sum(map(len, batches)) < 20


def test_too_slow_and_too_much() -> None:
    release = threading.Event()

    def work(tasks: list[int]) -> list[int]:
        release.wait(10)
        return tasks

    async def use(batcher: Batcher[int, int]) -> list[Any]:
        slow = asyncio.create_task(batcher([1]))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher([2, 3, 4]))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as full:
            await batcher([5, 6])
        results = await asyncio.gather(slow, waiting, return_exceptions=True)
        release.set()
        assert await batcher([7]) == [7]  # it goes on, and what nobody waits for is not worked on
        return [full.value, *results]

    refused = with_batcher(work, use, max_queue=4, timeout_seconds=0.3)
    assert [one.status for one in refused] == [503, 504, 504]
    assert refused[0].headers == {"retry-after": "1"} and "longer than 0.3 seconds" in refused[1].message


def test_closing_answers_everybody() -> None:
    async def main() -> list[Any]:
        batcher: Batcher[int, int] = Batcher(squares([], 0.1), Limits(max_batch=1), Metrics())
        batcher.start()
        requests = [asyncio.create_task(batcher([n])) for n in range(3)]
        await asyncio.sleep(0.05)
        await batcher.close()
        late = asyncio.create_task(batcher([9]))
        return await asyncio.gather(*requests, late, return_exceptions=True)

    results = asyncio.run(main())
    assert [one.status for one in results] == [503] * 4


def asked_together(post: Callable[[int], Any], number: int) -> Sequence[Any]:
    barrier = threading.Barrier(number)

    def one(n: int) -> Any:
        barrier.wait()
        return post(n)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def test_concurrent_requests_share_passes_and_get_what_they_get_alone(setup: Setup) -> None:
    queries = [" ".join(passage.text.split()[:5]) for passage in CORPUS[:24]]
    systems = ["fused", "dense", "before", "bm25"]
    with serving(replace(setup, limits=Limits(max_wait_ms=200))) as server:
        answers = asked_together(
            lambda n: server.post("/search", query=queries[n], k=30, system=systems[n % 4]).json(), 24
        )
        batches = server.metric("retromae_batch_texts_count")
        assert server.metric("retromae_batch_texts_sum") == 24
        assert batches <= 6
    for query, answer in zip(queries, answers, strict=True):
        alone = setup.engine.systems.search(query, 30, system=answer["system"])
        found = {hit["id"]: hit["score"] for hit in answer["results"][0]["hits"]}
        # another batch rounds differently; min-max stretches the close scores of a random model
        assert found == pytest.approx({hit.passage.id: hit.score for hit in alone}, abs=2e-3)


def test_a_full_queue_is_told(setup: Setup) -> None:
    limits = Limits(max_texts=6, max_queue=6, max_batch=1, max_wait_ms=500)
    with serving(replace(setup, limits=limits)) as server:
        answers = asked_together(
            lambda _: server.post("/v1/embeddings", model="tiny", input=["owl " * 60] * 5), 4
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused and {answer.status_code for answer in answers} == {200, 503}
        assert "try again in a moment" in message(refused[0]) and refused[0].headers["retry-after"] == "1"
        assert server.post("/search", query="owl").status_code == 200


def test_a_request_that_takes_too_long(setup: Setup) -> None:
    with serving(replace(setup, limits=Limits(timeout_seconds=0.02, max_wait_ms=100))) as server:
        answer = server.post("/v1/embeddings", model="tiny", input=["owl"])
        assert answer.status_code == 504 and "longer than 0.02 seconds" in message(answer)
        assert server.client.get("/health").status_code == 200
