"""A stored conversation as turns."""

import json
from typing import Any, cast

from pipelines.stream.columns import ExampleText
from schemas.errors import CorruptError
from schemas.record import Turn


def parse_turns(text: ExampleText) -> tuple[Turn, ...]:
    """The turns of a conversation.

    Raises:
        CorruptError: when it is not a list of (role, text).
    """
    try:
        value: Any = json.loads(text.conversation)
    except ValueError as error:
        raise CorruptError(f"the conversation of example {text.example_id} is no JSON: {error}") from error
    if not isinstance(value, list):
        raise CorruptError(f"the conversation of example {text.example_id} is no list of turns")
    return tuple(_parse_turn(turn, text) for turn in cast(list[Any], value))


def _parse_turn(turn: object, text: ExampleText) -> Turn:
    match turn:
        case ["human", str(said)]:
            return Turn("human", said)
        case ["gpt", str(said)]:
            return Turn("gpt", said)
        case _:
            raise CorruptError(f"example {text.example_id} has a turn {turn!r:.80} that nobody says")
