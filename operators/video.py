"""Encoded clip to frames: streamed one at a time, upright, RGB, the right ones, with the damage counted.

Each clip is read twice: packets only, for times and sizes (milliseconds), then the decoding. Both backends
give the frames that `operators.frames` chooses:

- `pyav` (default) decodes in order on one thread, keeps two frames, and counts the packets that are damaged;
- `decord` fetches by index in small batches. It is used only where its timestamps agree with the packets';
  with edit lists, AV1 and older containers PyAV reads the clip instead. `VideoReport.backend` says which did.

The demuxer is named by the sniffed format, never probed, and may open nothing but the bytes it was given, so
playlists and external references are dead ends. Cover art is no video. Sample aspect ratio is ignored, as in
every published loader. There is no clock here: deadlines against decoders that hang need another process.
"""

import io
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame as DecodedFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from operators import decord_frames
from operators.frames import FramePolicy, choose_times, pick_displayed
from operators.sniff import HEAD_BYTES, MediumFormat, sniff_format
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind

Backend = Literal["pyav", "decord"]

MAX_FRAME_PIXELS: Final = 64_000_000
MAX_DAMAGED_SHARE: Final = 0.05

_ATTACHED_PICTURE = 0x400
_AV_ERRORS: Final = (av.error.FFmpegError, OSError, ValueError, LookupError, OverflowError)


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What packets and the first frame tell; the size is the one on display."""

    format: MediumFormat
    width_px: int
    height_px: int
    duration_s: float
    num_packets: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One chosen frame: the index of its view, its own time after the clip's first, its pixels."""

    index: int
    time_s: float
    pixels: UInt8[np.ndarray, "height width 3"]


@dataclass(slots=True)
class VideoReport:
    """What reading the clip showed; complete when the frames have been read to the end."""

    backend: Backend
    num_packets: int = 0
    num_damaged: int = 0


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Timestamps of the packets that come on display, ascending, in seconds."""

    times_s: tuple[float, ...]
    end_s: float
    num_packets: int

    @property
    def duration_s(self) -> float:
        return self.end_s - self.times_s[0]


def read_video_facts(data: bytes) -> VideoFacts:
    """Format, size, duration; the first frame is decoded, so a clip without any is rejected here.

    Raises:
        SampleError: empty, unknown format, no clip, no video stream, too large, or nothing decodes.
    """
    medium_format = _check_format(data)
    timeline = _scan_packets(data, medium_format)
    report = VideoReport("pyav", timeline.num_packets)
    with closing(_decode_frames(data, medium_format, report)) as frames:
        for _, frame in frames:
            height_px, width_px = _orient_size(frame)
            return VideoFacts(medium_format, width_px, height_px, timeline.duration_s, timeline.num_packets)
    _reject_undecodable(data, medium_format)


def read_frames(
    data: bytes, policy: FramePolicy, backend: Backend = "pyav"
) -> tuple[VideoReport, Iterator[Frame]]:
    """The chosen frames of a clip, one at a time, and the report that fills while they are read.

    Frames are to be used only when the iterator has ended: damage over the limit shows on the way.

    Raises:
        SampleError: as `read_video_facts`, here or while iterating; DAMAGED_VIDEO when more than 5 % of the
            packets do not decode.
    """
    medium_format = _check_format(data)
    timeline = _scan_packets(data, medium_format)
    report = VideoReport(backend, timeline.num_packets)
    times_s = choose_times(timeline.duration_s, policy)
    if backend == "decord":
        frames = decord_frames.read_by_timestamps(data, medium_format, timeline.times_s, times_s)
        if frames is not None:
            return report, (Frame(*frame) for frame in frames)
        report.backend = "pyav"
    return report, _stream_frames(data, medium_format, times_s, report)


def _stream_frames(
    data: bytes, medium_format: MediumFormat, times_s: tuple[float, ...], report: VideoReport
) -> Iterator[Frame]:
    is_empty = True
    with closing(_decode_frames(data, medium_format, report)) as decoded:
        shown: DecodedFrame | None = None
        pixels = np.zeros((0, 0, 3), dtype=np.uint8)
        for index, time_s, frame in pick_displayed(decoded, times_s):
            if frame is not shown:
                shown, pixels = frame, _orient_pixels(frame)
            is_empty = False
            yield Frame(index, time_s, pixels)
        for _ in decoded:
            continue  # the rest counts too: damage behind the last view is damage
    if is_empty:
        _reject_undecodable(data, medium_format)


def _check_format(data: bytes) -> MediumFormat:
    if not data:
        raise SampleError(RejectCode.EMPTY_FILE, "the file has no bytes")
    medium_format = sniff_format(data[:HEAD_BYTES])
    if medium_format is None:
        raise SampleError(RejectCode.UNKNOWN_FORMAT, f"no known clip format starts with {data[:8]!r}")
    if medium_format.kind is not MediumKind.VIDEO:
        message = f"a clip is wanted, the bytes are a picture ({medium_format.extension})"
        raise SampleError(RejectCode.WRONG_KIND, message)
    return medium_format


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """Called by FFmpeg when a container names another file."""
    raise PermissionError(f"a clip may not open {url!r} (flags {flags}, {len(options)} options)")


def _open_container(data: bytes, medium_format: MediumFormat) -> InputContainer:
    try:
        return av.open(
            io.BytesIO(data),
            mode="r",
            format=medium_format.decoder,
            options={"max_pixels": str(MAX_FRAME_PIXELS)},
            io_open=_refuse_to_open,
        )
    except _AV_ERRORS as error:
        message = f"{medium_format.extension} of {len(data)} bytes does not open: {error}"
        raise SampleError(RejectCode.DAMAGED_VIDEO, message) from error


def _find_stream(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        context = cast("VideoCodecContext | None", stream.codec_context)
        if context is None or int(stream.disposition) & _ATTACHED_PICTURE:
            continue
        if context.width * context.height > MAX_FRAME_PIXELS:
            message = f"{context.width} x {context.height} pixels a frame; the limit is {MAX_FRAME_PIXELS}"
            raise SampleError(RejectCode.VIDEO_TOO_LARGE, message)
        return stream
    raise SampleError(RejectCode.NO_VIDEO_STREAM, "the file holds no moving picture in a known codec")


def _scan_packets(data: bytes, medium_format: MediumFormat) -> _Timeline:
    """Times of all packets, nothing decoded; an edit list's hidden packets are left out."""
    times_s: list[float] = []
    end_s = float("-inf")
    num_packets = 0
    with _open_container(data, medium_format) as container:
        stream = _find_stream(container)
        try:
            for packet in container.demux(stream):
                num_packets += packet.size > 0
                pts = packet.pts if packet.pts is not None else packet.dts
                if pts is None or packet.size == 0 or packet.is_discard:
                    continue
                time_base = float(packet.time_base)
                times_s.append(pts * time_base)
                end_s = max(end_s, (pts + (packet.duration or 0)) * time_base)
        except _AV_ERRORS:
            num_packets += 1  # a cut file: what stands before the cut is kept
    if not times_s:
        _reject_undecodable(data, medium_format)
    return _Timeline(tuple(sorted(times_s)), end_s, num_packets)


