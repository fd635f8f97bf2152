"""What the bytes of a medium say of themselves: digest, kind, size and duration."""

from collections.abc import Callable
from hashlib import sha256

from operators.image_header import read_image_header
from operators.video import VideoFacts, read_video_facts
from schemas.medium import MediumFacts
from schemas.record import MediumKind


def read_facts(
    data: bytes, kind: MediumKind, read_clip: Callable[[bytes], VideoFacts] = read_video_facts
) -> MediumFacts:
    """Digest, kind, size and duration of an encoded medium.

    Args:
        data: the whole file.
        kind: as what it is looked at.
        read_clip: opens clips, which needs a demuxer and a decoder.

    Raises:
        SampleError: as `read_image_header` and `read_clip`.
    """
    if kind is MediumKind.IMAGE:
        image = read_image_header(data)
        extension, width_px, height_px = image.format.extension, image.width_px, image.height_px
        duration_s = 0.0
    else:
        video = read_clip(data)
        extension, width_px, height_px = video.format.extension, video.width_px, video.height_px
        duration_s = video.duration_s
    digest = sha256(data).hexdigest()
    return MediumFacts(digest, kind, extension, len(data), width_px, height_px, duration_s)
