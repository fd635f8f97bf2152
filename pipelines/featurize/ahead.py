"""An iterator that works ahead in a thread of its own, by a few results.

So that encoder and writer need not wait for each other: while one computes, or hands work to a device, the
other packs and stores. Order and errors are those of the iterator; at most `max_waiting` results are kept.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

Result = TypeVar("Result")

_POLL_S: Final = 0.1
"""How soon the thread notices that nobody waits any more."""


class _End:
    """Says that there is no further result."""


@contextmanager
def run_ahead(results: Iterator[Result], max_waiting: int) -> Generator[Iterator[Result]]:
    """The same results, made in a thread; leaving the block waits for the one that is being made."""
    waiting: queue.Queue[Result | _End] = queue.Queue(max_waiting)
    is_left = threading.Event()

    def put(result: Result | _End) -> None:
        while not is_left.is_set():
            try:
                return waiting.put(result, timeout=_POLL_S)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for result in results:
                put(result)
                if is_left.is_set():
                    return
        finally:
            put(_End())

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        future = thread.submit(work)

        def take() -> Iterator[Result]:
            while not isinstance(result := waiting.get(), _End):
                yield result
            future.result()

        try:
            yield take()
        finally:
            is_left.set()
