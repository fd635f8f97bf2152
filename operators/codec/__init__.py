"""Codecs by name: ours, and those that installed packages bring as entry points of `onetoken.codecs`."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Final

import torch
from jaxtyping import Float16
from torch import Tensor

from operators.codec.compact import COMPACT_KIND
from operators.codec.fp16 import FP16_KIND
from operators.codec.int8 import INT8_KIND
from operators.codec.interface import Buffer, Codec, CodecKind
from operators.codec.ragged import RaggedCodec, count_tokens
from schemas.errors import MismatchError
from schemas.feature import ChannelStatistics, CodecIdentity, FeatureSpec

CODECS: Final[dict[str, CodecKind]] = {"compact": COMPACT_KIND, "fp16": FP16_KIND, "int8": INT8_KIND}
CPU: Final = torch.device("cpu")
ENTRY_POINTS: Final = "onetoken.codecs"


def find_kind(name: str) -> CodecKind:
    """What is known of the codec of this name.

    Raises:
        MismatchError: when nothing is, or when a package brings something else under it.
    """
    if name in CODECS:
        return CODECS[name]
    brought = entry_points(group=ENTRY_POINTS)
    if name not in brought.names:
        known = ", ".join(sorted({*CODECS, *brought.names}))
        raise MismatchError(f"no codec {name!r}; known are {known}")
    kind: object = brought[name].load()
    if not isinstance(kind, CodecKind):
        raise MismatchError(f"entry point {name!r} of {ENTRY_POINTS} is no CodecKind; mend that package")
    return kind


def identify_codec(
    name: str, step: float | None = None, statistics: ChannelStatistics | None = None
) -> CodecIdentity:
    """How this version of the program would write with the codec.

    Args:
        name: of the codec.
        step: its quality; None: its default.
        statistics: of the corpus, for codecs that need them.

    Raises:
        MismatchError: when there is no such codec, or it has no quality step.
    """
    kind = find_kind(name)
    if step is not None and kind.default_step is None:
        raise MismatchError(f"codec {name} has no quality step; leave out `step`")
    return CodecIdentity(
        name=name,
        version=kind.version,
        step=kind.default_step if step is None else step,
        library=kind.library,
        statistics=statistics if kind.needs_statistics else None,
    )


def open_codec(identity: CodecIdentity) -> Codec:
    """The codec that reads and writes under this identity.

    Raises:
        MismatchError: when this version of the program does not know it, or knows another version of it.
    """
    kind = find_kind(identity.name)
    if identity.version != kind.version:
        raise MismatchError(
            f"codec {identity.name} is here in version {kind.version}, the features were made with "
            f"{identity.version}; read them with that version, or featurize again"
        )
    return kind.open(identity)


def open_view_codec(spec: FeatureSpec) -> Codec:
    """What reads and writes the views of a spec: its codec, with counts of tokens where views are reduced.

    Raises:
        MismatchError: when this version of the program does not know the codec.
    """
    codec = open_codec(spec.codec)
    return codec if spec.reducer == "none" else RaggedCodec(codec)


def decode_views(
    codec: Codec,
    payloads: Sequence[Buffer],
    num_patches: int,
    width: int,
    device: torch.device = CPU,
) -> Float16[Tensor, "views patches width"]:
    """Views of one shape, decoded on a device into a tensor of their own.

    Raises:
        CorruptError: when the bytes of one are no view of this shape.
    """
    views = torch.empty(len(payloads), num_patches, width, dtype=torch.float16, device=device)
    codec.decode_into(payloads, views)
    return views


__all__ = [
    "CODECS",
    "CPU",
    "ENTRY_POINTS",
    "Buffer",
    "Codec",
    "CodecKind",
    "RaggedCodec",
    "count_tokens",
    "decode_views",
    "find_kind",
    "identify_codec",
    "open_codec",
    "open_view_codec",
]
