"""Packets that a demuxer passed over in silence: told from where its packets lie, or from their numbers.

Where Matroska, WebM, AVI or FLV are broken, FFmpeg looks for the next place that makes sense and goes on as
if nothing were missing, or it stops. What is left decodes, nobody complains, and one frame stays on display
for a minute. But in these formats packets lie close together, so that the bytes between them can be counted.
In MPEG-TS anything may lie between (stuffing), but its parts are numbered: FFmpeg marks a packet near which
some are missing, and the time until the next one tells how many.

A hole counts from a fiftieth of the file on, or 4 KiB: below are headers. What follows the last packet may be
an index, which grows with their number. In AVI nothing is a hole where chunks follow each other: padding, an
index, or a chunk without bytes for each frame that stays on display.

Left out: what is missing before the first packet, except in AVI (attachments may stand there); MPEG-PS, which
has stuffing and no numbers; MP4 and MOV, whose tables list every packet, so that a hole there is packets that
do not decode. Costs 16 bytes a packet.
"""

import math
from array import array
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from av.packet import Packet
from jaxtyping import Int64

from operators.completeness import ByteFile
from operators.sniff import AVI, FLV, MKV, MPEG_TS, WEBM, MediumFormat

if TYPE_CHECKING:
    from av.stream import Stream

    AnyPacket: TypeAlias = Packet[Stream]
else:
    AnyPacket = Packet

_HOLE_BYTES: Final = (256, 4096)
"""From here on, whatever a fiftieth of the file is."""
_HOLE_SHARE: Final = 0.02
_INDEX_ENTRY_BYTES: Final = 32
_AVI_HEAD_BYTES: Final = 2**20
_AVI_PACKETS: Final = b"movi"
_AVI_LISTS: Final = (b"RIFF", b"LIST")
_AVI_CHUNK_HEAD_BYTES: Final = 8
_ALPHA: Final = "matroska_block_additional"
"""Stands in the file behind its packet and is no part of its size."""


class CloseCounter:
    """For formats whose packets lie close together."""

    def __init__(self, num_bytes: int, avi: ByteFile | None = None) -> None:
        """`avi` is the file, where it is one."""
        self._num_bytes = num_bytes
        self._avi = avi
        self._positions = array("l")
        self._sizes = array("l")
        if avi:
            self.cover(_find_packets(avi), 0)

    def add(self, packet: AnyPacket, is_picture: bool) -> None:
        """Look at the next packet, of any stream."""
        del is_picture
        size = packet.size
        if packet.has_sidedata(_ALPHA):
            size += sum(side.data_size for side in packet.iter_sidedata())
        self.cover(packet.pos, size)

    def cover(self, position: int | None, size: int) -> None:
        """Note that `size` bytes from a place on, or more bytes of the packet before, are no hole."""
        if position is not None and position >= 0:
            self._positions.append(position)
            self._sizes.append(size)
        elif self._sizes:
            self._sizes[-1] += size  # parsers split one block of audio into several packets

    def count_lost(self, num_packets: int) -> int:
        """How many pictures are missing where `num_packets` are there: as large a share as of the file."""
        if not self._positions:
            return 0
        positions, block_of = np.unique(np.asarray(self._positions), return_inverse=True)
        sizes = np.bincount(block_of, weights=np.asarray(self._sizes)).astype(np.int64)
        ends = np.maximum.accumulate(positions + sizes)
        smallest, largest = _HOLE_BYTES
        hole = min(max(smallest, self._num_bytes * _HOLE_SHARE), largest)
        nexts = np.append(positions[1:], self._num_bytes)
        allowed = np.full(len(ends), hole)
        allowed[-1] += _INDEX_ENTRY_BYTES * len(self._positions)
        num_lost_bytes = 0
        for place in np.flatnonzero(nexts - ends > allowed):
            if not (self._avi and _are_chunks(self._avi, int(positions[place]), int(nexts[place]))):
                num_lost_bytes += int(nexts[place] - ends[place])
        return math.ceil(num_packets * num_lost_bytes / max(1, self._num_bytes - num_lost_bytes))


class NumberedCounter:
    """For MPEG-TS: where a packet is marked, the longest step in time nearby tells how many are gone."""

    def __init__(self) -> None:
        self._times = array("l")
        self._marked: list[int] = []

    def add(self, packet: AnyPacket, is_picture: bool) -> None:
        """Look at the next packet, of any stream."""
        if not is_picture or packet.dts is None:
            return
        if packet.is_corrupt:
            self._marked.append(len(self._times))
        self._times.append(packet.dts)

    def count_lost(self, num_packets: int) -> int:
        """How many are missing, at most as many as are there: times may jump where streams were joined."""
        steps = np.diff(np.asarray(self._times, dtype=np.int64))
        if not self._marked or not len(steps):
            return len(self._marked)
        usual = max(1.0, float(np.median(steps)))
        longest = {_find_longest(steps, place) for place in self._marked}
        return min(num_packets, sum(max(1, round(float(steps[place]) / usual)) for place in longest))


def _find_longest(steps: Int64[np.ndarray, " steps"], marked: int) -> int:
    """The place of the longest step around a marked packet; FFmpeg sets the mark a packet early or late."""
    start = min(max(0, marked - 1), len(steps) - 1)
    return start + int(np.argmax(steps[start : marked + 3]))


def count_gaps(
    file: ByteFile, medium_format: MediumFormat, num_bytes: int
) -> CloseCounter | NumberedCounter | None:
    """What counts the holes of a clip when it has been shown every packet; None where they cannot be told."""
    if medium_format in (AVI, FLV, MKV, WEBM):
        return CloseCounter(num_bytes, file if medium_format == AVI else None)
    return NumberedCounter() if medium_format == MPEG_TS else None


def _find_packets(avi: ByteFile) -> int:
    """Where the first packet of an AVI may begin; at the start of the file where even that is not told."""
    avi.seek(0)
    place = (avi.read(_AVI_HEAD_BYTES) or b"").find(_AVI_PACKETS)
    return _AVI_CHUNK_HEAD_BYTES + (place + len(_AVI_PACKETS) if place >= 0 else 0)


def _are_chunks(avi: ByteFile, start: int, end: int) -> bool:
    """Whether chunks follow each other from that of the packet at `start` to that of the next, or the end."""
    start -= _AVI_CHUNK_HEAD_BYTES
    while start + _AVI_CHUNK_HEAD_BYTES < end:
        avi.seek(start)
        head = avi.read(_AVI_CHUNK_HEAD_BYTES) or b""
        if len(head) < _AVI_CHUNK_HEAD_BYTES or not head[:4].isalnum():
            return False
        if head[:4] in _AVI_LISTS:
            start += _AVI_CHUNK_HEAD_BYTES + 4
        else:
            size = int.from_bytes(head[4:], "little")
            start += _AVI_CHUNK_HEAD_BYTES + size + size % 2
    return start in {end, end - _AVI_CHUNK_HEAD_BYTES}
