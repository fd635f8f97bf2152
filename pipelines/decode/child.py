"""The decoding process: `python -m pipelines.decode.child CHANNEL FILE`, both numbers of open files.

It answers one request after the other until its owner is gone. It guards its owner against itself: its
address space is limited, and while it works an alarm is set whose default is to end the process, so that an
orphan which hangs in a decoder does not stay, whoever holds the interpreter's lock. The owner kills it
earlier, at the deadline.

What Python raises and nobody foresaw ends the process with its traceback on standard error; the owner takes
the last line of it for the reject's message.
"""

import io
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from operators.render import RenderedViews, RenderPolicy, load_libraries, render_picture, stream_clip
from operators.video import VideoReport, read_video_facts
from pipelines.decode.wire import (
    DecodeLimits,
    Facts,
    Opened,
    OutOfMemory,
    ReadFacts,
    Ready,
    Rejected,
    Render,
    Rendered,
    Request,
    Setup,
    Views,
    receive_request,
    send_message,
    send_pixels,
)
from schemas.errors import RejectCode, SampleError
from schemas.record import MediumKind

ALARM_GRACE_S: Final = 10.0
_SIZES: Final = Path("/proc/self/statm")
"""Linux: the first number is the address space in use, in pages."""


def main() -> None:
    """Serve the owner at the other end of the channel until it is gone."""
    channel_number, file_number = (int(argument) for argument in sys.argv[1:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner is told, and decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with socket.socket(fileno=channel_number) as channel, open(file_number, "rb", buffering=0) as medium:
        setup = receive_request(channel)
        if not isinstance(setup, Setup):
            return
        if setup.policy:
            load_libraries(setup.policy)
        _limit_memory(setup.limits.memory_bytes)
        send_message(channel, Ready())
        _Server(channel, medium, setup.limits, setup.policy).serve()


def allow_time(limits: DecodeLimits, duration_s: float, num_packets: int) -> float:
    """Seconds that a clip may take from the request on.

    A second for a packet is the most that counts: broken timestamps may claim a century.
    """
    return limits.deadline_s + limits.deadline_per_second * min(max(duration_s, 0.0), float(num_packets))


class _Server:
    def __init__(
        self,
        channel: socket.socket,
        medium: io.FileIO,
        limits: DecodeLimits,
        policy: RenderPolicy | None,
    ) -> None:
        self._channel = channel
        self._medium = medium
        self._limits = limits
        self._policy = policy

    def serve(self) -> None:
        """Answer until the owner is gone, or memory is out."""
        while isinstance(request := receive_request(self._channel), ReadFacts | Render):
            signal.setitimer(signal.ITIMER_REAL, self._limits.deadline_s + ALARM_GRACE_S)
            try:
                self._answer(request)
            except SampleError as error:
                if error.code is RejectCode.DECODER_OUT_OF_MEMORY:
                    return send_message(self._channel, OutOfMemory(error.message))
                send_message(self._channel, Rejected(error.code, error.message))
            except MemoryError:
                return send_message(self._channel, OutOfMemory("the decoder got no memory"))
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _answer(self, request: Request) -> None:
        if isinstance(request, ReadFacts):
            send_message(self._channel, Facts(read_video_facts(self._medium)))
        elif self._policy is None:
            raise AssertionError("views were asked for without a policy")
        elif request.kind is MediumKind.IMAGE:
            self._medium.seek(0)
            self._send_views(iter([render_picture(self._medium.readall(), self._policy)]))
            send_message(self._channel, Rendered(None))
        else:
            report, groups = stream_clip(self._medium, self._policy)
            self._extend_deadline(report)
            self._send_views(groups)
            send_message(self._channel, Rendered(report))

    def _extend_deadline(self, report: VideoReport) -> None:
        allowed_s = allow_time(self._limits, report.duration_s, report.num_packets)
        signal.setitimer(signal.ITIMER_REAL, allowed_s + ALARM_GRACE_S)
        send_message(self._channel, Opened(allowed_s))

    def _send_views(self, groups: Iterator[RenderedViews]) -> None:
        for group in groups:
            num_views, height, width, channels = group.views.shape
            send_message(self._channel, Views((num_views, height, width, channels), group.time_s))
            send_pixels(self._channel, group.views)


def _limit_memory(extra_bytes: int) -> None:
    """Allow so much address space above what is in use; what asks for more gets a `MemoryError`."""
    if not _SIZES.exists():
        return
    in_use = int(_SIZES.read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + extra_bytes, in_use + extra_bytes))


if __name__ == "__main__":
    main()
