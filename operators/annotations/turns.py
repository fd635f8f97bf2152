"""Who says what: the turns of a row, their roles in alternation, human first.

Sound rows, nearly all of millions, take a lean way: one pass over the turns, one comparison of the roles.
What it cannot vouch for is read turn by turn, and the first turn that is wrong names the code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, cast

from operators.annotations.fields import check_list, read_field, read_object
from schemas.errors import RejectCode, SampleError

_LEAN_TURNS: Final = 256
_SYSTEM_ADVICE: Final = (
    "; training writes the chat template's own system prompt: drop the message, or put its text into the "
    "first question"
)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a layout writes turns."""

    role_field: str
    text_field: str
    questioners: tuple[str, ...]
    """Names of who asks; the first is the usual one."""
    answerers: tuple[str, ...]
    read_both: Callable[[object], tuple[object, object]]
    usual_roles: tuple[object, ...]


def spell(
    role_field: str, text_field: str, questioners: tuple[str, ...], answerers: tuple[str, ...]
) -> Spelling:
    """A way to write turns."""
    read_both = cast("Callable[[object], tuple[object, object]]", itemgetter(role_field, text_field))
    usual_roles = (questioners[0], answerers[0]) * (_LEAN_TURNS // 2)
    return Spelling(role_field, text_field, questioners, answerers, read_both, usual_roles)


LLAVA_SPELLING: Final = spell("from", "value", ("human",), ("gpt",))


def read_turns(value: object, field: str, spelling: Spelling) -> tuple[object, ...]:
    """What is said in each turn; whether it is text is not looked at.

    Raises:
        SampleError: BAD_TYPE, EMPTY_CONVERSATION, NOT_AN_OBJECT, MISSING_FIELD or BAD_ROLE.
    """
    if isinstance(value, list):
        try:
            roles, said = zip(*map(spelling.read_both, cast("list[Any]", value)), strict=True)
        except (TypeError, KeyError, ValueError):
            pass
        else:
            if roles == spelling.usual_roles[: len(roles)]:
                return said
    return read_turns_one_by_one(cast(object, value), field, spelling)


def read_turns_one_by_one(value: object, field: str, spelling: Spelling) -> tuple[object, ...]:
    """`read_turns`, slowly: each turn by itself, with the code of the first fault.

    Raises:
        SampleError: as `read_turns`.
    """
    turns = check_list(value, f"{field!r}")
    if not turns:
        raise SampleError(RejectCode.EMPTY_CONVERSATION, f"{field!r} has no turn")
    return tuple(_read_turn(turn, index, spelling) for index, turn in enumerate(turns))


def _read_turn(value: object, index: int, spelling: Spelling) -> object:
    where = f"turn {index}"
    turn = read_object(value, where)
    role = read_field(turn, spelling.role_field, f"{where}: ")
    expected = spelling.answerers if index % 2 else spelling.questioners
    if role not in expected:
        advice = _SYSTEM_ADVICE if role == "system" else ""
        raise SampleError(RejectCode.BAD_ROLE, f"{where} is from {role!r:.40}, not {expected[0]!r}{advice}")
    return read_field(turn, spelling.text_field, f"{where}: ")
