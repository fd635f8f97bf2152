"""A clip's container: opened behind guards, its packets listed with their times, nothing decoded.

The demuxer is named by the sniffed format, never probed, and may open nothing but the bytes it was given, so
playlists and external references are dead ends. Cover art is no video.

A clip begins with its first key frame: what stands before it (a recording that starts in the middle of a
group of pictures) decodes to nothing. Listing reads the whole file once: about a percent of decoding it.
"""

import io
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, NoReturn, cast

import av
import av.error
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from operators.completeness import ByteFile, count_missing_bytes
from operators.packet_gaps import count_gaps
from operators.sniff import HEAD_BYTES, MediumFormat, sniff_format
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind

MAX_FRAME_PIXELS: Final = 64_000_000
MAX_DAMAGED_SHARE: Final = 0.05

AV_ERRORS: Final = (av.error.FFmpegError, OSError, ValueError, LookupError, OverflowError)
"""What PyAV raises on damaged files. Its `MemoryError` is an `FFmpegError` too: catch that one before."""

_ATTACHED_PICTURE = 0x400


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the frames of a clip come on display, in seconds after the first, ascending and distinct."""

    first_s: float
    """The container's own time of the first frame."""
    times_s: tuple[float, ...]
    duration_s: float
    """From the first frame to the end of the last."""
    num_packets: int
    """Those that are there, and those that the file promises and lacks or that are missing between them."""
    num_missing: int
    has_open_groups: bool
    """Some frames come before a key frame on display and after it in the file."""


def sniff_clip(file: ByteFile) -> MediumFormat:
    """The format of a clip.

    Raises:
        SampleError: EMPTY_FILE, UNKNOWN_FORMAT, WRONG_KIND.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES) or b""
    if not head:
        raise SampleError(RejectCode.EMPTY_FILE, "the file has no bytes")
    medium_format = sniff_format(head)
    if medium_format is None:
        raise SampleError(RejectCode.UNKNOWN_FORMAT, f"no known clip format starts with {head[:8]!r}")
    if medium_format.kind is not MediumKind.VIDEO:
        message = f"a clip is wanted, the bytes are a picture ({medium_format.extension})"
        raise SampleError(RejectCode.WRONG_KIND, message)
    return medium_format


def open_container(file: ByteFile, medium_format: MediumFormat) -> InputContainer:
    """The container, read from its first byte.

    Raises:
        SampleError: DAMAGED_VIDEO.
    """
    file.seek(0)
    try:
        return av.open(
            file,
            mode="r",
            format=medium_format.decoder,
            options={"max_pixels": str(MAX_FRAME_PIXELS)},
            io_open=_refuse_to_open,
        )
    except MemoryError as error:
        reject_out_of_memory(error)
    except AV_ERRORS as error:
        message = f"{medium_format.extension} does not open: {error}"
        raise SampleError(RejectCode.DAMAGED_VIDEO, message) from error


def find_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures.

    Raises:
        SampleError: NO_VIDEO_STREAM, VIDEO_TOO_LARGE.
    """
    for stream in container.streams.video:
        context = cast("VideoCodecContext | None", stream.codec_context)
        if context is None or int(stream.disposition) & _ATTACHED_PICTURE:
            continue
        if context.width * context.height > MAX_FRAME_PIXELS:
            message = f"{context.width} x {context.height} pixels a frame; the limit is {MAX_FRAME_PIXELS}"
            raise SampleError(RejectCode.VIDEO_TOO_LARGE, message)
        return stream
    raise SampleError(RejectCode.NO_VIDEO_STREAM, "the file holds no moving picture in a known codec")


def scan_packets(file: ByteFile, medium_format: MediumFormat) -> Timeline:
    """Times of all packets; those that an edit list hides are left out.

    Raises:
        SampleError: as `open_container` and `find_stream`; TRUNCATED_VIDEO when more than 5 % of the bytes
            that the file promises are not there; DAMAGED_VIDEO when more than 5 % of its packets are not.
    """
    num_bytes = file.seek(0, io.SEEK_END)
    num_missing_bytes = count_missing_bytes(file, medium_format)
    num_promised = num_bytes + num_missing_bytes
    if num_missing_bytes > MAX_DAMAGED_SHARE * num_promised:
        message = f"{medium_format.extension} of {num_bytes} bytes; its header promises {num_promised}"
        raise SampleError(RejectCode.TRUNCATED_VIDEO, message)
    shown, num_lost = _list_packets(file, medium_format, num_bytes)
    if not shown.times_s:
        reject_undecodable(medium_format)
    timeline = shown.to_timeline(num_lost + math.ceil(shown.num_packets * num_missing_bytes / num_bytes))
    if num_lost:
        check_damage(timeline.num_missing, timeline.num_packets)
    return timeline


