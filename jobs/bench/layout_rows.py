"""Rows of the layouts besides LLaVA's pictures and Video-ChatGPT's questions, and what goes wrong in them.

Captions like ShareGPT4V's, clips with either word for them, several pictures a record, LLaMA-Factory's
messages, and rows that hold their pictures. As in `rows`, a writer makes row `number` over a stock of so many
media, and each fault comes with the code that ingest has to give it.
"""

from typing import Final, cast

import msgspec

from jobs.bench.embedded_pictures import draw_picture
from jobs.bench.rows import TALK_FAULTS, Fault, Row, say, talk
from jobs.bench.text_pool import TextPool, mix
from schemas.errors import RejectCode
from schemas.record import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

TEXT_EVERY: Final = 12
"""Of rows that hold their pictures, one in so many holds none."""
_ROOTS: Final = ("sam/images", "coco/train2017", "llava/llava_pretrain/images", "wikiart/images")
_NAN: Final = msgspec.Raw(b"NaN")
_NO_PICTURE: Final = b"<html><title>404 Not Found</title></html>"


def write_long_caption(pool: TextPool, number: int, num_media: int) -> Row:
    """Like ShareGPT4V: one request, a long answer, pictures under several roots."""
    picture = mix(number) % num_media
    question = f"{pool.cut(number, 60)}\n{IMAGE_PLACEHOLDER}"
    return {
        "id": f"{picture:09d}",
        "image": f"{_ROOTS[picture % len(_ROOTS)]}/{picture:09d}.jpg",
        "conversations": [*say(question, pool.cut(number + 1, 900))],
    }


def write_clip_talk(pool: TextPool, number: int, num_media: int) -> Row:
    """Like the conversions of Video-ChatGPT: the word is `<video>`, or `<image>` as LLaVA-NeXT has it."""
    clip = f"v_{mix(mix(number) % num_media):016x}"[:13]
    word = VIDEO_PLACEHOLDER if number % 2 else IMAGE_PLACEHOLDER
    return {
        "id": clip,
        "video": f"videochatgpt_tune/{clip}.mp4",
        "conversations": talk(pool, number, 1, 60, 260, word),
    }


def write_interleaved(pool: TextPool, number: int, num_media: int) -> Row:
    """Like M4-Instruct: two to five pictures, shown one after another in the first question."""
    names = [f"{picture:08d}.png" for picture in _pick(number, num_media)]
    return {
        "id": f"multi_{number:x}",
        "image": [f"interleaved/{name[:4]}/{name}" for name in names],
        "conversations": talk(pool, number, 2, 120, 300, "\n".join([IMAGE_PLACEHOLDER] * len(names))),
    }


def write_messages(pool: TextPool, number: int, num_media: int) -> Row:
    """Like LLaMA-Factory's sets: by turns about some pictures, a clip, or nothing; no id."""
    match number % 4:
        case 0:
            words, media = "", {}
        case 1:
            clip = f"clips/{mix(number) % num_media:08d}.mp4"
            words, media = VIDEO_PLACEHOLDER, {"images": list[str](), "videos": [clip]}
        case _:
            names = [f"shots/{picture:08d}.jpg" for picture in _pick(number, num_media)[1:3]]
            words, media = IMAGE_PLACEHOLDER * len(names), {"images": names}
    question, answer = pool.cut(number, 100), pool.cut(number + 1, 350)
    said = (("user", f"{words}{question}"), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in said], **media}


def write_embedded(pool: TextPool, number: int, num_media: int) -> Row:
    """Like OneVision and LLaVA-NeXT: the picture in the row, ids with `/`, some rows without a picture."""
    subset = f"subset_{number % 5}"
    picture = None if number % TEXT_EVERY == 0 else mix(number) % num_media
    return {
        "id": f"cauldron/{subset}/images/{subset}_{number:08d}.png",
        "image": None if picture is None else _embed(picture),
        "conversations": talk(pool, number, 2, 100, 300, "" if picture is None else IMAGE_PLACEHOLDER),
        "data_source": f"{subset}(cauldron)",
    }


