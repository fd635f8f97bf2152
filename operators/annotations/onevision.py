"""LLaVA-OneVision's parquet rows: the picture's bytes stand in the row.

    {"id": "...", "image": {"bytes": b"...", "path": None}, "conversations": [...], "data_source": "..."}

`image` is null in text-only rows. A reader that left the bytes out, because the probe reads them later,
gives `image` without the key `bytes`; the reference is then empty and means "the bytes in this row".
"""

from typing import cast

from operators.annotations.conversation import check_texts, read_turns, settle_placeholders
from operators.annotations.fields import read_object, read_record_id
from schemas.errors import RejectCode, SampleError
from schemas.record import Locator, MediumKind, MediumReference, Record


def parse_onevision(row: object, source: str, locator: Locator) -> Record:
    """A row of a LLaVA-OneVision parquet file.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    record_id = read_record_id(fields)
    medium = _read_medium(fields.get("image"))
    turns = read_turns(fields)
    check_texts(turns)
    turns, repairs = settle_placeholders(turns, medium.kind if medium else None)
    return Record(
        source=source,
        locator=locator,
        record_id=record_id,
        turns=turns,
        media=(medium,) if medium else (),
        repairs=repairs,
    )


def _read_medium(image: object) -> MediumReference | None:
    if image is None:
        return None
    if not isinstance(image, dict):
        raise SampleError(RejectCode.BAD_TYPE, f"'image' is of type {type(image).__name__}, not a struct")
    fields = cast("dict[str, object]", image)
    if "bytes" not in fields:
        return MediumReference(MediumKind.IMAGE)
    data = fields["bytes"]
    if not isinstance(data, bytes | None):
        raise SampleError(RejectCode.BAD_TYPE, f"'image.bytes' is of type {type(data).__name__}, not bytes")
    if not data:
        raise SampleError(RejectCode.EMPTY_FILE, "'image.bytes' is empty")
    return MediumReference(MediumKind.IMAGE, data=data)
