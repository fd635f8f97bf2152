"""Items of a sample shard to encoder rows: several decoders ahead of an encoder, that ahead of its reader.

                decoders (processes)            encoder (a thread)              the reader
    read, check, decode, cut  --views-->  batches of one size, rows  --items-->  codec, tar

Everything is in the order of items, so which views share a batch depends on the shard alone. What is held: a
few batches of views, one item for each decoder, and the rows of two items.

On CUDA the encoder's calls return before they are computed, so the next batch is copied, on a stream of its
own, while one is at work; pixels travel as bytes from pinned memory and are normalized there, by the same
table (bit-equal).
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operators.clip import VisionEncoder
from operators.device_pixels import copy_to_gpu, normalize_on_device
from operators.preprocess import Processor, normalize_views
from operators.render import RenderedMedium
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.pool import DecoderPool
from pipelines.featurize.ahead import run_ahead
from pipelines.featurize.batches import EncodedItem, ViewArray, encode_items
from pipelines.featurize.samples import SampleShard, StoredItem
from schemas.corpus import FeatureReject
from schemas.errors import SampleError
from schemas.events import EncoderUsed
from schemas.record import MediumKind

BATCHES_AHEAD: Final = 3
"""Batches of views that may wait for the encoder."""
ITEMS_AHEAD: Final = 2
"""Encoded items that may wait for the reader."""

Timed = TypeVar("Timed")


@dataclass(frozen=True, slots=True)
class RenderedItem:
    """An item whose media decoded, on its way through the encoder."""

    stored: StoredItem
    media: tuple[RenderedMedium, ...]

    @property
    def num_views(self) -> int:
        """Of all its media."""
        return sum(len(medium.views) for medium in self.media)


@dataclass(frozen=True, slots=True)
class ItemEncoder:
    """Decoders and an encoder, for one shard after the other."""

    encoder: VisionEncoder
    processor: Processor
    pool: DecoderPool
    batch_size: int

    @contextmanager
    def encode(
        self, shard: SampleShard, keys: Sequence[str], rejects: list[FeatureReject], stopwatch: "Stopwatch"
    ) -> Generator[Iterator[EncodedItem[RenderedItem]]]:
        """Items of a shard in the order of `keys`; those whose media do not decode go to `rejects`.

        Which views share a batch, and so the last bits on a GPU, depends on `keys`. The stopwatch is complete
        when the block is left.
        """
        decode = partial(_render, shard)
        line = self.pool.run(decode, keys, _count_views, BATCHES_AHEAD * self.batch_size)
        rendered = _drop_rejects(stopwatch.time_waits(iter(line)), rejects)
        encode = stopwatch.time_work(self._encode)
        with run_ahead(encode_items(rendered, encode, self.batch_size), ITEMS_AHEAD) as items:
            try:
                yield items
            except BaseException:
                line.close()
                self.pool.close()
                raise
        stopwatch.decoders_busy_s += line.busy_s

    def _encode(
        self, views: UInt8[np.ndarray, "views height width 3"]
    ) -> tuple[Float[Tensor, "views patches hidden"], Float[Tensor, "views hidden"] | None]:
        if self.encoder.device.type == "cuda":
            pixels = normalize_on_device(copy_to_gpu(views, self.encoder.device), self.processor)
        else:
            pixels = torch.as_tensor(normalize_views(views, self.processor))
        output = self.encoder.encode_fixed(pixels, self.batch_size)
        return output.patches, output.class_row


def _render(
    shard: SampleShard, decoder: IsolatedDecoder, key: str
) -> tuple[RenderedItem, ViewArray] | FeatureReject:
    """One item, read and decoded by one decoder's thread."""
    stored, data = shard.read_item(key)
    try:
        media = tuple(
            decoder.render(medium_data, MediumKind(medium.kind))
            for medium, medium_data in zip(stored.media, data, strict=True)
        )
    except SampleError as error:
        return FeatureReject(key=key, code=error.code.value, message=error.message)
    return RenderedItem(stored, media), np.concatenate([medium.views for medium in media])


def _count_views(rendered: tuple[RenderedItem, ViewArray] | FeatureReject) -> int:
    return 0 if isinstance(rendered, FeatureReject) else len(rendered[1])


def _drop_rejects(
    rendered: Iterator[tuple[RenderedItem, ViewArray] | FeatureReject], rejects: list[FeatureReject]
) -> Iterator[tuple[RenderedItem, ViewArray]]:
    for item in rendered:
        if isinstance(item, FeatureReject):
            rejects.append(item)
        else:
            yield item


class Stopwatch:
    """Times one shard; on CUDA the work by the device's own clock, since calls return before it is done."""

    def __init__(self, device: torch.device, read_clock: Callable[[], float] = time.monotonic) -> None:
        self._is_cuda = device.type == "cuda"
        self._read_clock = read_clock
        self._started_s = read_clock()
        self._waited_s = 0.0
        self._worked_s = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.decoders_busy_s = 0.0

    def time_waits(self, results: Iterator[Timed]) -> Iterator[Timed]:
        """The same results; how long each was waited for is counted."""
        while True:
            started_s = self._read_clock()
            try:
                result = next(results)
            except StopIteration:
                return
            finally:
                self._waited_s += self._read_clock() - started_s
            yield result

    def time_work(self, work: Callable[[ViewArray], Timed]) -> Callable[[ViewArray], Timed]:
        """The same function; how long it works is counted."""

        def timed(views: ViewArray) -> Timed:
            started_s = self._read_clock()
            mark = self._mark()
            result = work(views)
            if mark:
                self._marks.append((mark, self._mark() or mark))
            else:
                self._worked_s += self._read_clock() - started_s
            return result

        return timed

    def read(self, num_decoders: int) -> EncoderUsed:
        """What was counted until now."""
        if self._marks:
            torch.cuda.synchronize()
        on_device_s = sum(start.elapsed_time(end) for start, end in self._marks) / 1000
        return EncoderUsed(
            stage="featurize",
            seconds=self._read_clock() - self._started_s,
            busy_s=self._worked_s + on_device_s,
            waited_s=self._waited_s,
            num_decoders=num_decoders,
            decoders_busy_s=self.decoders_busy_s,
        )

    def _mark(self) -> torch.cuda.Event | None:
        if not self._is_cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
