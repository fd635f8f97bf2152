"""Items of a shard that lie side by side: read in one go, and checked while their bytes come in.

Each call to the system costs as much as copying 20 to 40 KB, and one long copy goes faster than several short
ones. So what stands between two items, a tar header and a small JSON file, is read with them.

An item is hashed as soon as it is there, when much of it still lies in a cache, against the checksum that the
index keeps of the whole of it: one step for each item and not one for each view, since the copying has driven
this program's own memory out of the caches. Which view is damaged is looked for only when one is.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import xxhash

from infra.tar import Member
from operators.feature_file import check_views, read_header
from schemas.corpus import ShardEntry
from schemas.errors import CorruptError, NotFoundError

GAP_BYTES: Final = 4096
PIECE_BYTES: Final = 2 << 20
"""Of longer items that are hashed at once."""


class Place(NamedTuple):
    """Where an item lies."""

    shard: ShardEntry
    key: str
    member: Member

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.member.offset + self.member.size


@dataclass(frozen=True, slots=True)
class Span:
    """Items of one shard, one after the other."""

    places: list[Place]

    @property
    def shard(self) -> ShardEntry:
        """That they lie in."""
        return self.places[0].shard

    @property
    def offset(self) -> int:
        """Of the first one."""
        return self.places[0].member.offset

    @property
    def num_bytes(self) -> int:
        """From the first byte to the last."""
        return self.places[-1].end - self.offset

    def cut(self, data: memoryview) -> list[memoryview]:
        """The bytes of each item."""
        return [data[place.member.offset - self.offset : place.end - self.offset] for place in self.places]


def join_spans(places: Iterable[Place]) -> list[Span]:
    """The same items in the same order, those together that one read brings."""
    spans: list[Span] = []
    for place in places:
        last = spans[-1].places[-1] if spans else None
        is_next = last is not None and last.shard.name == place.shard.name
        if last is not None and is_next and 0 <= place.member.offset - last.end <= GAP_BYTES:
            spans[-1].places.append(place)
        else:
            spans.append(Span([place]))
    return spans


class SpanCheck:
    """Items of a span against their checksums, while its bytes come in."""

    def __init__(self, span: Span, data: memoryview) -> None:
        """Begin to watch `data`, where the span is read to."""
        self.num_whole = 0
        """Items that are there, as they were written."""
        self._span = span
        self._data = data
        self._stops = self._watch()
        next(self._stops)

    @property
    def place(self) -> Place:
        """Of the item that is read now."""
        return self._span.places[min(self.num_whole, len(self._span.places) - 1)]

    def see(self, num_bytes: int) -> int:
        """So many bytes are there; up to where they are wanted next.

        Raises:
            CorruptError: when one of them is not as it was written.
        """
        return self._stops.send(num_bytes)

    def close(self) -> None:
        """Let go of the memory: a cycle would hold it until the interpreter looks for cycles."""
        self._stops.close()

    def _watch(self) -> Generator[int, int]:
        filled = yield 0
        for place in self._span.places:
            start = done = place.member.offset - self._span.offset
            end = place.end - self._span.offset
            digest = xxhash.xxh3_64()
            while done < end:
                while filled <= done or filled < min(end, done + PIECE_BYTES):
                    filled = yield min(end, done + PIECE_BYTES)
                digest.update(self._data[done : min(end, filled)])
                done = min(end, filled)
            if digest.hexdigest() != place.member.xxh3:
                blame_view(self._data[start:end])
            self.num_whole += 1
        yield len(self._data)


def blame_view(data: memoryview) -> None:
    """Say what of an item is damaged.

    Raises:
        CorruptError: always.
    """
    check_views(read_header(data), data)
    raise CorruptError("the item does not match the checksum of the index")


@contextmanager
def named_item(shard: str, key: str) -> Generator[None]:
    """Errors of reading an item name it.

    Raises:
        CorruptError: instead of one without the names, or of one that tells of missing bytes.
    """
    try:
        yield
    except (CorruptError, NotFoundError) as error:
        raise CorruptError(f"shard {shard}, item {key}: {error}") from error
