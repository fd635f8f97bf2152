r"""LLaVA's own layout: 558K, mix665k, ShareGPT4V, LLaVA-NeXT's raw files, M4-Instruct, video conversions.

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
     "conversations": [{"from": "human", "value": "<image>\n..."}, {"from": "gpt", "value": "..."}]}

The order of the checks: object, id, media, turns, texts, placeholders. Other keys are ignored.
"""

from typing import Final

from operators.annotations.conversation import build_record
from operators.annotations.fields import read_object, read_record_id
from operators.annotations.layout import Layout
from operators.annotations.media import name_media
from operators.annotations.turns import LLAVA_SPELLING, read_turns
from schemas.record import Record


def parse_llava(row: object) -> Record:
    """A row of a LLaVA-style annotation file.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    record_id = read_record_id(fields)
    read = fields.get
    media = name_media(read("image"), read("video"), read("images"), read("videos"))
    said = read_turns(fields, LLAVA_SPELLING)
    return build_record(record_id, said, media)


LLAVA: Final = Layout(parse_llava, ("image", "video", "images", "videos"), name_media, usual=LLAVA_SPELLING)
