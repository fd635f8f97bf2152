"""Several decoding processes ahead of one reader, with the results in the order of the inputs.

An encoder must not wait for one slow clip, nor hold the views of a hundred. So a decoder takes the next input
as soon as it is free and less than `max_held` waits for the reader; results are handed out strictly in order,
whoever finished first. What is held: less than `max_held`, and one result more for each decoder.

A thread stands for each process; it sleeps while that works. Left out: readers do not share a pool.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

from pipelines.decode.isolated import IsolatedDecoder

Input = TypeVar("Input")
Output = TypeVar("Output")


class DecoderPool:
    """Decoders that work side by side; opened when they are first needed, and again after `close`."""

    def __init__(self, make_decoder: Callable[[], IsolatedDecoder], num_decoders: int) -> None:
        """`num_decoders` of what `make_decoder` makes."""
        self._make_decoder = make_decoder
        self._crew: _Crew | None = None
        self.num_decoders = num_decoders
        """How many inputs are decoded at a time."""

    def run(
        self,
        decode: Callable[[IsolatedDecoder, Input], Output],
        inputs: Sequence[Input],
        size_of: Callable[[Output], int],
        max_held: int,
    ) -> "DecodedLine[Input, Output]":
        """Start on the inputs; the results are to be iterated once, and the line closed."""
        if self._crew is None:
            self._crew = _Crew([self._make_decoder() for _ in range(self.num_decoders)])
        return DecodedLine(self._crew, decode, inputs, size_of, max_held)

    def close(self) -> None:
        """End the processes, in the middle of their work if need be; what they were at is a `WorkError`."""
        crew, self._crew = self._crew, None
        if crew:
            crew.close()


class _Crew:
    """Decoders, each with a thread that waits for it."""

    def __init__(self, decoders: Sequence[IsolatedDecoder]) -> None:
        self.num_decoders = len(decoders)
        self._decoders = decoders
        self._free: SimpleQueue[IsolatedDecoder] = SimpleQueue()
        for decoder in decoders:
            self._free.put(decoder)
        self._threads = ThreadPoolExecutor(len(decoders), thread_name_prefix="decoder")

    def submit(self, work: Callable[[IsolatedDecoder], Output]) -> Future[Output]:
        """Work for the next decoder that is free."""

        def borrow() -> Output:
            decoder = self._free.get()
            try:
                return work(decoder)
            finally:
                self._free.put(decoder)

        return self._threads.submit(borrow)

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.abort()
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()


class DecodedLine(Generic[Input, Output]):
    """Results of a sequence of inputs, in their order."""

    def __init__(
        self,
        crew: _Crew,
        decode: Callable[[IsolatedDecoder, Input], Output],
        inputs: Sequence[Input],
        size_of: Callable[[Output], int],
        max_held: int,
    ) -> None:
        """See `DecoderPool.run`."""
        self._crew = crew
        self._decode = decode
        self._inputs = inputs
        self._size_of = size_of
        self._max_held = max_held
        self._lock = threading.RLock()
        self._started: deque[Future[Output]] = deque()
        self._num_started = 0
        self._num_running = 0
        self._num_held = 0
        self.busy_s = 0.0
        """What the decoders worked together so far."""
        self._fill()

    def __iter__(self) -> Iterator[Output]:
        """Results in the order of the inputs; an error comes up where its result would."""
        while self._started:
            output = self._started.popleft().result()
            with self._lock:
                self._num_held -= self._size_of(output)
            self._fill()
            yield output

    def close(self) -> None:
        """Start no further input; `DecoderPool.close` ends those that run."""
        with self._lock:
            self._num_started = len(self._inputs)

    def _fill(self) -> None:
        with self._lock:
            while (
                self._num_started < len(self._inputs)
                and self._num_running < self._crew.num_decoders
                and self._num_held < self._max_held
            ):
                self._started.append(self._crew.submit(partial(self._work, self._inputs[self._num_started])))
                self._num_started += 1
                self._num_running += 1

    def _work(self, given: Input, decoder: IsolatedDecoder) -> Output:
        """Counts itself out before its result is there, so that the next is started by then."""
        started_s, num_held = time.monotonic(), 0
        try:
            output = self._decode(decoder, given)
            num_held = self._size_of(output)
        finally:
            with self._lock:
                self._num_running -= 1
                self._num_held += num_held
                self.busy_s += time.monotonic() - started_s
                self._fill()
        return output
