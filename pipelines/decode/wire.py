"""What a decoding process and its owner say to each other over a socket: typed messages, no pickle.

A message is its length in four bytes and a MessagePack map with a tag. Pixels follow the message that
announces them, as raw bytes. The encoded medium does not pass through the socket: it stands in an unnamed
file that both processes hold open, so that a clip is not copied whole.
"""

import socket
from typing import Final

import msgspec
import numpy as np
from jaxtyping import UInt8

from operators.render import RenderPolicy
from operators.video import VideoFacts, VideoReport
from schemas.errors import RejectCode
from schemas.record import MediumKind

_LENGTH_BYTES: Final = 4


class DecodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a file may cost before it is rejected."""

    deadline_s: float = 30.0
    deadline_per_second: float = 0.5
    """Added for each second that a clip lasts."""
    memory_bytes: int = 2 * 2**30
    """Address space above what the process starts with."""
    files_per_process: int = 500
    """Then it is replaced, so that a leak in a decoder stays small."""


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """The first message to a process."""

    limits: DecodeLimits
    policy: RenderPolicy | None
    """None where only facts are asked for."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The answer to `Setup`: everything is imported and the limits hold."""


class ReadFacts(msgspec.Struct, frozen=True, tag="read_facts"):
    """Asks for the facts of the clip in the file."""


class Render(msgspec.Struct, frozen=True, tag="render"):
    """Asks for the views of the medium in the file."""

    kind: MediumKind


Request = ReadFacts | Render


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """A clip's packets were listed: from here on the deadline is that of its length."""

    allowed_s: float


class Views(msgspec.Struct, frozen=True, tag="views"):
    """Views that come together; their pixels follow."""

    shape: tuple[int, int, int, int]
    time_s: float


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    """All views were sent."""

    report: VideoReport | None


class Facts(msgspec.Struct, frozen=True, tag="facts"):
    """The facts of a clip."""

    facts: VideoFacts


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """The medium cannot be used."""

    code: RejectCode
    message: str


class OutOfMemory(msgspec.Struct, frozen=True, tag="out_of_memory"):
    """There was no memory for the medium; the process ends itself."""

    message: str


Answer = Ready | Opened | Views | Rendered | Facts | Rejected | OutOfMemory

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Setup | ReadFacts | Render)
_answer_decoder = msgspec.msgpack.Decoder(Ready | Opened | Views | Rendered | Facts | Rejected | OutOfMemory)


def send_message(channel: socket.socket, message: Setup | Request | Answer) -> None:
    """Write a message.

    Raises:
        OSError: when the other side is gone, or the channel's timeout is over.
    """
    body = _encoder.encode(message)
    channel.sendall(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


def receive_request(channel: socket.socket) -> Setup | Request | None:
    """The owner's next message; None when the owner is gone."""
    try:
        return _request_decoder.decode(_receive_body(channel))
    except EOFError:
        return None


def receive_answer(channel: socket.socket) -> Answer:
    """The decoding process's next message.

    Raises:
        EOFError: when the process is gone.
        OSError: when the channel's timeout is over.
    """
    return _answer_decoder.decode(_receive_body(channel))


def send_pixels(channel: socket.socket, pixels: UInt8[np.ndarray, "views height width 3"]) -> None:
    """Write the pixels that were announced."""
    channel.sendall(np.ascontiguousarray(pixels).data)


def receive_pixels(
    channel: socket.socket, shape: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "views height width 3"]:
    """The pixels that were announced.

    Raises:
        EOFError: when the process is gone.
        OSError: when the channel's timeout is over.
    """
    pixels = np.empty(shape, dtype=np.uint8)
    _receive_into(channel, pixels.data.cast("B"))
    return pixels


def _receive_body(channel: socket.socket) -> bytearray:
    head = bytearray(_LENGTH_BYTES)
    _receive_into(channel, memoryview(head))
    body = bytearray(int.from_bytes(head, "big"))
    _receive_into(channel, memoryview(body))
    return body


def _receive_into(channel: socket.socket, buffer: memoryview) -> None:
    while buffer:
        num_received = channel.recv_into(buffer)
        if num_received == 0:
            raise EOFError("the other side of the channel is gone")
        buffer = buffer[num_received:]
