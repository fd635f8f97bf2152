"""Lists of annotation files, as LLaVA-Mini and LLaVA-NeXT read them: `json_path` and `sampling_strategy`.

    datasets:
      - json_path: data/llava_v1_5_mix665k.json
        sampling_strategy: all
      - json_path: data/magpie_pro_l3_80b_st_300000.json
        sampling_strategy: "end:20%"

Strategies are written anew as a recipe's `take`. Two readings differ from the published code's on purpose:
`end:0` takes nothing, where that takes the whole file, and a strategy that it does not know, or that lacks
its number, is an error where it takes the whole file without a word.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from schemas.configuration import StrictModel, parse_yaml
from schemas.errors import ConfigError

_STRATEGY: Final = re.compile(r"all|(first|end|random):(\d+%?)")
_OURS: Final = {"first": "first", "end": "last", "random": "random"}


@dataclass(frozen=True, slots=True)
class ListedAnnotations:
    """One annotation file of a list."""

    path: str
    """As the list spells it."""
    take: str
    """As a recipe spells it: all, first:N, last:N or random:N, N a count or a percentage."""


class _Entry(StrictModel):
    json_path: Annotated[str, Field(min_length=1)]
    sampling_strategy: str = "all"


class _AnnotationList(StrictModel):
    datasets: Annotated[list[_Entry], Field(min_length=1)]


def parse_yaml_list(text: str, name: str) -> tuple[ListedAnnotations, ...]:
    """The files of a list, in its order.

    Args:
        text: of the list.
        name: what messages call the list.

    Raises:
        ConfigError: for bad YAML, unknown keys, unknown strategies and a file that is listed twice.
    """
    entries = parse_yaml(text, _AnnotationList, name).datasets
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        earlier = seen.setdefault(posixpath.normpath(entry.json_path), index)
        if earlier != index:
            raise ConfigError(
                f"{name}: datasets.{index}: {entry.json_path} is already datasets.{earlier}; name a file once"
            )
    return tuple(
        ListedAnnotations(
            entry.json_path, _read_strategy(entry.sampling_strategy, f"{name}: datasets.{index}")
        )
        for index, entry in enumerate(entries)
    )


def _read_strategy(strategy: str, where: str) -> str:
    match = _STRATEGY.fullmatch(strategy.strip().lower())
    if not match:
        raise ConfigError(
            f"{where}: sampling_strategy {strategy!r}: write all, first:N, end:N or random:N, N a count or a "
            "percentage like 10%"
        )
    return f"{_OURS[match[1]]}:{match[2]}" if match[1] else "all"
