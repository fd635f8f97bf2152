"""Annotation rows to records, one module per published layout.

Every parser is pure: a row, as a JSON or parquet reader gives it, becomes a `Record` or is refused with a
`SampleError` whose code is stable. Checks run in one fixed order and the first that fails names the
reject, so that a row has the same code on every machine. No file is looked at: whether a medium exists is
ingest's question.
"""

from typing import Final

from operators.annotations.layout import Layout
from operators.annotations.llava import LLAVA
from operators.annotations.onevision import ONEVISION
from operators.annotations.sharegpt import SHAREGPT
from operators.annotations.video_chatgpt import VIDEO_CHATGPT

LAYOUTS: Final[dict[str, Layout]] = {
    "llava": LLAVA,
    "video_chatgpt": VIDEO_CHATGPT,
    "onevision": ONEVISION,
    "llava_next": ONEVISION,
    "sharegpt": SHAREGPT,
    "llava_yaml": LLAVA,
}
"""By the name of the format in a recipe; of `llava_yaml`, the layout of the files that the list names."""
