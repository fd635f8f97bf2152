r"""LLaVA's own layout: 558K, mix665k, ShareGPT4V, and the LLaVA-style conversions of video sets.

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
     "conversations": [{"from": "human", "value": "<image>\n..."}, {"from": "gpt", "value": "..."}]}

The order of the checks: object, id, medium, turns, texts, placeholders. `image` or `video` may be text, a
list of one, or null; null and the empty list mean a text-only record, as does the missing key. Other keys
are ignored.
"""

from operators.annotations.conversation import (
    check_texts,
    read_turns,
    remove_leaked_label,
    settle_placeholders,
)
from operators.annotations.fields import check_text, read_object, read_record_id
from schemas.errors import RejectCode, SampleError
from schemas.record import Locator, MediumKind, MediumReference, Record


def parse_llava(row: object, source: str, locator: Locator) -> Record:
    """A row of a LLaVA-style annotation file.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    record_id = read_record_id(fields)
    medium = _read_medium(fields)
    turns = read_turns(fields)
    kind = medium.kind if medium else None
    turns, cleaned = remove_leaked_label(turns) if kind is MediumKind.VIDEO else (turns, ())
    check_texts(turns)
    turns, settled = settle_placeholders(turns, kind)
    return Record(
        source=source,
        locator=locator,
        record_id=record_id,
        turns=turns,
        media=(medium,) if medium else (),
        repairs=(*cleaned, *settled),
    )


def _read_medium(fields: dict[str, object]) -> MediumReference | None:
    media = [
        MediumReference(kind, path)
        for kind, key in ((MediumKind.IMAGE, "image"), (MediumKind.VIDEO, "video"))
        for path in _read_paths(fields.get(key), key)
    ]
    if len(media) > 1:
        raise SampleError(RejectCode.TOO_MANY_MEDIA, f"{len(media)} media; one a record is supported")
    return media[0] if media else None


def _read_paths(value: object, key: str) -> list[str]:
    if value is None:
        return []
    values: list[object] = [*value] if isinstance(value, list) else [value]
    paths = [check_text(path, f"{key!r}") for path in values]
    if not all(paths):
        raise SampleError(RejectCode.BAD_TYPE, f"{key!r} is empty; a text-only record has no such key")
    return paths
