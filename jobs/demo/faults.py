"""The faults that the published sets are known for, planted where they are told of and expected by name.

Each fault is one annotation row, with the broken file it names where it names one. `None` as outcome means
that the row is good and has to be used: a GIF that is called .jpg is found out by its first bytes. The
shares stay below the default reject budget of 5 % in every source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random

from jobs.demo.language import QuestionKind, ask_picture, caption_picture, request_caption
from jobs.demo.layouts import LlavaRecord, OnevisionRecord, ParquetImage, Published, VideoRecord, talk
from jobs.demo.media import encode_picture, write_file
from jobs.demo.scenes import invent_picture
from schemas.errors import RejectCode
from schemas.record import Repair


class Fault(StrEnum):
    """What was done to a row or its file."""

    MISSING_FILE = "missing file"
    TRUNCATED_JPEG = "truncated JPEG"
    GIF_NAMED_JPG = "GIF named .jpg"
    PARENT_PATH = "path with .."
    ABSOLUTE_PATH = "absolute path"
    EMPTY_ANSWER = "empty answer"
    NO_PLACEHOLDER = "image without placeholder"
    NO_MEDIUM = "placeholder without image"
    ZERO_BYTES = "zero-byte video"
    NOT_AN_OBJECT = "record that is not an object"


Outcome = RejectCode | Repair | None


@dataclass(frozen=True, slots=True)
class FaultyRow:
    """A row to be planted."""

    fault: Fault
    outcome: Outcome
    row: Published | str


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """A fault where it stands: the annotation file and the row, counted from 0."""

    source: str
    row: int
    fault: Fault
    outcome: Outcome


def plant_rows(
    source: str, rows: Sequence[Published], faulty: Sequence[FaultyRow]
) -> tuple[list[Published | str], tuple[PlantedFault, ...]]:
    """All rows in order, the faulty ones spread evenly among them, and where those came to stand."""
    planted: list[PlantedFault] = []
    mixed: list[Published | str] = list(rows)
    for index, fault in enumerate(faulty):
        place = (index + 1) * len(rows) // (len(faulty) + 1) + index
        mixed.insert(place, fault.row)
        planted.append(PlantedFault(source, place, fault.fault, fault.outcome))
    return mixed, tuple(planted)


def break_captions(images: Path, random: Random) -> list[FaultyRow]:
    """Faults of the 558K layout."""
    picture = invent_picture(random)
    caption = caption_picture(picture, random)
    write_file(images / "00099/000990001.jpg", _cut(encode_picture(picture)))

    def row(name: str, question: str) -> LlavaRecord:
        return LlavaRecord(id=name, image=f"{name[:5]}/{name}.jpg", conversations=talk((question, caption)))

    request = request_caption(random)
    return [
        FaultyRow(Fault.MISSING_FILE, RejectCode.MISSING_FILE, row("000990000", f"{request}\n<image>")),
        FaultyRow(Fault.TRUNCATED_JPEG, RejectCode.TRUNCATED_IMAGE, row("000990001", f"<image>\n{request}")),
    ]


def break_instructions(folder: Path, random: Random) -> list[FaultyRow]:
    """Faults of the mix665k layout."""
    picture = invent_picture(random)
    question = ask_picture(picture, QuestionKind.FIGURE, random)
    asked, answer = question.text, question.answer
    outside = "../outside.jpg"
    write_file(folder / "coco/train2017/000000990001.jpg", _cut(encode_picture(picture)))
    write_file(folder / "ocr_vqa/images/990002.jpg", encode_picture(picture, "GIF"))
    write_file(folder / "gqa/images/990003.jpg", encode_picture(picture))
    write_file(folder / outside, encode_picture(picture))

    def row(
        name: str | int, image: str, question: str = f"<image>\n{asked}", answer: str = answer
    ) -> LlavaRecord:
        return LlavaRecord(id=name, image=image, conversations=talk((question, answer)))

    def reject(fault: Fault, code: RejectCode, record: LlavaRecord | str) -> FaultyRow:
        return FaultyRow(fault, code, record)

    no_medium = LlavaRecord(id="990004", model="", conversations=talk((f"<image>\n{asked}", answer)))
    return [
        reject(Fault.MISSING_FILE, RejectCode.MISSING_FILE, row("990000", "ocr_vqa/images/990000.jpg")),
        reject(
            Fault.TRUNCATED_JPEG,
            RejectCode.TRUNCATED_IMAGE,
            row("000000990001", "coco/train2017/000000990001.jpg"),
        ),
        FaultyRow(Fault.GIF_NAMED_JPG, None, row(990002, "ocr_vqa/images/990002.jpg")),
        reject(Fault.PARENT_PATH, RejectCode.UNSAFE_PATH, row("990005", outside)),
        reject(Fault.ABSOLUTE_PATH, RejectCode.UNSAFE_PATH, row("990006", "/outside/990006.jpg")),
        reject(
            Fault.EMPTY_ANSWER, RejectCode.EMPTY_ANSWER, row("990007", "gqa/images/990003.jpg", answer="")
        ),
        FaultyRow(
            Fault.NO_PLACEHOLDER,
            Repair.PLACEHOLDER_ADDED,
            row("990003", "gqa/images/990003.jpg", question=asked),
        ),
        reject(Fault.NO_MEDIUM, RejectCode.PLACEHOLDER_WITHOUT_MEDIUM, no_medium),
        reject(Fault.NOT_AN_OBJECT, RejectCode.NOT_AN_OBJECT, "000000990008"),
    ]


def break_videos(videos: Path) -> list[FaultyRow]:
    """Faults of the VideoInstruct100K layout."""
    asked, answer = "What color is the ball?", "Red"
    write_file(videos / "v_zero0bytes0.mp4", b"")
    return [
        FaultyRow(Fault.ZERO_BYTES, RejectCode.EMPTY_FILE, VideoRecord(asked, answer, "v_zero0bytes0")),
        FaultyRow(Fault.MISSING_FILE, RejectCode.MISSING_FILE, VideoRecord(asked, answer, "v_not0there00")),
        FaultyRow(Fault.NOT_AN_OBJECT, RejectCode.NOT_AN_OBJECT, "v_not0there00"),
    ]


def break_onevision(random: Random, data_source: str) -> list[FaultyRow]:
    """Faults of the OneVision layout; parquet holds rows of one shape, so what remains is in the values."""
    picture = invent_picture(random)
    question = ask_picture(picture, QuestionKind.SHAPE, random)
    encoded = encode_picture(picture)

    def row(name: str, data: bytes, answer: str) -> OnevisionRecord:
        turns = talk((f"<image>\n{question.text}", answer))
        return OnevisionRecord(f"demo/images/{name}.jpg", ParquetImage(data), turns, data_source)

    return [
        FaultyRow(
            Fault.TRUNCATED_JPEG, RejectCode.TRUNCATED_IMAGE, row("990000", _cut(encoded), question.answer)
        ),
        FaultyRow(Fault.EMPTY_ANSWER, RejectCode.EMPTY_ANSWER, row("990001", encoded, "")),
    ]


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]
