"""Rows that are as their layout is published, many at once: columns of fields to what is said about what.

This is the short way of `parse`, for what nearly all rows are: an id, one picture or clip or none, and turns
whose texts need no mend. A row is either read here as `parse` would read it, or left to it, and so is every
row that has to be refused.

Rows are looked at together: a few passes over the texts of a hundred rows tell that all are sound. Where they
are not, each half is looked at by itself, down to single rows: a bad row among a hundred doubles the cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any, Final

from operators.annotations.conversation import LEAKED_LABEL
from operators.annotations.turns import Spelling
from schemas.record import VIDEO_PLACEHOLDER, MediumKind

Columns = Mapping[str, Sequence[Any]]
"""By the name of a field: what each row has there, None where it has nothing."""
Turns = list[tuple[str, str]]
"""Role and text of each turn: what a row of columns has in the field of its turns."""


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
    turns: list[Turns] = field(default_factory=list[Turns])
    """Human and gpt in turn."""
    num_chars: list[int] = field(default_factory=list[int])

    def take(self, places: Sequence[int]) -> "UsualRecords":
        """Some of them."""
        return UsualRecords(
            kind=self.kind,
            rows=[self.rows[place] for place in places],
            record_ids=[self.record_ids[place] for place in places],
            paths=[self.paths[place] for place in places],
            turns=[self.turns[place] for place in places],
            num_chars=[self.num_chars[place] for place in places],
        )


_MEDIA_FIELDS: Final = {"image": MediumKind.IMAGE, "video": MediumKind.VIDEO}
_OTHER_MEDIA_FIELDS: Final = frozenset({"images", "videos"})
_MANY: Final = 1 << 63
_ROLES: Final = ("human", "gpt")
_TEXT: Final = itemgetter(1)
"""Of a turn."""


def read_usual_rows(columns: Columns, spelling: Spelling) -> UsualRecords:
    """The records of rows that need no second look; of all others nothing is said."""
    media_fields = [name for name in _MEDIA_FIELDS if name in columns]
    if len(media_fields) > 1 or not _OTHER_MEDIA_FIELDS.isdisjoint(columns):
        return UsualRecords()
    turns = columns[spelling.turns]
    kind = _MEDIA_FIELDS[media_fields[0]] if media_fields else MediumKind.IMAGE
    nothing = [None] * len(turns)
    record_ids = _read_ids(columns.get("id", nothing))
    paths = _read_paths(columns[media_fields[0]] if media_fields else nothing)
    cells = enumerate(zip(record_ids, paths, turns, strict=True))
    usual = [row for row, (one, path, said) in cells if one is not None and path is not None and said]
    said: list[Turns] = [turns[row] for row in usual]
    sound = _find_sound(range(len(usual)), said, [bool(paths[row]) for row in usual], kind.placeholder)
    said = [said[place] for place in sound]
    rows = [usual[place] for place in sound]
    ends = list(accumulate(map(len, map(_TEXT, chain.from_iterable(said))), initial=0))
    bounds = [ends[place] for place in accumulate(map(len, said), initial=0)]
    return UsualRecords(
        kind=kind,
        rows=rows,
        record_ids=[record_ids[row] or "" for row in rows],
        paths=[paths[row] or "" for row in rows],
        turns=said,
        num_chars=[end - start for start, end in pairwise(bounds)],
    )


def _find_sound(places: range, said: Sequence[Turns], has_medium: Sequence[bool], word: str) -> list[int]:
    """Places of the conversations that are sound."""
    start, stop = places.start, places.stop
    if not places or _are_sound(said[start:stop], has_medium[start:stop], word):
        return list(places)
    if len(places) == 1:
        return []
    half = (start + stop) // 2
    first = _find_sound(range(start, half), said, has_medium, word)
    return first + _find_sound(range(half, stop), said, has_medium, word)


def _are_sound(said: Sequence[Turns], has_medium: Sequence[bool], word: str) -> bool:
    """Whether conversations are all sound, each about no medium or about the one of its first question."""
    roles, texts = zip(*chain.from_iterable(said), strict=True)
    if any(length % 2 for length in set(map(len, said))) or roles != _ROLES * (len(roles) // 2):
        return False
    joined = "\n".join(texts)
    num_words = sum(has_medium)
    if not all(map(str.strip, texts)) or joined.count("<") != num_words:
        return False
    if word is VIDEO_PLACEHOLDER and num_words and LEAKED_LABEL in joined:
        return False
    # with no more of `<` than media, a word in each first question is the only one of its conversation
    return all([word in turns[0][1] for turns, has in zip(said, has_medium, strict=True) if has])


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
