"""What is in each of the four sets: how many media, which records over them, and the faults among them.

The shares follow the published ones in kind: one caption a picture in the 558K set, many records over the
same COCO picture in the 665K set, one question a record over few clips. Together 300 media and 1,500
records.
"""

import string
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Final

from jobs.demo import faults, layouts
from jobs.demo.language import (
    NOISY_LABEL,
    SHORT_ANSWER,
    WORDS,
    Question,
    ask_clip,
    ask_picture,
    caption_picture,
    chat,
    clip_kinds,
    describe_clip,
    describe_picture,
    name_region,
    picture_kinds,
    request_caption,
)
from jobs.demo.layouts import LlavaRecord, LlavaTurn, OnevisionRecord, ParquetImage, VideoRecord, talk
from jobs.demo.media import VIDEO_SUFFIXES, encode_clip, encode_picture, write_file
from jobs.demo.scenes import Picture, invent_clip, invent_picture, seed_random

_SIZES_PX: Final = ((320, 240), (240, 320), (288, 288), (360, 240))
_NUM_CAPTIONS: Final = 90
_NUM_CHATS: Final = 60
_NUM_CLIPS: Final = 36
_NUM_ONEVISION: Final = 24
_RECORDS_PER_CLIP: Final = 5
_RECORDS_PER_ONEVISION: Final = 5


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of mix665k: how many pictures, how many records over each, and what its files are called."""

    path: str
    num_pictures: int
    records_per_picture: int
    first_number: int
    step: int
    digits: int


MIX_FOLDERS: Final = (
    Folder("coco/train2017", 70, 10, 33000, 7, 12),
    Folder("gqa/images", 24, 5, 2350000, 37, 0),
    Folder("ocr_vqa/images", 16, 4, 1451670000, 613, 0),
    Folder("textvqa/train_images", 16, 4, 7001, 11, 0),
    Folder("vg/VG_100K", 12, 3, 2350000, 41, 0),
    Folder("vg/VG_100K_2", 12, 3, 2410000, 43, 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedSet:
    """One annotation set on disk."""

    name: str
    format: str
    """As a recipe names it: llava, video_chatgpt or onevision."""
    annotations: tuple[Path, ...]
    media_root: Path | None
    num_records: int
    num_media: int
    """Good media with different contents."""
    faults: tuple[faults.PlantedFault, ...]


def render_captions(folder: Path, seed: int) -> RenderedSet:
    """`blip_laion_cc_sbu_558k.json`: one caption a picture, the placeholder before or after the request."""
    random = seed_random(seed, "captions")
    rows: list[LlavaRecord] = []
    for index in range(_NUM_CAPTIONS):
        picture = _invent_sized(random, index)
        name = f"{index % 7 + 10:05d}{index * 37 + 1000:04d}"
        image = f"{name[:5]}/{name}.jpg"
        write_file(folder / "images" / image, encode_picture(picture))
        request = _place(request_caption(random), is_last=random.random() < 0.5)
        rows.append(
            LlavaRecord(id=name, image=image, conversations=talk((request, caption_picture(picture, random))))
        )
    mixed, planted = faults.plant_rows("captions", rows, faults.break_captions(folder / "images", random))
    annotations = folder / "blip_laion_cc_sbu_558k.json"
    layouts.write_json(annotations, mixed)
    return RenderedSet(
        name="captions",
        format="llava",
        annotations=(annotations,),
        media_root=folder / "images",
        num_records=len(mixed),
        num_media=_NUM_CAPTIONS,
        faults=planted,
    )


def render_instructions(folder: Path, seed: int) -> RenderedSet:
    """`llava_v1_5_mix665k.json` over its six folders, with text-only records at the end.

    One picture lies under gqa/ and vg/ alike; an empty file that no record names lies about, as published.
    """
    random = seed_random(seed, "instructions")
    rows = [row for place in MIX_FOLDERS for row in _instruct_folder(folder, place, seed)]
    random.shuffle(rows)
    rows += [_chat_record(random) for _ in range(_NUM_CHATS)]
    write_file(folder / "vg/VG_100K_2/2499999.jpg", b"")
    mixed, planted = faults.plant_rows("instructions", rows, faults.break_instructions(folder, random))
    annotations = folder / "llava_v1_5_mix665k.json"
    layouts.write_json(annotations, mixed)
    return RenderedSet(
        name="instructions",
        format="llava",
        annotations=(annotations,),
        media_root=folder,
        num_records=len(mixed),
        num_media=sum(place.num_pictures for place in MIX_FOLDERS) - 1 + 2,
        faults=planted,
    )


def render_videos(folder: Path, seed: int) -> RenderedSet:
    """`VideoInstruct100K.json` over clips in three containers, some answers with the leaked label."""
    random = seed_random(seed, "videos")
    rows: list[VideoRecord] = []
    for index, suffix in enumerate(islice(cycle((".mp4", *VIDEO_SUFFIXES)), _NUM_CLIPS)):
        clip = invent_clip(random)
        video_id = _invent_video_id(random, index)
        write_file(folder / f"videos/{video_id}{suffix}", encode_clip(clip, suffix))
        questions = [ask_clip(clip, kind) for kind in clip_kinds()]
        pairs = [(f"{question.text} {SHORT_ANSWER}", question.answer) for question in questions]
        pairs += [("Describe the video.", describe_clip(clip))]
        for number, (asked, answer) in enumerate(pairs[:_RECORDS_PER_CLIP]):
            leak = f"\n{NOISY_LABEL}" if (index + number) % 9 == 0 else ""
            rows.append(VideoRecord(asked, answer + leak, video_id))
    random.shuffle(rows)
    mixed, planted = faults.plant_rows("videos", rows, faults.break_videos(folder / "videos"))
    annotations = folder / "VideoInstruct100K.json"
    layouts.write_json(annotations, mixed)
    return RenderedSet(
        name="videos",
        format="video_chatgpt",
        annotations=(annotations,),
        media_root=folder / "videos",
        num_records=len(mixed),
        num_media=_NUM_CLIPS,
        faults=planted,
    )


def render_onevision(folder: Path, seed: int) -> RenderedSet:
    """Two parquet subsets: pictures as JPEG or PNG bytes in the rows, and text alone."""
    random = seed_random(seed, "onevision")
    source = "figures(demo)"
    rows: list[OnevisionRecord] = []
    for index in range(_NUM_ONEVISION):
        picture = _invent_sized(random, index)
        image = ParquetImage(encode_picture(picture, "PNG" if index % 3 == 0 else "JPEG"))
        for number, turns in enumerate(_talk_about(picture, _RECORDS_PER_ONEVISION, random)):
            rows.append(
                OnevisionRecord(f"demo/images/figure_{index:05d}.v{number}.png", image, turns, source)
            )
    mixed, planted = faults.plant_rows("onevision", rows, faults.break_onevision(random, source))
    texts = [
        OnevisionRecord(f"demo/text.{index}", None, talk(*chat(random, 2)), "talk(demo)")
        for index in range(_NUM_ONEVISION)
    ]
    parts = (
        folder / source / "train-00000-of-00001.parquet",
        folder / "talk(demo)" / "train-00000-of-00001.parquet",
    )
    layouts.write_parquet(parts[0], [row for row in mixed if isinstance(row, OnevisionRecord)])
    layouts.write_parquet(parts[1], texts)
    return RenderedSet(
        name="onevision",
        format="onevision",
        annotations=parts,
        media_root=None,
        num_records=len(mixed) + len(texts),
        num_media=_NUM_ONEVISION,
        faults=planted,
    )


def _instruct_folder(folder: Path, place: Folder, seed: int) -> list[LlavaRecord]:
    """All records over one folder of pictures; equal numbers give equal pictures."""
    rows: list[LlavaRecord] = []
    for index in range(place.num_pictures):
        number = place.first_number + index * place.step
        random = seed_random(seed, "instructions", number)
        name = f"{number:0{place.digits}d}"
        picture = _invent_sized(random, index, has_word=place.path.startswith(("ocr_vqa", "textvqa")))
        image = f"{place.path}/{name}.jpg"
        write_file(folder / image, encode_picture(picture))
        record_id = number if place.path.startswith("vg/") else name
        conversations = _talk_about(picture, place.records_per_picture, random)
        if place.path.startswith("vg/"):
            conversations[-1] = _talk_about_region(picture)
        rows += [LlavaRecord(id=record_id, image=image, conversations=turns) for turns in conversations]
    return rows


def _talk_about(picture: Picture, num_conversations: int, random: Random) -> list[list[LlavaTurn]]:
    """Conversations over one picture: a description if there is room, single questions, questions in a row.

    Questions in a row are shuffled: each kind comes first in some, as it does where it is asked alone.
    """
    questions = [ask_picture(picture, kind, random) for kind in picture_kinds(picture)]
    conversations: list[list[LlavaTurn]] = []
    if num_conversations > 4:
        request = _place("Describe the picture in detail.", is_last=random.random() < 0.5)
        conversations.append(talk((request, describe_picture(picture))))
    conversations += [talk(_ask_short(question)) for question in questions[: num_conversations // 4]]
    while len(conversations) < num_conversations:
        first, *later = random.sample(questions, 4)
        conversations.append(talk(_ask_short(first), *((one.text, one.answer) for one in later)))
    return conversations


def _talk_about_region(picture: Picture) -> list[LlavaTurn]:
    box, phrase = name_region(picture)
    return talk((_place(f"Name what is in the region {box}.", is_last=False), phrase))


def _ask_short(question: Question) -> tuple[str, str]:
    return _place(f"{question.text}\n{SHORT_ANSWER}", is_last=False), question.answer


def _place(text: str, *, is_last: bool) -> str:
    return f"{text}\n<image>" if is_last else f"<image>\n{text}"


def _chat_record(random: Random) -> LlavaRecord:
    letters = "".join(random.choices(string.ascii_letters + string.digits, k=7))
    name = (
        f"{letters}_{random.randint(0, 9)}" if random.random() < 0.8 else str(random.randint(100000, 999999))
    )
    return LlavaRecord(id=name, model="", conversations=talk(*chat(random, random.randint(1, 4))))


def _invent_sized(random: Random, index: int, *, has_word: bool = False) -> Picture:
    width_px, height_px = _SIZES_PX[index % len(_SIZES_PX)]
    return invent_picture(random, width_px, height_px, random.choice(WORDS) if has_word else None)


def _invent_video_id(random: Random, index: int) -> str:
    """13 characters; the first two begin like command-line options, as some published ones do."""
    head = ("-", "_")[index] if index < 2 else random.choice(string.ascii_letters)
    return f"v_{head}{''.join(random.choices(string.ascii_letters + string.digits + '_-', k=10))}"
