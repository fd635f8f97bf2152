"""A conversation as token ids, with what is learned and what is fused marked where it is written.

A prompt is a list of parts. Each part has one role, is encoded on its own, and so hands its role to all of
its tokens: spans are never searched for afterwards. Media are parts too, so a placeholder is never encoded
as text; in an example without media it is prose and stays prose. Prompts that are too long are refused,
never cut: an answer without its end would teach the model not to stop.

Here also stage 1's prompt: [BOS] medium caption newline, the caption and its newline learned (LLaVA's
`plain`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol, runtime_checkable

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN
from operators.tokenizer import Tokenizer
from schemas.digest import digest_of
from schemas.errors import RejectCode, SampleError
from schemas.record import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Turn

_PLACEHOLDER: Final = re.compile(f"{IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER}")


class PartRole(Enum):
    """What a part of a prompt is for."""

    INSTRUCTION = auto()
    """System prompt, human turns, headers: fused with the media, not learned."""
    ANSWER = auto()
    """What the model shall say, and the token that ends it: learned, never fused."""
    SEPARATOR = auto()
    """Neither: BOS of a caption, white space after an answer's end."""


@dataclass(frozen=True, slots=True)
class Part:
    """Plain text, or the id of a special token or of a medium."""

    content: str | int
    role: PartRole


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and for each whether it is learned (`labels`) and whether it is fused."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    fuse_mask: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class PromptSize:
    """How long a prompt is, and how much of it is learned."""

    num_tokens: int
    """One for each medium among them."""
    num_labels: int
    """Learned tokens that are predicted: all but one at the very beginning."""


