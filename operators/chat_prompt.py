"""Stage 2's prompt: the language model's own chat template, with every token's role known.

The template is rendered once per number of turns, with marks instead of texts, turn by turn. Each rendering
must begin with the one before it, and each question's rendering with the header that opens the next answer:
then the borders between turns are the lengths of the renderings, and what the model sees when it answers is
what it saw in training. Templates that rewrite earlier turns are refused with the place where they do.

Texts never pass through the template, so what people wrote can neither change it nor become special tokens.
Spaces that end a header are given to the answer, where tokenizers expect them. No system message is sent:
templates that have one of their own print it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from operators.batch import IGNORED_LABEL
from operators.prompt import (
    CaptionPrompter,
    Part,
    PartRole,
    Prompt,
    Prompter,
    PromptSize,
    measure_prompt,
    place_media,
    write_prompt,
)
from operators.tokenizer import ChatMessage, Tokenizer
from schemas.digest import digest_of
from schemas.errors import ConfigError, RejectCode, SampleError
from schemas.record import Turn
from schemas.training import TemplateName

VICUNA_V1: Final = (
    "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "{% for message in messages %}"
    "{% if message.role == 'user' %}USER: {{ message.content }} "
    "{% else %}ASSISTANT: {{ message.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The template of Vicuna 1.1 and LLaVA-1.5 (`v1`): no space after an answer's end."""

LLAVA_LLAMA_3: Final = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language.<|eot_id|>"
    "{% for message in messages %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""LLaVA's for Llama 3 and 3.1: its own system prompt, and none of the dates that Llama 3.1's would write."""

TEMPLATES: Final[dict[TemplateName, str | None]] = {
    "own": None,
    "vicuna_v1": VICUNA_V1,
    "llava_llama_3": LLAVA_LLAMA_3,
}
"""By what a configuration calls them; None: the tokenizer's own."""


@dataclass(frozen=True, slots=True)
class Blank:
    """Where a turn's text goes in a form."""

    turn: int
    role: PartRole


Form = tuple[Part | Blank, ...]
"""A conversation of a given number of turns, with blanks for their texts."""


