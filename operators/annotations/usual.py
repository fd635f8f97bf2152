"""Rows as their layout is published, many at once: columns of fields to what is said about what.

This is the short way of `parse`, for what nearly all rows are: an id, one picture or clip or none, and turns
whose texts need no mend. A row is either read here as `parse` would read it, or left to it, and so is every
row that has to be refused.

Fields of one value are read column by column. What is said is looked at and encoded row by row: the texts of
a hundred rows, passed over again and again, would be fetched each time from beyond the core's own cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec

from operators.annotations.conversation import LEAKED_LABEL
from operators.annotations.turns import Spelling
from schemas.record import VIDEO_PLACEHOLDER, MediumKind

Columns = Mapping[str, Sequence[Any]]
"""By the name of a field: what each row has there, None where it has nothing.

In the field of its turns that is a list of structs, of a role and a text each.
"""


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
    conversations: list[bytes] = field(default_factory=list[bytes])
    """As `encode_conversation` has them."""
    num_chars: list[int] = field(default_factory=list[int])

    def take(self, places: Sequence[int]) -> "UsualRecords":
        """Some of them."""
        return UsualRecords(
            kind=self.kind,
            rows=[self.rows[place] for place in places],
            record_ids=[self.record_ids[place] for place in places],
            paths=[self.paths[place] for place in places],
            conversations=[self.conversations[place] for place in places],
            num_chars=[self.num_chars[place] for place in places],
        )


_MEDIA_FIELDS: Final = {"image": MediumKind.IMAGE, "video": MediumKind.VIDEO}
_KINDS: Final = tuple(_MEDIA_FIELDS.values())
_OTHER_MEDIA_FIELDS: Final = frozenset({"images", "videos"})
_MANY: Final = 1 << 63
_ROLES: Final = ("human", "gpt") * 512
"""Of longer conversations nothing is said here."""
_AS_PAIR: Final = msgspec.structs.astuple
_ENCODE: Final = msgspec.json.Encoder().encode


def read_usual_rows(columns: Columns, spelling: Spelling) -> UsualRecords:
    """The records of rows that need no second look; of all others nothing is said."""
    media_fields = [name for name in _MEDIA_FIELDS if name in columns]
    if len(media_fields) > 1 or not _OTHER_MEDIA_FIELDS.isdisjoint(columns):
        return UsualRecords()
    turns = columns[spelling.turns]
    nothing = [None] * len(turns)
    record_ids = _read_ids(columns.get("id", nothing))
    paths = _read_paths(columns[media_fields[0]] if media_fields else nothing)
    records = UsualRecords(_MEDIA_FIELDS[media_fields[0]] if media_fields else MediumKind.IMAGE)
    word = records.kind.placeholder
    for row, (record_id, path, said) in enumerate(zip(record_ids, paths, turns, strict=True)):
        if record_id is None or path is None or not said:
            continue
        pairs = list(map(_AS_PAIR, said))
        roles, texts = zip(*pairs, strict=True)
        joined = "".join(texts)
        if _are_usual(roles, texts) and _is_about(joined, texts[0], word if path else ""):
            records.rows.append(row)
            records.record_ids.append(record_id)
            records.paths.append(path)
            records.conversations.append(_ENCODE(pairs))
            records.num_chars.append(len(joined))
    return records


def name_usual_media(rows: Sequence[tuple[object, ...]]) -> tuple[MediumKind, list[str]] | None:
    """The paths that rows name, many at once: one each or none, all in one field, and spelled plainly.

    Args:
        rows: what each has in the four fields of `name_media`.

    Returns:
        None where `name_media` has to be asked row by row.
    """
    columns = list(zip(*rows, strict=True))
    used = [place for place, column in enumerate(columns) if column.count(None) < len(column)]
    if len(used) != 1 or used[0] >= len(_MEDIA_FIELDS):
        return None
    cells = [cell for cell in columns[used[0]] if cell]
    if not all(type(cell) is str for cell in cells):
        return None
    paths = cast("list[str]", cells)
    return (_KINDS[used[0]], paths) if "".join(paths).isascii() else None


def _are_usual(roles: tuple[str, ...], texts: tuple[str, ...]) -> bool:
    """Whether human and gpt say something in turn, gpt last."""
    return roles == _ROLES[: len(roles) & ~1] and all(map(str.strip, texts))


def _is_about(joined: str, question: str, word: str) -> bool:
    """Whether the word for a medium stands once, in the first question; without a word, whether none does."""
    if joined.count("<") != bool(word) or word not in question:
        return False
    return word is not VIDEO_PLACEHOLDER or LEAKED_LABEL not in joined


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