def _decode_frames(
    data: bytes, medium_format: MediumFormat, report: VideoReport
) -> Generator[tuple[float, DecodedFrame]]:
    """Every frame in display order with its seconds after the first; damaged packets are counted."""
    first_s: float | None = None
    with _open_container(data, medium_format) as container:
        stream = _find_stream(container)
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        for frame in _decode_packets(container, stream, report):
            if frame.pts is None or frame.time_base is None:
                continue
            time_s = float(frame.pts * frame.time_base)
            first_s = time_s if first_s is None else first_s
            yield time_s - first_s, frame


def _decode_packets(
    container: InputContainer, stream: VideoStream, report: VideoReport
) -> Iterator[DecodedFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except _AV_ERRORS:
            _count_damage(report)
            packet = None
        try:
            yield from stream.codec_context.decode(packet)  # pyright: ignore[reportUnknownMemberType]
        except av.error.EOFError:
            return
        except _AV_ERRORS:
            _count_damage(report)
        if packet is None or packet.size == 0:
            return


def _count_damage(report: VideoReport) -> None:
    report.num_damaged += 1
    if report.num_damaged > max(1.0, MAX_DAMAGED_SHARE * report.num_packets):
        message = f"at least {report.num_damaged} of {report.num_packets} packets do not decode"
        raise SampleError(RejectCode.DAMAGED_VIDEO, message)


def _quarter_turns(frame: DecodedFrame) -> int:
    """Counter-clockwise quarter turns that bring the frame upright; odd angles count as none."""
    return frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0


def _orient_size(frame: DecodedFrame) -> tuple[int, int]:
    turned = _quarter_turns(frame) % 2 == 1
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def _orient_pixels(frame: DecodedFrame) -> UInt8[np.ndarray, "height width 3"]:
    try:
        pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    except _AV_ERRORS as error:
        message = f"a frame in {frame.format.name} has no conversion to RGB: {error}"
        raise SampleError(RejectCode.DAMAGED_VIDEO, message) from error
    return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))


def _reject_undecodable(data: bytes, medium_format: MediumFormat) -> NoReturn:
    message = f"no frame of this {medium_format.extension} of {len(data)} bytes decodes"
    raise SampleError(RejectCode.DAMAGED_VIDEO, message)