def check_damage(num_damaged: int, num_packets: int) -> None:
    """One damaged packet is always borne, and 5 % of all.

    Raises:
        SampleError: DAMAGED_VIDEO.
    """
    if num_damaged > max(1.0, MAX_DAMAGED_SHARE * num_packets):
        message = f"at least {num_damaged} of {num_packets} packets do not decode or are not there"
        raise SampleError(RejectCode.DAMAGED_VIDEO, message)


def _list_packets(file: ByteFile, medium_format: MediumFormat, num_bytes: int) -> tuple["_Shown", int]:
    """What comes on display, and how many packets were passed over."""
    shown = _Shown()
    gaps = count_gaps(file, medium_format, num_bytes)
    with open_container(file, medium_format) as container:
        stream = find_stream(container)
        tick_s = float(stream.time_base or 0)
        try:
            for packet in container.demux(*(() if gaps else (stream,))):
                if packet.size == 0:
                    continue
                is_picture = packet.stream_index == stream.index
                if gaps:
                    gaps.add(packet, is_picture)
                if not is_picture:
                    continue
                shown.num_packets += 1
                pts = packet.pts if packet.pts is not None else packet.dts
                if pts is not None:
                    end_s = (pts + (packet.duration or 0)) * tick_s
                    shown.add(pts * tick_s, end_s, packet.is_keyframe, packet.is_discard)
        except MemoryError as error:
            reject_out_of_memory(error)
        except AV_ERRORS:
            shown.num_packets += 1  # a cut file: what stands before the cut is kept
    return shown, gaps.count_lost(shown.num_packets) if gaps else 0


class _Shown:
    """Gathers the packets that come on display."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.num_packets = 0
        self._first_key_s: float | None = None
        self._last_key_s = float("-inf")
        self._has_open_groups = False
        self._end_s = float("-inf")

    def add(self, time_s: float, end_s: float, is_key: bool, is_hidden: bool) -> None:
        if is_key:
            self._first_key_s = time_s if self._first_key_s is None else self._first_key_s
            self._last_key_s = time_s
        elif self._last_key_s != self._first_key_s and time_s < self._last_key_s:
            self._has_open_groups = True
        if not is_hidden:
            self.times_s.append(time_s)
            self._end_s = max(self._end_s, end_s)

    def to_timeline(self, num_missing: int) -> Timeline:
        ordered = sorted(set(self.times_s))
        begin_s = ordered[0] if self._first_key_s is None else self._first_key_s
        times_s = ordered[bisect_left(ordered, begin_s) :] or ordered
        first_s = times_s[0]
        # FLV gives no durations: the last frame then stays as long as the one before it.
        is_open = self._end_s <= times_s[-1] and len(times_s) > 1
        end_s = 2 * times_s[-1] - times_s[-2] if is_open else self._end_s
        return Timeline(
            first_s=first_s,
            times_s=tuple(time_s - first_s for time_s in times_s),
            duration_s=end_s - first_s,
            num_packets=self.num_packets + num_missing,
            num_missing=num_missing,
            has_open_groups=self._has_open_groups,
        )


def reject_undecodable(medium_format: MediumFormat) -> NoReturn:
    """Reject a clip of which nothing comes on display.

    Raises:
        SampleError: DAMAGED_VIDEO.
    """
    message = f"no frame of this {medium_format.extension} decodes"
    raise SampleError(RejectCode.DAMAGED_VIDEO, message)


def reject_out_of_memory(error: MemoryError) -> NoReturn:
    """Reject a clip that asks for too much memory; on damaged ones FFmpeg may ask for any amount.

    Raises:
        SampleError: DECODER_OUT_OF_MEMORY.
    """
    raise SampleError(RejectCode.DECODER_OUT_OF_MEMORY, f"FFmpeg got no memory: {error}") from error


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """Called by FFmpeg when a container names another file."""
    raise PermissionError(f"a clip may not open {url!r} (flags {flags}, {len(options)} options)")
