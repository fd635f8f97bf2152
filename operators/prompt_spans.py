"""A prompt in stretches of one role each, to be looked at: what is fused, learned, neither, or a medium."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN
from operators.prompt import Prompt

SpanRole = Literal["medium", "fused", "learned", "neither"]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one role; every medium is a span of its own."""

    role: SpanRole
    token_ids: list[int]


def list_spans(prompt: Prompt) -> list[Span]:
    """The stretches of a prompt, in order; together they are its token ids."""
    spans: list[Span] = []
    for role, token_id in _with_roles(prompt):
        if spans and spans[-1].role == role != "medium":
            spans[-1].token_ids.append(token_id)
        else:
            spans.append(Span(role, [token_id]))
    return spans


def _with_roles(prompt: Prompt) -> Iterator[tuple[SpanRole, int]]:
    for token_id, label, is_fused in zip(prompt.token_ids, prompt.labels, prompt.fuse_mask, strict=True):
        if token_id == MEDIUM_TOKEN:
            yield "medium", token_id
        elif label != IGNORED_LABEL:
            yield "learned", token_id
        else:
            yield "fused" if is_fused else "neither", token_id
