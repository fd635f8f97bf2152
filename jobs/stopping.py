"""SIGINT and SIGTERM stop a command in the same orderly way: as one KeyboardInterrupt.

An exception class of our own would say which signal it was, but libraries (Ray, click) catch a
KeyboardInterrupt and raise a new one; so the signal is remembered beside it. A second signal of the same kind
ends the process at once, for an orderly stop that hangs must not be the only way out; workers go with it.
"""

import signal
import threading
from types import FrameType
from typing import Any, Final

INTERRUPTED_STATUS: Final = 128 + signal.SIGINT
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


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
