"""The ShareGPT layout of LLaMA-Factory: turns in `messages` or `conversations`, media in lists beside them.

    {"messages": [{"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "..."}],
     "images": ["mllm_demo_data/1.jpg"]}

`messages` hold role and content, `conversations` from and value; in both, user or human asks, and assistant
or gpt answers. The order of the checks: object, id, media, what cannot be trained on, turns, texts,
placeholders.

A system prompt, as the first message or in the field `system`, is refused, and so are `tools`: training
writes the system prompt of the chat template, and an answer that another one called for would be learned
without it. Other keys are ignored.
"""

from typing import Final

from operators.annotations.conversation import build_record
from operators.annotations.fields import read_object, read_record_id
from operators.annotations.layout import Layout
from operators.annotations.media import name_listed_media
from operators.annotations.turns import SYSTEM_ADVICE, Said, read_turns, spell
from schemas.errors import RejectCode, SampleError
from schemas.record import Record

_QUESTIONERS: Final = ("user", "human")
_ANSWERERS: Final = ("assistant", "gpt")
_MESSAGES: Final = spell("messages", "role", "content", _QUESTIONERS, _ANSWERERS)
_CONVERSATIONS: Final = spell("conversations", "from", "value", _QUESTIONERS[::-1], _ANSWERERS[::-1])


def parse_sharegpt(row: object) -> Record:
    """A row of a file in LLaMA-Factory's ShareGPT layout.

    Raises:
        SampleError: with the code of the first check that fails.
    """
    fields = read_object(row)
    record_id = read_record_id(fields)
    media = name_listed_media(fields.get("images"), fields.get("videos"))
    _refuse_untrainable(fields)
    return build_record(record_id, _read_either(fields), media)


SHAREGPT: Final = Layout(parse_sharegpt, ("images", "videos"), name_listed_media)


def _refuse_untrainable(fields: dict[str, object]) -> None:
    if fields.get("audios"):
        raise SampleError(RejectCode.WRONG_KIND, "'audios' names sound; only images and videos can be used")
    for field in ("system", "tools"):
        if fields.get(field):
            raise SampleError(RejectCode.BAD_ROLE, f"{field!r} is part of a system prompt{SYSTEM_ADVICE}")


def _read_either(fields: dict[str, object]) -> Said:
    if fields.get("messages") is None:
        if fields.get("conversations") is None:
            raise SampleError(RejectCode.MISSING_FIELD, "both 'messages' and 'conversations' are missing")
        return read_turns(fields, _CONVERSATIONS)
    if fields.get("conversations") is not None:
        raise SampleError(
            RejectCode.BAD_TYPE, "both 'messages' and 'conversations' hold turns; keep one of these fields"
        )
    return read_turns(fields, _MESSAGES)
