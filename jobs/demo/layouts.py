"""The four published layouts, to the key: record types in the published key order, and their files.

LLaVA pre-training and mix665k are one JSON list; a picture is a path below the set's folder, and text-only
records have no `image` key but an empty `model`. VideoInstruct100K is a JSON list of q, a, video_id.
OneVision is parquet with the pictures inside. What is in each set is decided in `sets.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]
from msgspec import UNSET, Struct, UnsetType, field

from jobs.demo.media import write_file


class LlavaTurn(Struct, frozen=True):
    """One utterance."""

    speaker: str = field(name="from")
    value: str


class LlavaRecord(Struct, frozen=True, omit_defaults=True):
    """A row of the 558K and 665K sets; ids are strings in most rows and integers in some."""

    id: str | int
    image: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    conversations: list[LlavaTurn] = field(default_factory=list[LlavaTurn])


class VideoRecord(Struct, frozen=True):
    """A row of VideoInstruct100K."""

    q: str
    a: str
    video_id: str


class HeldoutRecord(Struct, frozen=True, kw_only=True):
    """A held-out question: a LLaVA row with its kind and everything that could be answered."""

    id: str
    image: str | UnsetType = UNSET
    video: str | UnsetType = UNSET
    conversations: list[LlavaTurn]
    kind: str
    candidates: list[str]


class ParquetImage(Struct, frozen=True):
    """A picture inside a OneVision row; the published path is null."""

    bytes: bytes
    path: str | None = None


class OnevisionRecord(Struct, frozen=True):
    """A row of a OneVision subset; text-only rows have no image."""

    id: str
    image: ParquetImage | None
    conversations: list[LlavaTurn]
    data_source: str


Published = LlavaRecord | VideoRecord | HeldoutRecord | OnevisionRecord

_arrow = cast(Any, pyarrow)  # comes without types
_parquet = cast(Any, parquet)
_ONEVISION_SCHEMA = _arrow.schema(
    [
        ("id", _arrow.string()),
        ("image", _arrow.struct([("bytes", _arrow.binary()), ("path", _arrow.string())])),
        (
            "conversations",
            _arrow.list_(_arrow.struct([("from", _arrow.string()), ("value", _arrow.string())])),
        ),
        ("data_source", _arrow.string()),
    ]
)


def talk(*rounds: tuple[str, str]) -> list[LlavaTurn]:
    """Question and answer pairs as turns of human and gpt."""
    return [
        LlavaTurn(speaker, value)
        for pair in rounds
        for speaker, value in zip(("human", "gpt"), pair, strict=True)
    ]


def write_json(path: Path, rows: Sequence[object]) -> None:
    """An annotation file: one JSON list."""
    write_file(path, msgspec.json.format(msgspec.json.encode(rows), indent=2))


def write_parquet(path: Path, rows: Sequence[OnevisionRecord]) -> None:
    """One part of a OneVision subset."""
    plain = [msgspec.to_builtins(row, builtin_types=(bytes,)) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _arrow.Table.from_pylist(plain, schema=_ONEVISION_SCHEMA)
    _parquet.write_table(table, path, row_group_size=64)