@runtime_checkable
class Prompter(Protocol):
    """Writes the prompts of one stage; raises `SampleError` for an example that cannot be written."""

    @property
    def digest(self) -> str:
        """Digest of tokenizer and template: what decides a prompt besides the conversation."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt at most."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def write_training(self, turns: Sequence[Turn], num_media: int) -> Prompt:
        """A whole conversation, its answers learned."""
        ...

    def write_question(self, turns: Sequence[Turn], num_media: int) -> Prompt:
        """A conversation up to where the next answer begins; nothing is learned."""
        ...

    def measure_training(self, turns: Sequence[Turn], num_media: int) -> PromptSize:
        """The size of what `write_training` would write if there were no limit."""
        ...


def measure_prompt(prompt: Prompt) -> PromptSize:
    """The size of a prompt."""
    num_labels = sum(label != IGNORED_LABEL for label in prompt.labels[1:])
    return PromptSize(len(prompt.token_ids), num_labels)


def write_prompt(parts: Sequence[Part], tokenizer: Tokenizer, max_tokens: int | None) -> Prompt:
    """Encode parts one after another; neighboring texts of one role are encoded as one.

    Raises:
        SampleError: TOO_MANY_TOKENS.
    """
    token_ids: list[int] = []
    labels: list[int] = []
    fuse_mask: list[bool] = []
    for part in _join_texts(parts):
        ids = tokenizer.encode(part.content) if isinstance(part.content, str) else [part.content]
        is_medium = part.content == MEDIUM_TOKEN
        token_ids += ids
        labels += ids if part.role is PartRole.ANSWER else [IGNORED_LABEL] * len(ids)
        fuse_mask += [part.role is PartRole.INSTRUCTION and not is_medium] * len(ids)
    if max_tokens is not None and len(token_ids) > max_tokens:
        raise SampleError(
            RejectCode.TOO_MANY_TOKENS,
            f"{len(token_ids)} tokens of text, over the limit of {max_tokens}; raise `data.max_tokens`",
        )
    return Prompt(tuple(token_ids), tuple(labels), tuple(fuse_mask))


def count_placeholders(turns: Sequence[Turn]) -> int:
    """How many media a conversation is about, by its text."""
    return sum(len(_PLACEHOLDER.findall(turn.text)) for turn in turns)


def place_media(turns: Sequence[Turn], num_media: int) -> list[list[str | int]]:
    """Each turn's text, outer white space dropped, with `MEDIUM_TOKEN` where a medium stands.

    A turn with one placeholder begins with it, wherever it was written, as in LLaVA: medium, newline, text.
    With several, each stays in its place.

    Raises:
        SampleError: PLACEHOLDER_MISMATCH: placeholders and media differ in number, or an answer holds one.
    """
    if num_media == 0:
        return [[turn.text.strip()] for turn in turns]
    found = [len(_PLACEHOLDER.findall(turn.text)) for turn in turns]
    if sum(found) != num_media:
        raise SampleError(RejectCode.PLACEHOLDER_MISMATCH, f"{sum(found)} placeholders for {num_media} media")
    if any(count for turn, count in zip(turns, found, strict=True) if turn.role == "gpt"):
        raise SampleError(
            RejectCode.PLACEHOLDER_MISMATCH, "a placeholder in an answer; media belong to questions"
        )
    return [_split_placeholders(turn.text) for turn in turns]


class CaptionPrompter:
    """Stage 1: the caption follows the medium; what the human asked is dropped."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._newline = tokenizer.encode("\n")[-1]
        self._opening = [] if tokenizer.bos_id is None else [Part(tokenizer.bos_id, PartRole.SEPARATOR)]

    @property
    def digest(self) -> str:
        """See `Prompter.digest`."""
        return digest_of(["plain", self._tokenizer.digest])

    @property
    def stop_ids(self) -> frozenset[int]:
        """A caption ends with its newline."""
        return frozenset({self._newline, self._tokenizer.eos_id})

    def write_training(self, turns: Sequence[Turn], num_media: int) -> Prompt:
        """Medium, caption, newline.

        Raises:
            SampleError: NOT_A_CAPTION when it is not one question and answer about one medium, EMPTY_ANSWER,
                TOO_MANY_TOKENS.
        """
        return write_prompt(self._list_parts(turns, num_media), self._tokenizer, self.max_tokens)

    def measure_training(self, turns: Sequence[Turn], num_media: int) -> PromptSize:
        """See `Prompter.measure_training`.

        Raises:
            SampleError: NOT_A_CAPTION, EMPTY_ANSWER.
        """
        parts = self._list_parts(turns, num_media)
        return measure_prompt(write_prompt(parts, self._tokenizer, None))

    def write_question(self, turns: Sequence[Turn], num_media: int) -> Prompt:
        """The medium alone.

        Raises:
            SampleError: NOT_A_CAPTION when there is not one medium.
        """
        if num_media != 1:
            raise SampleError(RejectCode.NOT_A_CAPTION, f"{num_media} media; stage 1 describes one")
        return write_prompt(self._start(), self._tokenizer, self.max_tokens)

    def _list_parts(self, turns: Sequence[Turn], num_media: int) -> list[Part]:
        if [turn.role for turn in turns] != ["human", "gpt"] or num_media != 1:
            raise SampleError(
                RejectCode.NOT_A_CAPTION,
                f"{len(turns)} turns about {num_media} media; stage 1 learns captions: one question, one "
                "answer, one medium. Choose such sources with `data.sources`",
            )
        caption = turns[1].text.strip()
        if not caption:
            raise SampleError(RejectCode.EMPTY_ANSWER, "the caption is empty")
        return [*self._start(), Part(caption, PartRole.ANSWER), Part(self._newline, PartRole.ANSWER)]

    def _start(self) -> list[Part]:
        return [*self._opening, Part(MEDIUM_TOKEN, PartRole.SEPARATOR)]


def _split_placeholders(text: str) -> list[str | int]:
    pieces = _PLACEHOLDER.split(text.strip())
    if len(pieces) == 1:
        return [pieces[0]]
    if len(pieces) == 2:
        rest = "".join(pieces).strip()
        return [MEDIUM_TOKEN, f"\n{rest}"] if rest else [MEDIUM_TOKEN]
    placed: list[str | int] = [pieces[0]]
    for piece in pieces[1:]:
        placed += [MEDIUM_TOKEN, piece]
    return [piece for piece in placed if piece != ""]


def _join_texts(parts: Sequence[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.role is part.role
            and isinstance(last.content, str)
            and isinstance(part.content, str)
        ):
            joined[-1] = Part(last.content + part.content, part.role)
        elif part.content != "":
            joined.append(part)
    return joined
