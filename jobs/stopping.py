"""SIGINT and SIGTERM stop a command in the same orderly way: as one KeyboardInterrupt.

An exception class of our own would say which signal it was, but libraries (Ray, click) catch a
KeyboardInterrupt and raise a new one; so the signal is remembered beside it. A second signal of the same kind
ends the process at once, for an orderly stop that hangs must not be the only way out; workers go with it.
Training takes SIGTERM as a wish to save. Whoever sends it to all processes of a job sends it twice to those
of torchrun, which hands it on: a second one that comes within seconds of the first is the same wish.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

INTERRUPTED_STATUS: Final = 128 + signal.SIGINT
ECHO_S: Final = 5.0
"""Seconds after a wish to stop in which the same wish may come by another way."""
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


class SoftStop:
    """SIGTERM as a wish: whoever works asks `is_asked` when it can stop, saves and ends, with exit status 0.

    If that takes longer than the deadline, the process ends with exit status 1; a second signal ends it at
    once, by that signal. What was saved before stays.
    """

    def __init__(self, deadline_s: float, tell: Callable[[], object] = bool, echo_s: float = ECHO_S) -> None:
        """Listen for a wish.

        Args:
            deadline_s: until then the process ends by itself.
            tell: is called once the wish comes, where others have to hear of it.
            echo_s: a signal that comes so soon after the first is the same one.
        """
        self._deadline_s, self._tell, self._echo_s = deadline_s, tell, echo_s
        self._asked = threading.Event()
        self._asked_at_s = 0.0
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
            if time.monotonic() - self._asked_at_s >= self._echo_s:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
            return
        self._asked_at_s = time.monotonic()
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
