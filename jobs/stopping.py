"""SIGINT and SIGTERM stop a command in the same orderly way: as one KeyboardInterrupt.

An exception class of our own would say which signal it was, but libraries (Ray, click) catch a
KeyboardInterrupt and raise a new one; so the signal is remembered beside it. A second signal of the same kind
ends the process at once, for an orderly stop that hangs must not be the only way out; workers go with it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

INTERRUPTED_STATUS: Final = 128 + signal.SIGINT
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


class SoftStop:
    """SIGTERM as a wish: whoever works asks `is_asked` when it can stop, saves and ends, with exit status 0.

    If that takes longer than the deadline, the process ends with exit status 1; what was saved before stays.
    """

    def __init__(self, deadline_s: float, tell: Callable[[], object] = bool) -> None:
        """Listen for a wish; `tell` is called once it comes, where others have to hear of it."""
        self._deadline_s = deadline_s
        self._tell = tell
        self._asked = threading.Event()
        self._timer: threading.Timer | None = None
        self._before: Any = None

    def __enter__(self) -> "SoftStop":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def is_asked(self) -> bool:
        """Whether the signal came."""
        return self._asked.is_set()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked.is_set():
            return
        self._asked.set()
        self._timer = threading.Timer(self._deadline_s, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        self._tell()

    def _give_up(self) -> None:
        sys.stderr.write(f"error: not saved within {self._deadline_s:.0f} s of SIGTERM; --resume goes on\n")
        sys.stderr.flush()
        os._exit(1)


class StopSignals:
    """Listens while it is entered; only in the main thread, where Python has signals."""

    def __init__(self) -> None:
        self.status: int | None = None
        """The exit status that says which signal came."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.status = 128 + number
        raise KeyboardInterrupt
