"""Encoded clip to frames: streamed one at a time, upright, RGB, the right ones, with the damage counted.

Each clip is read twice: packets only, for times and sizes (`operators.packets`), then the decoding. Both
backends give the frames that `operators.frames` chooses:

- `pyav` (default) decodes in order on one thread, keeps two frames, and counts the packets that are damaged;
- `decord` fetches by index in small batches. It is used only where its timestamps agree with the packets';
  with edit lists, AV1 and older containers PyAV reads the clip instead. `VideoReport.backend` says which did.

Up to 5 % of damage is kept and counted, with packets that are not there (`operators.packet_gaps`): what is
lost makes a clip a little shorter or lets a frame stand a little longer, nothing is made up. A picture is
another case: its missing rows would have to be, so `operators.image` refuses every cut one.
FFmpeg conceals some damage; frames that it marks so are counted where they become views.

Sample aspect ratio is ignored, as in every published loader. There is no clock here: deadlines against
decoders that hang are the business of `pipelines.decode`, which runs this module in another process.
"""

import io
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame as DecodedFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from operators import decord_frames
from operators.completeness import ByteFile
from operators.frames import FramePolicy, choose_displayed, count_left_out, pick_displayed
from operators.packets import (
    AV_ERRORS,
    Timeline,
    check_damage,
    find_stream,
    open_container,
    reject_out_of_memory,
    reject_undecodable,
    scan_packets,
    sniff_clip,
)
from operators.sniff import MediumFormat
from schemas.errors import RejectCode, SampleError

Backend = Literal["pyav", "decord"]


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
    duration_s: float
    num_packets: int
    num_damaged: int
    """Packets that did not decode, and those that the file lacks."""
    num_left_out: int
    """Views that `fps` asks for beyond `max_frames`: above 0, the views are spread over the clip."""
    num_concealed: int = 0
    """Views in which the decoder covered damage up."""


@dataclass(frozen=True, slots=True)
class _Clip:
    """An open clip and what its packets tell."""

    file: ByteFile
    format: MediumFormat
    timeline: Timeline

    def report(self, backend: Backend, policy: FramePolicy) -> VideoReport:
        timeline = self.timeline
        num_left_out = count_left_out(timeline.duration_s, policy)
        return VideoReport(
            backend, timeline.duration_s, timeline.num_packets, timeline.num_missing, num_left_out
        )


def read_video_facts(clip: bytes | ByteFile) -> VideoFacts:
    """Format, size, duration; the first frame is decoded, so a clip without any is rejected here.

    Raises:
        SampleError: empty, unknown format, no clip, no video stream, too large, cut, or nothing decodes.
    """
    opened = _open_clip(clip)
    timeline = opened.timeline
    with closing(_decode_frames(opened, opened.report("pyav", FramePolicy()))) as frames:
        for _, frame in frames:
            height_px, width_px = _orient_size(frame)
            return VideoFacts(opened.format, width_px, height_px, timeline.duration_s, timeline.num_packets)
    reject_undecodable(opened.format)


def read_frames(
    clip: bytes | ByteFile, policy: FramePolicy, backend: Backend = "pyav"
) -> tuple[VideoReport, Iterator[Frame]]:
    """The chosen frames of a clip, one at a time, and the report that fills while they are read.

    Frames are to be used only when the iterator has ended: damage over the limit shows on the way.

    Raises:
        SampleError: as `read_video_facts`, here or while iterating; DAMAGED_VIDEO when more than 5 % of the
            packets do not decode.
    """
    opened = _open_clip(clip)
    timeline = opened.timeline
    report = opened.report(backend, policy)
    times_s = choose_displayed(timeline.times_s, timeline.duration_s, policy)
    if backend == "decord":
        frames = decord_frames.read_by_timestamps(opened.file, opened.format, timeline, times_s)
        if frames is not None:
            return report, (Frame(*frame) for frame in frames)
        report.backend = "pyav"
    return report, _stream_frames(opened, times_s, report)


def _open_clip(clip: bytes | ByteFile) -> _Clip:
    file = io.BytesIO(clip) if isinstance(clip, bytes) else clip
    medium_format = sniff_clip(file)
    return _Clip(file, medium_format, scan_packets(file, medium_format))


def _stream_frames(clip: _Clip, times_s: tuple[float, ...], report: VideoReport) -> Iterator[Frame]:
    is_empty = True
    with closing(_decode_frames(clip, report)) as decoded:
        shown: DecodedFrame | None = None
        converter = VideoReformatter()
        pixels = np.zeros((0, 0, 3), dtype=np.uint8)
        for index, time_s, frame in pick_displayed(decoded, times_s):
            if frame is not shown:
                shown, pixels = frame, _orient_pixels(frame, converter)
            report.num_concealed += frame.is_corrupt
            is_empty = False
            yield Frame(index, time_s, pixels)
        for _ in decoded:
            continue  # the rest counts too: damage behind the last view is damage
    if is_empty:
        reject_undecodable(clip.format)


def _decode_frames(clip: _Clip, report: VideoReport) -> Generator[tuple[float, DecodedFrame]]:
    """Every frame in display order with its seconds after the first; damaged packets are counted."""
    first_s: float | None = None
    with open_container(clip.file, clip.format) as container:
        stream = find_stream(container)
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        tick_s = float(stream.time_base or 0)
        for frame in _decode_packets(container, stream, report):
            if frame.pts is None:
                continue
            time_s = frame.pts * tick_s
            if first_s is None:
                # Not the container's: AVI gives packets no display times, and the frames know better.
                lost_before = report.num_damaged > clip.timeline.num_missing
                first_s = min(time_s, clip.timeline.first_s) if lost_before else time_s
            yield time_s - first_s, frame


def _decode_packets(
    container: InputContainer, stream: VideoStream, report: VideoReport
) -> Iterator[DecodedFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError as error:
            reject_out_of_memory(error)
        except AV_ERRORS:
            _count_damage(report)
            packet = None
        try:
            yield from stream.codec_context.decode(packet)  # pyright: ignore[reportUnknownMemberType]
        except av.error.EOFError:
            return
        except MemoryError as error:
            reject_out_of_memory(error)
        except AV_ERRORS:
            _count_damage(report)
        if packet is None or packet.size == 0:
            return


def _count_damage(report: VideoReport) -> None:
    report.num_damaged += 1
    check_damage(report.num_damaged, report.num_packets)


def _quarter_turns(frame: DecodedFrame) -> int:
    """Counter-clockwise quarter turns that bring the frame upright; odd angles count as none."""
    return frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0


def _orient_size(frame: DecodedFrame) -> tuple[int, int]:
    turned = _quarter_turns(frame) % 2 == 1
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def _orient_pixels(frame: DecodedFrame, converter: VideoReformatter) -> UInt8[np.ndarray, "height width 3"]:
    """RGB and upright; the converter is one for all frames, since making one costs a tenth of its work."""
    try:
        pixels = np.asarray(converter.reformat(frame, format="rgb24", threads=1).to_ndarray(), dtype=np.uint8)
    except MemoryError as error:
        reject_out_of_memory(error)
    except AV_ERRORS as error:
        message = f"a frame in {frame.format.name} has no conversion to RGB: {error}"
        raise SampleError(RejectCode.DAMAGED_VIDEO, message) from error
    return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))
