"""Views of different numbers of tokens, as reducers leave them: how many there are, then what a codec writes.

    count    u32, little endian
    (zeros up to 64 bytes, which keep what follows aligned)
    the tokens as their codec writes a view of so many patches; nothing where there are none

Decoded views stand in room for the most tokens that a view can have, zeros behind their own. How many are its
own is read from the first bytes (`count_tokens`), without decoding.
"""

import struct
from collections.abc import Sequence
from typing import Final

from jaxtyping import Float, Float16
from torch import Tensor

from operators.codec.interface import Buffer, Codec
from schemas.errors import CorruptError

HEAD_BYTES: Final = 64
_COUNT = struct.Struct("<I")


class RaggedCodec:
    """A codec for views of any number of tokens."""

    def __init__(self, inner: Codec) -> None:
        """`inner` writes the tokens."""
        self._inner = inner

    def encode(self, views: Float[Tensor, "views patches width"]) -> list[bytes]:
        """See `Codec.encode`: views that happen to be alike."""
        return self.encode_tokens(list(views))

    def encode_tokens(self, views: Sequence[Float[Tensor, "_ width"]]) -> list[bytes]:
        """The bytes of each view.

        Raises:
            SampleError: `not_finite` for NaN, infinities and values beyond fp16.
        """
        return [_pack_count(len(view)) + self._encode_one(view) for view in views]

    def decode_into(self, payloads: Sequence[Buffer], out: Float16[Tensor, "views patches width"]) -> None:
        """See `Codec.decode_into`; zeros behind the tokens of a view."""
        out.zero_()
        for place, payload in enumerate(payloads):
            count = count_tokens(payload)
            if count > out.shape[1]:
                raise CorruptError(f"a reduced view says that it has {count} tokens of {out.shape[1]}")
            if count:
                self._inner.decode_into([memoryview(payload)[HEAD_BYTES:]], out[place : place + 1, :count])
            elif len(payload) != HEAD_BYTES:
                raise CorruptError(f"a reduced view without tokens takes {len(payload)} bytes")

    def _encode_one(self, view: Float[Tensor, "tokens width"]) -> bytes:
        return self._inner.encode(view[None])[0] if len(view) else b""


def count_tokens(payload: Buffer) -> int:
    """Tokens of an encoded view.

    Raises:
        CorruptError: when it ends inside its head, or something stands where zeros must.
    """
    if len(payload) < HEAD_BYTES:
        raise CorruptError(f"a reduced view of {len(payload)} bytes ends inside its head")
    count: int = _COUNT.unpack_from(payload)[0]
    if payload[:HEAD_BYTES] != _pack_count(count):
        raise CorruptError(f"the head of a reduced view holds something behind its count of {count}")
    return count


def _pack_count(count: int) -> bytes:
    return _COUNT.pack(count).ljust(HEAD_BYTES, b"\0")
