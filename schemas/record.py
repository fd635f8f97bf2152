"""Records as published, and the conversations made of them.

A `Record` is one annotation row after parsing: what is said, and the paths of its media, still unresolved. A
conversation is the same text as it is stored, in canonical JSON; training reads it back as `Turn`s.
Named tuples and not frozen dataclasses or pydantic models: three million records pass through ingest, and a
named tuple is made in a third of the time. Files and rows are no part of a record: who reads knows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import cycle
from typing import Final, Literal, NamedTuple

import msgspec

from schemas.errors import RejectCode, SampleError

IMAGE_PLACEHOLDER: Final = "<image>"
VIDEO_PLACEHOLDER: Final = "<video>"

_SPEAKERS: Final = ("human", "gpt")
_ENCODER: Final = msgspec.json.Encoder()


class MediumKind(StrEnum):
    """What a medium is."""

    IMAGE = "image"
    VIDEO = "video"

    __hash__ = str.__hash__
    """That of enums is written in Python, and every reference to a medium is looked up by it."""

    @property
    def placeholder(self) -> str:
        """The word in a conversation that stands for a medium of this kind."""
        return IMAGE_PLACEHOLDER if self is MediumKind.IMAGE else VIDEO_PLACEHOLDER


class Modality(StrEnum):
    """The class of an item: one prefix tree of shards each, never mixed in a micro-batch."""

    IMAGE = "image"
    MULTI = "multi"
    VIDEO = "video"
    TEXT = "text"


class Repair(StrEnum):
    """A mend that leaves no room for doubt; counted, so that a changed data set shows."""

    PLACEHOLDER_ADDED = "placeholder_added"
    LEAKED_LABEL_REMOVED = "leaked_label_removed"
    VIDEO_PLACEHOLDER_RENAMED = "video_placeholder_renamed"
    PLACEHOLDER_ESCAPED = "placeholder_escaped"
    FOUND_BY_STEM = "found_by_stem"


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance; placeholders of media stand in the text."""

    role: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Locator:
    """Where a record stands: the annotation file, and the row, counted from 0.

    The file is named from the folder that all annotation files of the source share, wherever that lies.
    """

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


class MediumReference(NamedTuple):
    """A medium as a record names it: a path below the media root, or a path that lacks its extension."""

    kind: MediumKind
    path: str | None = None
    """None: the bytes stand in the row itself."""
    by_stem: bool = False


class Record(NamedTuple):
    """One annotation row, parsed and checked; its media are named but not yet looked at."""

    record_id: str
    """As published: it repeats and mixes types, so it is never a key."""
    texts: tuple[str, ...]
    """What human and gpt say in turn, human first; as many questions as answers, none blank."""
    media: tuple[MediumReference, ...]
    """In the order of their placeholders in the texts, one placeholder each."""
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is not used: kept with the reason and the row as it was read."""

    source: str
    locator: Locator
    code: str
    message: str
    raw: bytes


def encode_conversation(texts: Sequence[str]) -> bytes:
    """What is said, by whom, in order: `[["human","..."],["gpt","..."],...]` in canonical JSON.

    Raises:
        SampleError: BAD_TYPE for text that UTF-8 cannot hold.
    """
    try:
        return _ENCODER.encode(list(zip(cycle(_SPEAKERS), texts)))
    except UnicodeEncodeError as error:
        raise SampleError(RejectCode.BAD_TYPE, "a text holds half a surrogate pair") from error


def count_chars(texts: tuple[str, ...]) -> int:
    """Characters of a conversation, all turns together."""
    return len("".join(texts))


def begin_example_id(source: str, item_key: str, occurrence: int = 0) -> bytes:
    """What an example's id is a digest of, up to its conversation: made once for all examples of an item.

    Args:
        source: name of the source in the recipe.
        item_key: key of the item that the conversation is about.
        occurrence: 0 for the first identical record of the source, 1 for the second, ...
    """
    return f"example/2 {source} {item_key} {occurrence}\n".encode()


def end_example_id(beginning: bytes, conversation: bytes) -> bytes:
    """The 16 bytes of an example's id, written as 32 hex digits: a stable name over source, item and text.

    They begin the sha256 of a line `example/2 SOURCE ITEM OCCURRENCE` and the encoded conversation below it.
    """
    digest = sha256(beginning)
    digest.update(conversation)
    return digest.digest()[:16]
