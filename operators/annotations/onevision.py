"""LLaVA-OneVision's and LLaVA-NeXT's parquet rows: the pictures' bytes stand in the row.

    {"id": "...", "image": {"bytes": b"...", "path": None}, "conversations": [...], "data_source": "..."}

`image` is null in text-only rows, and may be a list of pictures. A reader that leaves the bytes out, because
the probe reads them later, gives `image` without the key `bytes`.
"""

from typing import Final, cast

from operators.annotations.conversation import build_record
from operators.annotations.fields import describe, read_object, read_record_id
from operators.annotations.layout import Layout
from operators.annotations.media import References, check_number
from operators.annotations.turns import LLAVA_SPELLING, read_turns
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind, MediumReference, Record

_PICTURE: Final = (MediumReference(MediumKind.IMAGE),)


def parse_onevision(row: object) -> Record:
    """A row of a LLaVA-OneVision or LLaVA-NeXT parquet file.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    record_id = read_record_id(fields)
    media = _read_pictures(fields.get("image"))
    said = read_turns(fields, LLAVA_SPELLING)
    return build_record(record_id, said, media)


def name_no_media() -> References:
    """No field of a row with embedded pictures names a medium."""
    return ()


ONEVISION: Final = Layout(parse_onevision, (), name_no_media, is_embedded=True)


def _read_pictures(image: object) -> References:
    if image is None:
        return ()
    pictures: list[object] = [*image] if isinstance(image, list) else [image]
    for picture in pictures:
        _check_picture(picture)
    return check_number(_PICTURE * len(pictures))


def _check_picture(picture: object) -> None:
    if not isinstance(picture, dict):
        raise SampleError(
            RejectCode.BAD_TYPE, f"'image' is {describe(picture)}, not a struct of bytes and path"
        )
    fields = cast("dict[str, object]", picture)
    if "bytes" not in fields:
        return
    data = fields["bytes"]
    if not isinstance(data, bytes | None):
        raise SampleError(RejectCode.BAD_TYPE, f"'image.bytes' is {describe(data)}, not bytes")
    if not data:
        raise SampleError(RejectCode.EMPTY_FILE, "'image.bytes' is empty")
