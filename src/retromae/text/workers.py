"""Chunks of items go out to worker processes and come back in order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from retromae.core.errors import UserError
from retromae.text.encode import Encoded, Encoder, EncodeSettings, encode_chunk, start_worker
from retromae.text.sources import Document, Item, Position, Reader, TextFile

_CHUNK_CHARACTERS = 1 << 18
_CHUNK_ITEMS = 1024
_WORTH_A_WORKER = 4 << 20  # bytes; starting a process takes about as long as working through them


@dataclass(frozen=True)
class Chunk:
    """Consecutive items, where they end in the sources, and how many bytes were read by then."""

    items: list[Item]
    position: Position
    bytes_read: int


def chunks(reader: Reader) -> Iterator[Chunk]:
    """Where a chunk ends depends on the items alone: the same from run to run, also after a resumption."""
    items: list[Item] = []
    weight = 0
    for item in reader:
        items.append(item)
        weight += (
            len(item.text) if isinstance(item, Document) else item.size if isinstance(item, TextFile) else 0
        )
        if weight >= _CHUNK_CHARACTERS or len(items) >= _CHUNK_ITEMS:
            yield Chunk(items, reader.position, reader.bytes_read)
            items, weight = [], 0
    if items:
        yield Chunk(items, reader.position, reader.bytes_read)


def worker_count(asked: int, total_bytes: int) -> int:
    """0 asks for one per core, and fewer where there is too little to do (a total of 0 is an unknown one)."""
    if asked:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 1 + total_bytes // _WORTH_A_WORKER) if total_bytes else cores


def encode_in_order(
    reader: Reader, settings: EncodeSettings, workers: int
) -> Iterator[tuple[Encoded, Chunk]]:
    """Each chunk with its rows, in the order of the sources; one worker means this process."""
    if workers == 1:
        encoder = Encoder(settings)
        for chunk in chunks(reader):
            yield encoder(chunk.items), chunk
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=start_worker, initargs=(settings,)
    )
    waiting: deque[tuple[Future[Encoded], Chunk]] = deque()
    try:
        for chunk in chunks(reader):
            waiting.append((pool.submit(encode_chunk, chunk.items), _light(chunk)))
            while len(waiting) > 2 * workers:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process died. In a script of your own, call prepare under `if __name__ == '__main__':`; "
            "else the machine is probably out of memory: use fewer workers (--workers)."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _light(chunk: Chunk) -> Chunk:
    """Without the items: the pool has its own copy until they are encoded."""
    return Chunk([], chunk.position, chunk.bytes_read)


def _result(waiting: deque[tuple[Future[Encoded], Chunk]]) -> tuple[Encoded, Chunk]:
    future, chunk = waiting.popleft()
    return future.result(), chunk