class ChatPrompter:
    """Writes conversations in a chat template."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, template: str | None = None) -> None:
        """Look at the template once.

        Args:
            tokenizer: of the language model.
            max_tokens: text tokens of a prompt at most.
            template: a Jinja chat template; None: the tokenizer's own.

        Raises:
            ConfigError: there is no template, or it cannot be used.
        """
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._template = template
        self._forms: dict[int, Form] = {}
        learned = [part for part in self._form(2) if isinstance(part, Part) and part.role is PartRole.ANSWER]
        self._stop_ids = frozenset(part.content for part in learned if isinstance(part.content, int))

    @property
    def digest(self) -> str:
        """See `Prompter.digest`."""
        return digest_of(["chat", self._tokenizer.digest, self._template])

    @property
    def stop_ids(self) -> frozenset[int]:
        """The special token that ends an answer in this template, and the tokenizer's EOS."""
        return self._stop_ids | {self._tokenizer.eos_id}

    def write_training(self, turns: Sequence[Turn], num_media: int) -> Prompt:
        """A whole conversation: answers and their ends learned, questions and headers fused.

        Raises:
            SampleError: BAD_ROLE when turns do not alternate or do not end with an answer, EMPTY_ANSWER,
                PLACEHOLDER_MISMATCH, TOO_MANY_TOKENS.
        """
        return self._write_training(turns, num_media, self.max_tokens)

    def measure_training(self, turns: Sequence[Turn], num_media: int) -> PromptSize:
        """See `Prompter.measure_training`.

        Raises:
            SampleError: BAD_ROLE, EMPTY_ANSWER, PLACEHOLDER_MISMATCH.
        """
        return measure_prompt(self._write_training(turns, num_media, None))

    def write_question(self, turns: Sequence[Turn], num_media: int) -> Prompt:
        """Up to the header of the next answer; earlier answers stay unfused, as in training.

        Raises:
            SampleError: BAD_ROLE when turns do not alternate or do not end with a question, EMPTY_ANSWER,
                PLACEHOLDER_MISMATCH, TOO_MANY_TOKENS.
        """
        if len(turns) % 2 == 0:
            raise SampleError(RejectCode.BAD_ROLE, f"{len(turns)} turns do not end with a question")
        prompt = self._write(turns, num_media, self.max_tokens)
        return replace(prompt, labels=(IGNORED_LABEL,) * len(prompt.labels))

    def _write_training(self, turns: Sequence[Turn], num_media: int, max_tokens: int | None) -> Prompt:
        if len(turns) % 2 or not turns:
            raise SampleError(RejectCode.BAD_ROLE, f"{len(turns)} turns do not end with an answer")
        return self._write(turns, num_media, max_tokens)

    def _write(self, turns: Sequence[Turn], num_media: int, max_tokens: int | None) -> Prompt:
        _check_turns(turns)
        contents = place_media(turns, num_media)
        parts: list[Part] = []
        for part in self._form(len(turns)):
            if isinstance(part, Blank):
                parts += [Part(content, part.role) for content in contents[part.turn]]
            else:
                parts.append(part)
        return write_prompt(parts, self._tokenizer, max_tokens)

    def _form(self, num_turns: int) -> Form:
        """The form of a conversation; one with an odd number of turns ends with the header of an answer."""
        if num_turns not in self._forms:
            self._forms[num_turns] = tuple(self._draw_form(num_turns))
        return self._forms[num_turns]

    def _draw_form(self, num_turns: int) -> Iterator[Part | Blank]:
        renderings = self._render_marks(num_turns)
        start = 0
        for turn, rendering in enumerate(renderings):
            before, after = self._split_at_mark(rendering[start:], turn)
            start = len(rendering)
            if turn % 2 == 0:
                yield from self._literal(before, PartRole.INSTRUCTION)
                yield Blank(turn, PartRole.INSTRUCTION)
                yield from self._literal(after, PartRole.INSTRUCTION)
            else:
                yield from self._open_answer(before)
                yield Blank(turn, PartRole.ANSWER)
                yield from self._close_answer(after)

    def _render_marks(self, num_turns: int) -> list[str]:
        """The first 1, 2, ... turns as marks; each rendering begins with the one before.

        After a question stands the header of the answer, without the spaces that end it.
        """
        eager = self._find_eager_header()
        renderings: list[str] = []
        for turn in range(num_turns):
            asks = turn % 2 == 0
            rendering = self._tokenizer.render(_mark_turns(turn + 1), self._template, asks=asks)
            renderings.append(rendering.rstrip(" ") if asks else rendering.removesuffix(eager))
            if turn and not rendering.startswith(renderings[-2]):
                raise self._refuse(
                    f"rewrites what it wrote when turn {turn + 1} is added: {renderings[-2]!r} is not what "
                    f"{rendering!r} begins with"
                )
        return renderings

    def _find_eager_header(self) -> str:
        """The header of an answer, where a template writes it after every message, asked or not.

        So do the first release of Llama 3's and the one that LLaVA-Mini's Llama came with.
        """
        asked, unasked = (
            self._tokenizer.render(_mark_turns(1), self._template, asks=asks) for asks in (True, False)
        )
        after = asked.partition(_mark(0))[2]
        answered = self._tokenizer.render(_mark_turns(2), self._template, asks=False)
        if asked != unasked or answered.partition(_mark(1))[2] != after:
            return ""
        ends = [content for content in self._tokenizer.split(after)[:1] if isinstance(content, int)]
        return after.removeprefix(self._tokenizer.spell(ends))

    def _split_at_mark(self, stretch: str, turn: int) -> tuple[str, str]:
        parts = stretch.split(_mark(turn))
        if len(parts) != 2:
            raise self._refuse(f"prints the text of turn {turn + 1} {len(parts) - 1} times")
        return parts[0], parts[1]

    def _literal(self, text: str, role: PartRole) -> list[Part]:
        return [Part(content, role) for content in self._tokenizer.split(text)]

    def _open_answer(self, text: str) -> list[Part]:
        """White space between header and answer belongs to the answer."""
        if text.strip():
            raise self._refuse(
                f"opens answers with {text!r}, but not when `add_generation_prompt` asks for it"
            )
        return self._literal(text, PartRole.ANSWER)

    def _close_answer(self, text: str) -> list[Part]:
        """The answer's end is learned up to its first special token."""
        contents = self._tokenizer.split(text)
        specials = [index for index, content in enumerate(contents) if isinstance(content, int)]
        if not specials:
            raise self._refuse(f"ends answers with {text!r}, which holds no special token to stop at")
        end = specials[0] + 1
        learned = [Part(content, PartRole.ANSWER) for content in contents[:end]]
        return learned + [Part(content, PartRole.SEPARATOR) for content in contents[end:]]

    def _refuse(self, reason: str) -> ConfigError:
        return ConfigError(
            f"the chat template of {self._tokenizer.name!r} {reason}; set `model.template: vicuna_v1`, or "
            "change the template"
        )


def build_prompter(
    tokenizer: Tokenizer, stage: Literal[1, 2], template: TemplateName, max_tokens: int
) -> Prompter:
    """The prompter of a stage.

    Raises:
        ConfigError: stage 2 and the chat template cannot be used.
    """
    if stage == 1:
        return CaptionPrompter(tokenizer, max_tokens)
    return ChatPrompter(tokenizer, max_tokens, TEMPLATES[template])


def _mark(turn: int) -> str:
    """Stands for a turn's text; private-use characters, which no template looks for."""
    return f"\ue000{turn}\ue001"


def _mark_turns(num_turns: int) -> list[ChatMessage]:
    """A conversation of marks."""
    return [
        {"role": "assistant" if turn % 2 else "user", "content": _mark(turn)} for turn in range(num_turns)
    ]


def _check_turns(turns: Sequence[Turn]) -> None:
    expected = ["human", "gpt"] * (len(turns) // 2 + 1)
    roles = [turn.role for turn in turns]
    if roles != expected[: len(roles)]:
        raise SampleError(RejectCode.BAD_ROLE, f"roles {roles} do not alternate, beginning with human")
    if not all(turn.text.strip() for turn in turns if turn.role == "gpt"):
        raise SampleError(RejectCode.EMPTY_ANSWER, "an answer is empty")
