"""What runs inside a child process of the processes engine: units come in by a socket, reports go out.

Started as a fresh interpreter, with the environment already set, so that heavy imports (which happen when the
worker's specification is unpickled) see it. The protocol, all pickled by `multiprocessing`:

    child: Ready            the interpreter runs
    driver: the worker      child: Ready | Failed | Broken
    driver: a unit          child: Done | Failed | Broken         (again and again)

The socket's end is the order to leave, also when the driver died. On Linux the kernel kills the child with
the driver, so that not even an endless loop outlives it; elsewhere a child ends after its unit.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from pipelines.host import Broken, Host, Ready, Report

PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serve the driver whose socket and process id are the arguments."""
    descriptor, driver = map(int, sys.argv[1:])
    _die_with(driver)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _serve(Connection(descriptor))
    except (EOFError, ConnectionError):
        sys.stderr.flush()
    os._exit(0)


def _serve(connection: Connection) -> None:
    connection.send(Ready())
    host: Host = _report_faults(connection, lambda: Host(connection.recv()))
    connection.send(_report_faults(connection, host.build))
    while True:
        report: Report = _report_faults(connection, lambda: host.run(connection.recv()))
        _report_faults(connection, lambda report=report: connection.send(report))


def _report_faults(connection: Connection, act: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the act returns
    """Act; an exception that nobody planned is told to the driver, then it ends the process."""
    try:
        return act()
    except Exception:
        connection.send(Broken(traceback.format_exc()))
        raise


def _die_with(driver: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        os._exit(0)
