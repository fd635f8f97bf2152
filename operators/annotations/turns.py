"""Who says what: the turns of a row, their roles in alternation, human first.

Sound rows, nearly all of millions, take a lean way: one pass over the turns, one comparison of the roles.
What it cannot vouch for is read turn by turn, and the first turn that is wrong names the code.
"""

from dataclasses import dataclass
from typing import Any, Final, cast

from operators.annotations.fields import check_list, read_field, read_object
from schemas.errors import RejectCode, SampleError

Said = tuple[Any, ...]
"""What is said in turn, human first; text, if the row is sound."""

_LEAN_TURNS: Final = 256
SYSTEM_ADVICE: Final = (
    "; training writes the chat template's own system prompt: drop it, or put its text into the "
    "first question"
)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a layout writes a conversation."""

    turns: str
    """The field of a row that holds the turns."""
    role: str
    text: str
    """The fields of a turn."""
    questioners: tuple[str, ...]
    """Names of who asks; the first is the usual one."""
    answerers: tuple[str, ...]
    usual_roles: list[str]
    """The roles of a long conversation."""


def spell(
    turns: str, role: str, text: str, questioners: tuple[str, ...], answerers: tuple[str, ...]
) -> Spelling:
    """A way to write conversations."""
    usual_roles = [questioners[0], answerers[0]] * (_LEAN_TURNS // 2)
    return Spelling(turns, role, text, questioners, answerers, usual_roles)


LLAVA_SPELLING: Final = spell("conversations", "from", "value", ("human",), ("gpt",))


def read_turns(fields: dict[str, object], spelling: Spelling) -> Said:
    """What is said in each turn.

    Raises:
        SampleError: MISSING_FIELD, BAD_TYPE, EMPTY_CONVERSATION, NOT_AN_OBJECT or BAD_ROLE.
    """
    value = fields.get(spelling.turns)
    if value and type(value) is list:
        try:
            said = _read_usual(cast("list[Any]", value), spelling)
        except (TypeError, KeyError):
            said = None
        if said:
            return said
    return read_turns_one_by_one(fields, spelling)


def read_turns_one_by_one(fields: dict[str, object], spelling: Spelling) -> Said:
    """`read_turns`, slowly: each turn by itself, with the code of the first fault.

    Raises:
        SampleError: as `read_turns`.
    """
    field = spelling.turns
    turns = check_list(read_field(fields, field), f"{field!r}")
    if not turns:
        raise SampleError(RejectCode.EMPTY_CONVERSATION, f"{field!r} has no turn")
    return tuple(_read_turn(turn, index, spelling) for index, turn in enumerate(turns))


def _read_usual(turns: list[Any], spelling: Spelling) -> Said | None:
    """What is said in turns with the usual names; half of all published conversations have two turns."""
    role, text, roles = spelling.role, spelling.text, spelling.usual_roles
    if len(turns) == 2:
        asked, answered = turns
        if asked[role] == roles[0] and answered[role] == roles[1]:
            return asked[text], answered[text]
        return None
    if [turn[role] for turn in turns] == roles[: len(turns)]:
        return tuple([turn[text] for turn in turns])
    return None


def _read_turn(value: object, index: int, spelling: Spelling) -> object:
    where = f"turn {index}"
    turn = read_object(value, where)
    role = read_field(turn, spelling.role, f"{where}: ")
    expected = spelling.answerers if index % 2 else spelling.questioners
    if role not in expected:
        advice = SYSTEM_ADVICE if role == "system" else ""
        raise SampleError(RejectCode.BAD_ROLE, f"{where} is from {role!r:.40}, not {expected[0]!r}{advice}")
    return read_field(turn, spelling.text, f"{where}: ")