def write_panels(pool: TextPool, number: int, num_media: int) -> Row:
    """The same with several pictures in the row."""
    pictures = [*map(_embed, _pick(number, num_media))]
    words = "\n".join([IMAGE_PLACEHOLDER] * len(pictures))
    return {
        "id": f"panels_{number}",
        "image": pictures,
        "conversations": talk(pool, number, 1, 100, 300, words),
        "data_source": "panels",
    }


def _pick(number: int, num_media: int) -> list[int]:
    place = mix(number)
    return [mix(place + step) % num_media for step in range(2 + place % 4)]


def _embed(picture: int) -> Row:
    return {"bytes": draw_picture(picture), "path": None}


def _show_twice(row: Row) -> Row:
    turns = [*say(f"{IMAGE_PLACEHOLDER} and {IMAGE_PLACEHOLDER}: which?", "The second.")]
    return row | {"image": "one.jpg", "conversations": turns}


def _measure_by_nan(row: Row) -> Row:
    return row | {"score": _NAN}


def _use_both_words(row: Row) -> Row:
    return row | {"conversations": [*say(f"{VIDEO_PLACEHOLDER}\nAnd {IMAGE_PLACEHOLDER}?", "Both.")]}


def _show_too_many(row: Row) -> Row:
    return row | {"image": [f"{number}.png" for number in range(65)]}


def _forget_a_word(row: Row) -> Row:
    return row | {"image": ["1.png", "2.png"], "conversations": [*say(f"{IMAGE_PLACEHOLDER} Which?", "1.")]}


def _set_system(row: Row) -> Row:
    messages = cast("list[Row]", row["messages"])
    return row | {"messages": [{"role": "system", "content": "Be brief."}, *messages]}


def _forget_messages(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "messages"}


def _sound(row: Row) -> Row:
    return row | {"audios": ["1.wav"]}


def _ask_nothing(row: Row) -> Row:
    messages = [{"role": "user", "content": "\n"}, {"role": "assistant", "content": "Yes."}]
    return row | {"messages": messages, "images": None, "videos": None}


def _embed_nothing(row: Row) -> Row:
    return _with_bytes(row, b"")


def _embed_page(row: Row) -> Row:
    return _with_bytes(row, _NO_PICTURE)


def _cut_picture(row: Row) -> Row:
    return _with_bytes(row, draw_picture(1)[:60])


def _with_bytes(row: Row, data: bytes) -> Row:
    """With one picture of such bytes, alone or in a list, as the row has it."""
    picture: Row = {"bytes": data, "path": None}
    return row | {
        "image": [picture] if isinstance(row["image"], list) else picture,
        "conversations": [*say(f"{IMAGE_PLACEHOLDER}\nWhy?", "Because.")],
    }


_SHARED: Final = tuple(fault for fault in TALK_FAULTS if fault[0] in ("empty_conversation", "bad_role"))

LINE_FAULTS: Final[tuple[Fault, ...]] = (
    *TALK_FAULTS,
    (RejectCode.BAD_JSON, _measure_by_nan),
    (RejectCode.PLACEHOLDER_MISMATCH, _show_twice),
)
"""Of rows about a picture, where each is text by itself."""
CLIP_FAULTS: Final[tuple[Fault, ...]] = (*_SHARED, (RejectCode.PLACEHOLDER_MISMATCH, _use_both_words))
INTERLEAVED_FAULTS: Final[tuple[Fault, ...]] = (
    *TALK_FAULTS,
    (RejectCode.TOO_MANY_MEDIA, _show_too_many),
    (RejectCode.PLACEHOLDER_MISMATCH, _forget_a_word),
)
MESSAGE_FAULTS: Final[tuple[Fault, ...]] = (
    (RejectCode.BAD_ROLE, _set_system),
    (RejectCode.MISSING_FIELD, _forget_messages),
    (RejectCode.WRONG_KIND, _sound),
    (RejectCode.EMPTY_QUESTION, _ask_nothing),
)
EMBEDDED_FAULTS: Final[tuple[Fault, ...]] = (
    *(fault for fault in TALK_FAULTS if fault[0] != "bad_type"),
    (RejectCode.EMPTY_FILE, _embed_nothing),
    (RejectCode.UNKNOWN_FORMAT, _embed_page),
    (RejectCode.TRUNCATED_IMAGE, _cut_picture),
)
"""Parquet has no id that is half a number."""
