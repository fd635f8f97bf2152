"""A Hugging Face tokenizer, narrowed to what prompts need.

Two kinds of text are kept apart. Text that people wrote goes through `encode`, which knows no special tokens:
a question that spells `</s>` becomes ordinary pieces of `<`, `/`, `s`, `>`. Special tokens come only from
`split`, which is given templates and never text. Encoding adds no BOS or EOS and cuts nothing.
Left out: slow (Python) tokenizers, which cannot switch special tokens off. But the SentencePiece file that
those read is kept and saved again, which the library no longer does.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import jinja2
from transformers import PreTrainedTokenizerBase

from schemas.digest import digest_of
from schemas.errors import ConfigError

ChatMessage = dict[str, str]

SENTENCEPIECE_FILE: Final = "tokenizer.model"

_DATE: Final = "26 Jul 2024"
"""Templates that print today's date take it from `date_string`: a prompt must not depend on the day."""


class Tokenizer:
    """Encodes text safely, splits templates, renders conversations."""

    def __init__(self, backend: PreTrainedTokenizerBase) -> None:
        """Wrap a loaded tokenizer.

        Raises:
            ConfigError: the tokenizer has no fast backend, or no end-of-sequence token.
        """
        self.backend = backend
        self.name = str(cast(object, backend.name_or_path))  # pyright: ignore[reportUnknownMemberType]
        if not backend.is_fast:
            raise ConfigError(
                f"tokenizer {self.name!r} has no fast backend, so what questions spell could become special "
                "tokens; save it with a tokenizer.json"
            )
        eos = cast(int | None, backend.eos_token_id)
        if eos is None:
            raise ConfigError(f"tokenizer {self.name!r} names no eos_token; answers could not end")
        self.eos_id = eos
        self.bos_id = cast(int | None, backend.bos_token_id)
        self._sentencepiece = _read_sentencepiece(backend)
        self._special_ids = _find_special_ids(backend)
        unknown = cast(int | None, backend.unk_token_id)
        self._control_ids = frozenset(self._special_ids.values()) - {unknown}
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(re.escape(token) for token in longest_first))
        self.adds_space = False
        self.adds_space = self._opens_with_a_space()

    @cached_property
    def digest(self) -> str:
        """Digest of what decides ids: the tokenizer's own file without its settings for cutting and padding,
        the special tokens, and the chat template.
        """
        own: dict[str, Any] = json.loads(cast(Any, self.backend).backend_tokenizer.to_str())
        rules = {name: value for name, value in own.items() if name not in ("truncation", "padding")}
        return digest_of([rules, self._special_ids, self.bos_id, self.eos_id, self.template])

    @property
    def template(self) -> str | None:
        """The tokenizer's own chat template, where it has one."""
        found = cast(object, self.backend.chat_template)  # pyright: ignore[reportUnknownMemberType]
        return None if not found else json.dumps(found, sort_keys=True)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; what spells a special token is text too.

        Where the tokenizer puts a space before every stretch, as SentencePiece does, a leading one is that.

        Raises:
            ConfigError: the tokenizer made a special token of text all the same.
        """
        stretch = text.removeprefix(" ") if self.adds_space else text
        encoding = self.backend(
            stretch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        ids = cast(list[int], encoding["input_ids"])
        if not self._control_ids.isdisjoint(ids):
            raise ConfigError(f"tokenizer {self.name!r} makes special tokens of plain text; use another")
        return ids

    def split(self, template: str) -> list[str | int]:
        """A stretch of template as plain text and the ids of the special tokens between."""
        parts: list[str | int] = []
        end = 0
        for match in self._special_pattern.finditer(template):
            if match.start() > end:
                parts.append(template[end : match.start()])
            parts.append(self._special_ids[match[0]])
            end = match.end()
        return [*parts, template[end:]] if end < len(template) else parts

    def render(self, messages: Sequence[ChatMessage], template: str | None, *, asks: bool) -> str:
        """A conversation in the tokenizer's chat template, or in `template`; `asks` opens the next answer.

        Raises:
            ConfigError: there is no template, or it refuses these messages.
        """
        if template is None and not cast(object, self.backend.chat_template):  # pyright: ignore[reportUnknownMemberType]
            raise ConfigError(
                f"tokenizer {self.name!r} has no chat template; set `model.template: vicuna_v1`, or add a "
                "chat_template to its tokenizer_config.json"
            )
        try:
            rendered = self.backend.apply_chat_template(  # pyright: ignore[reportUnknownMemberType]
                list(messages),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=asks,
                date_string=_DATE,
            )
        except (jinja2.TemplateError, ValueError) as error:
            raise ConfigError(
                f"the chat template of {self.name!r} refuses {len(messages)} turns: {error}; set "
                "`model.template: vicuna_v1`"
            ) from error
        return cast(str, rendered)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        text = self.backend.decode(  # pyright: ignore[reportUnknownMemberType]
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text)

    def spell(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelled out."""
        text = self.backend.decode(  # pyright: ignore[reportUnknownMemberType]
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return cast(str, text)

    def save(self, folder: Path) -> None:
        """Write its files, as they are loaded again by the folder's name."""
        self.backend.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
        if self._sentencepiece is not None:
            (folder / SENTENCEPIECE_FILE).write_bytes(self._sentencepiece)

    def _opens_with_a_space(self) -> bool:
        """Whether every stretch is encoded as if a space stood before it, as SentencePiece does."""
        spelled = cast(list[str], self.backend.convert_ids_to_tokens(self.encode("a")))
        return "".join(spelled).startswith("\u2581")


def _read_sentencepiece(backend: PreTrainedTokenizerBase) -> bytes | None:
    """The file beside `tokenizer.json`, read at once: a checkpoint that holds it may be removed."""
    path = cast("object", getattr(backend, "vocab_file", None))
    if not isinstance(path, str) or Path(path).name != SENTENCEPIECE_FILE or not Path(path).is_file():
        return None
    return Path(path).read_bytes()


def _find_special_ids(backend: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens by their text: the named ones, and all that are marked special."""
    found = {token: cast(int, backend.convert_tokens_to_ids(token)) for token in backend.all_special_tokens}
    added = backend.added_tokens_decoder  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]
    for token_id, token in cast(dict[int, object], added).items():
        if getattr(token, "special", False):
            found[str(token)] = token_id
    return found
