"""Rows that are as their layout is published, many at once: columns of fields to what is said about what.

This is the short way of `parse`, for what nearly all rows are: an id, one picture or clip or none, and turns
whose texts need no mend. A row is either read here as `parse` would read it, or left to it, and so is every row
that has to be refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from operators.annotations.conversation import LEAKED_LABEL
from operators.annotations.turns import Spelling
from schemas.record import VIDEO_PLACEHOLDER, MediumKind

Columns = Mapping[str, Sequence[Any]]
"""By the name of a field: what each row has there, None where it has nothing; a turn has `role` and `text`."""


@dataclass(slots=True)
class UsualRecords:
    """What the rows of a chunk are about that could be read here, row by row."""

    kind: MediumKind = MediumKind.IMAGE
    """Of all media; each is a path with its extension."""
    rows: list[int] = field(default_factory=list[int])
    """Which ones, ascending."""
    record_ids: list[str] = field(default_factory=list[str])
    paths: list[str] = field(default_factory=list[str])
    """Of the medium; empty for a conversation without one."""
    texts: list[list[str]] = field(default_factory=list[list[str]])
    num_chars: list[int] = field(default_factory=list[int])

    def take(self, places: Sequence[int]) -> "UsualRecords":
        """Some of them."""
        columns = (self.rows, self.record_ids, self.paths, self.texts, self.num_chars)
        return UsualRecords(self.kind, *([column[place] for place in places] for column in columns))


_MEDIA_FIELDS: Final = {"image": MediumKind.IMAGE, "video": MediumKind.VIDEO}
_OTHER_MEDIA_FIELDS: Final = frozenset({"images", "videos"})
_MANY: Final = 1 << 63


def read_usual_rows(columns: Columns, spelling: Spelling) -> UsualRecords:
    """The records of rows that need no second look; of all others nothing is said."""
    media_fields = [name for name in _MEDIA_FIELDS if name in columns]
    if len(media_fields) > 1 or not _OTHER_MEDIA_FIELDS.isdisjoint(columns):
        return UsualRecords()
    turns = columns[spelling.turns]
    found = UsualRecords(_MEDIA_FIELDS[media_fields[0]] if media_fields else MediumKind.IMAGE)
    nothing = [None] * len(turns)
    record_ids = _read_ids(columns.get("id", nothing))
    paths = _read_paths(columns[media_fields[0]] if media_fields else nothing)
    word, usual_roles = found.kind.placeholder, spelling.usual_roles
    for row, (record_id, path, said) in enumerate(zip(record_ids, paths, turns, strict=True)):
        if record_id is None or path is None or not said:
            continue
        texts = [turn.text for turn in said]
        if [turn.role for turn in said] != usual_roles[: len(texts)]:
            continue
        num_chars = _count_sound_chars(texts, word if path else "")
        if num_chars:
            found.rows.append(row)
            found.record_ids.append(record_id)
            found.paths.append(path)
            found.texts.append(texts)
            found.num_chars.append(num_chars)
    return found


def _count_sound_chars(texts: list[str], word: str) -> int:
    """Characters of a conversation that is sound about one medium or, without a word, about none; else 0."""
    joined = "\n".join(texts)
    if len(texts) % 2 or not all(map(str.strip, texts)):
        return 0
    begin = joined.find("<")
    if not word:
        is_sound = begin < 0
    else:
        is_sound = begin == joined.rfind("<") and joined.startswith(word, begin) and begin < len(texts[0])
        if word is VIDEO_PLACEHOLDER and LEAKED_LABEL in joined:
            return 0
    return len(joined) - len(texts) + 1 if is_sound else 0


def _read_ids(column: Sequence[Any]) -> list[str | None]:
    """Ids as text; None where `read_record_id` has to decide."""
    return [cell if type(cell) is str and cell.isascii() else _read_number(cell) for cell in column]


def _read_number(cell: object) -> str | None:
    if type(cell) is int and abs(cell) < _MANY:
        return str(cell)
    return "" if cell is None else None


def _read_paths(column: Sequence[Any]) -> list[str | None]:
    """Paths; empty where there is none, None where `name_media` has to decide."""
    return [
        cell if type(cell) is str and cell and cell.isascii() else "" if cell is None else None
        for cell in column
    ]
