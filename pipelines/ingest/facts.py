"""What the bytes of a medium say of themselves: digest, kind, size and duration."""

from hashlib import sha256

from operators.image_header import read_image_header
from operators.sniff import HEAD_BYTES, sniff_format
from operators.video import read_video_facts
from schemas.errors import RejectCode, SampleError
from schemas.medium import MediumFacts
from schemas.record import MediumKind


def read_facts(data: bytes, kind: MediumKind) -> MediumFacts:
    """Digest, kind, size and duration of an encoded medium.

    Raises:
        SampleError: EMPTY_FILE, UNKNOWN_FORMAT, WRONG_KIND, and what the header parsers find.
    """
    if not data:
        raise SampleError(RejectCode.EMPTY_FILE, "the file has no bytes")
    medium_format = sniff_format(data[:HEAD_BYTES])
    if medium_format is None:
        raise SampleError(RejectCode.UNKNOWN_FORMAT, f"no known format starts with {data[:8]!r}")
    if medium_format.kind is not kind:
        message = f"the record wants {kind.value}, the bytes are {medium_format.kind.value}"
        raise SampleError(RejectCode.WRONG_KIND, f"{message} ({medium_format.extension})")
    if kind is MediumKind.IMAGE:
        image = read_image_header(data)
        width_px, height_px, duration_s = image.width_px, image.height_px, 0.0
    else:
        video = read_video_facts(data)
        width_px, height_px, duration_s = video.width_px, video.height_px, video.duration_s
    digest = sha256(data).hexdigest()
    return MediumFacts(digest, kind, medium_format.extension, len(data), width_px, height_px, duration_s)
