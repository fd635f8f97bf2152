"""Records as published, and the conversations made of them.

A `Record` is one annotation row after parsing: who says what, and the paths of its media, still unresolved.
A `Conversation` is the same text once its media are known by content; it is what training sees.
Plain frozen dataclasses and not pydantic models: three million of them pass through ingest.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from schemas.digest import digest_of

IMAGE_PLACEHOLDER: Final = "<image>"
VIDEO_PLACEHOLDER: Final = "<video>"


class MediumKind(StrEnum):
    """What a medium is."""

    IMAGE = "image"
    VIDEO = "video"

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


@dataclass(frozen=True, slots=True)
class MediumReference:
    """A medium as a record names it: a path below the media root, a bare stem, or the bytes themselves."""

    kind: MediumKind
    path: str | None = None
    data: bytes | None = None
    by_stem: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One annotation row, parsed and checked; its media are named but not yet looked at."""

    source: str
    locator: Locator
    record_id: str
    turns: tuple[Turn, ...]
    media: tuple[MediumReference, ...]
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is not used: kept with the reason and the row as it was read."""

    source: str
    locator: Locator
    code: str
    message: str
    raw: bytes


def conversation_digest(turns: tuple[Turn, ...]) -> str:
    """The digest of what is said, by whom, in order."""
    return digest_of([[turn.role, turn.text] for turn in turns])


def example_id_of(source: str, item_key: str, turns: tuple[Turn, ...], occurrence: int) -> str:
    """A stable name for an example: 32 hex digits over its source, item and text.

    Args:
        source: name of the source in the recipe.
        item_key: key of the item that the conversation is about.
        turns: the conversation.
        occurrence: 0 for the first identical record of the source, 1 for the second, ...
    """
    return digest_of(["example/1", source, item_key, conversation_digest(turns), occurrence])[:32]
