"""A decoding process that does to itself what the bytes of a medium say; run by `test_isolated`."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from pipelines.decode import child
from schemas.errors import RejectCode, SampleError

render_picture, stream_clip = child.render_picture, child.stream_clip


def crash():
    ctypes.string_at(0)


def eat():
    held = []
    while True:
        held.append(bytearray(2**24))


def raise_unforeseen():
    raise KeyError("nobody foresaw this")


def reject_like_a_library():
    raise SampleError(RejectCode.DECODER_OUT_OF_MEMORY, "FFmpeg got no memory")


ORDERS = {
    b"hang": lambda: time.sleep(1000),
    b"hang with the lock": lambda: ctypes.PyDLL(None).sleep(1000),
    b"crash": crash,
    b"abort": os.abort,
    b"exit": lambda: sys.exit(7),
    b"raise": raise_unforeseen,
    b"eat": eat,
    b"eat in the library": reject_like_a_library,
}


def obey(data, policy):
    """A picture, or one of the orders; or a picture behind an order to crash, followed but once."""
    order, _, rest = data.partition(b"\n")
    if order in ORDERS:
        ORDERS[order]()
    if order.startswith(b"crash once "):
        mark = Path(os.fsdecode(order.removeprefix(b"crash once ")))
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        data = rest
    return render_picture(data, policy)


def decode_slowly(clip, policy):
    """Takes four seconds over the first frame."""
    report, groups = stream_clip(clip, policy)

    def wait_and_decode():
        time.sleep(4)
        yield from groups

    return report, wait_and_decode()


child.render_picture, child.stream_clip = obey, decode_slowly

if __name__ == "__main__":
    child.main()
