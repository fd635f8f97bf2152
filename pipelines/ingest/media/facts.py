"""What the bytes of a medium say of themselves: kind, size and duration, or what is wrong with them.

Pictures are told by their header, here. Clips take a demuxer and a decoder, which run in a process of their
own: a hostile clip costs that process and nothing else.
"""

from functools import cache
from typing import Final

from operators.image_header import read_image_header
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.ingest.findings import Finding, FoundMedium, RejectedMedium
from schemas.errors import SampleError
from schemas.record import MediumKind

_IMAGE: Final = MediumKind.IMAGE


def describe_bytes(data: bytes, sha256: str, kind: MediumKind, location: str) -> Finding:
    """The finding of a medium that is looked at as one of a kind, from its bytes and their digest."""
    duration_s = 0.0
    try:
        if kind is _IMAGE:
            medium_format, width_px, height_px = read_image_header(data)
        else:
            clip = _decoder().read_video_facts(data)
            medium_format, width_px, height_px = clip.format, clip.width_px, clip.height_px
            duration_s = clip.duration_s
    except SampleError as error:
        return RejectedMedium(error.code, f"{location!r}: {error.message}")
    return FoundMedium(
        sha256, kind, medium_format.extension, len(data), width_px, height_px, duration_s, location
    )


@cache
def _decoder() -> IsolatedDecoder:
    return IsolatedDecoder()
