"""Annotation rows to records, one module per published layout.

Every parser is pure: a row, as a JSON or parquet reader gives it, becomes a `Record` or is refused with a
`SampleError` whose code is stable. Checks run in one fixed order and the first that fails names the
reject, so that a row has the same code on every machine. No file is looked at: whether a medium exists is
ingest's question.
"""

from collections.abc import Callable
from typing import Final

from operators.annotations.llava import parse_llava
from operators.annotations.onevision import parse_onevision
from operators.annotations.video_chatgpt import parse_video_chatgpt
from schemas.record import Locator, Record

Parser = Callable[[object, str, Locator], Record]

PARSERS: Final[dict[str, Parser]] = {
    "llava": parse_llava,
    "onevision": parse_onevision,
    "video_chatgpt": parse_video_chatgpt,
}
"""By the name of the format in a recipe."""
