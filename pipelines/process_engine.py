"""Runs units in child processes of this machine: fresh interpreters, one per slot, replaced when they die.

Children are started by executing Python, never by forking this process, so they hold no copy of its threads,
CUDA contexts or decoders. Why not `concurrent.futures`: one dead child breaks its whole pool, and it tells
neither which unit the child held nor what it last said on stderr. Here both stand in the error.

A child's stdout and stderr go to a file without a name, of which the end is shown when the child dies.
At the end, good or bad, children that still work have `GRACE_S` to finish; then they are killed.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError
from typing import IO, Any, Final

from infra.machine import count_cpus, count_memory_bytes, list_gpus
from pipelines.dispatch import START_LIMIT_S, Dispatch
from pipelines.engine import DATA_WORKER, Observer, Resources, Result, Unit, Worker, observe_nothing
from pipelines.host import Lost, Ready, Report, process_settings
from schemas.errors import WorkError

GRACE_S: Final = 2.0
END_LIMIT_S: Final = 10.0
"""For a killed process to be gone."""
TAIL_BYTES: Final = 2_000
MAX_LOG_BYTES: Final = 1 << 20
PROGRAM: Final = "from pipelines.child import main; main()"


class ProcessesEngine:
    """Runs units on child processes; leave it as a context manager, or `close` it, to be rid of them all."""

    name = "processes"

    def __init__(
        self,
        num_workers: int | None = None,
        start_limit_s: float = START_LIMIT_S,
        observer: Observer = observe_nothing,
    ) -> None:
        self.observer = observer
        self._num_workers = num_workers or count_cpus()
        self._start_limit_s = start_limit_s
        self._gpus = list_gpus()
        self._crews: list[_Children] = []

    def __enter__(self) -> "ProcessesEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_gpu(self) -> bool:
        """See `Engine.has_gpu`."""
        return bool(self._gpus)

    def run(
        self,
        spec: Worker[Unit, Result],
        units: Sequence[Unit],
        resources: Resources = DATA_WORKER,
        stage: str = "",
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.run`.

        Raises:
            WorkError: when the machine has no room for one worker.
        """
        if not units:
            return
        crew = _Children(spec, resources, self._num_workers, self._gpus)
        self._crews.append(crew)
        dispatch = Dispatch(
            crew,
            spec,
            units,
            unit_limit_s=resources.unit_limit_s,
            start_limit_s=self._start_limit_s,
            observer=self.observer,
            stage=stage,
        )
        try:
            yield from dispatch.results()
        finally:
            self._crews.remove(crew)

    def close(self) -> None:
        """End every child, also of runs that were left in the middle."""
        for crew in self._crews:
            crew.close()


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]
    gpus: str

    def describe_end(self) -> str:
        """How the process ended, and what it said last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_LIMIT_S)
        self.kill()
        status = self.process.returncode or 0
        ended = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        tail = self.read_tail()
        return f"process {self.process.pid} ended with {ended}" + (f"; it said:\n{tail}" if tail else "")

    def read_tail(self) -> str:
        """The end of what the child wrote."""
        size = os.fstat(self.log.fileno()).st_size
        data = os.pread(self.log.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
        return data.decode(errors="replace").strip()

    def kill(self) -> None:
        """End the process, and what it may have started, as no handler can prevent; and reap it."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel; it ends when it can
                self.process.wait(END_LIMIT_S)


class _Children:
    """A `Crew` of processes."""

    def __init__(
        self, spec: Worker[Any, Any], resources: Resources, num_workers: int, gpus: Sequence[str]
    ) -> None:
        self._spec = _pack(spec, "the worker")
        self._free_gpus = _share_gpus(gpus, resources.num_gpus, num_workers)
        self.num_slots = _count_slots(resources, num_workers, len(self._free_gpus))
        self._environment = os.environ | process_settings(resources.num_cpus)
        self._environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._hides_gpus = bool(gpus)
        self._children: dict[int, _Child] = {}
        self._strangers: set[int] = set()
        self._num_hired = 0

    def hire(self) -> int:
        """See `Crew.hire`: the child says that it runs, is sent the worker, and says that it is built."""
        here, there = Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        fcntl.fcntl(log, fcntl.F_SETFL, fcntl.fcntl(log, fcntl.F_GETFL) | os.O_APPEND)
        gpus = self._free_gpus.pop()
        process = subprocess.Popen(  # noqa: S603 - this interpreter, our program
            [
                sys.executable,
                "-P",
                "-X",
                "faulthandler",
                "-c",
                PROGRAM,
                str(there.fileno()),
                str(os.getpid()),
            ],
            env=self._environment | ({"CUDA_VISIBLE_DEVICES": gpus} if self._hides_gpus else {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[there.fileno()],
            process_group=0,
        )
        there.close()
        self._num_hired += 1
        self._children[self._num_hired] = _Child(process, here, log, gpus)
        self._strangers.add(self._num_hired)
        return self._num_hired

    def give(self, worker: int, unit: Any) -> None:  # noqa: ANN401 - any unit
        """See `Crew.give`."""
        self._send(worker, _pack(unit, f"a unit ({unit!r:.200})"))

    def wait(self, limit_s: float) -> Sequence[tuple[int, Report]]:
        """See `Crew.wait`."""
        workers = {child.connection: worker for worker, child in self._children.items()}
        reports: list[tuple[int, Report]] = []
        for connection in wait(list(workers), limit_s):
            worker = workers[connection]  # pyright: ignore[reportArgumentType] - only connections are waited for
            report = self._receive(worker)
            if isinstance(report, Ready) and worker in self._strangers:
                self._strangers.remove(worker)
                self._send(worker, self._spec)
            else:
                reports.append((worker, report))
        return reports

    def dismiss(self, worker: int) -> None:
        """See `Crew.dismiss`."""
        if child := self._children.pop(worker, None):
            child.kill()
            child.connection.close()
            child.log.close()
            self._free_gpus.append(child.gpus)

    def close(self) -> None:
        """See `Crew.close`."""
        for child in self._children.values():
            child.connection.close()
        end_s = time.monotonic() + GRACE_S
        for worker, child in list(self._children.items()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, end_s - time.monotonic()))
            self.dismiss(worker)

    def _send(self, worker: int, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # a dead child is found by the next wait
            self._children[worker].connection.send_bytes(data)

    def _receive(self, worker: int) -> Report:
        child = self._children[worker]
        try:
            report = child.connection.recv()
        except (EOFError, ConnectionError):
            report = Lost(child.describe_end())
            self.dismiss(worker)
        else:
            if os.fstat(child.log.fileno()).st_size > MAX_LOG_BYTES:
                os.ftruncate(child.log.fileno(), 0)
        return report


def _pack(value: object, name: str) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(value))
    except (PicklingError, AttributeError, TypeError) as error:
        raise WorkError(f"{name} cannot be sent to another process: {error}") from error


def _share_gpus(gpus: Sequence[str], num_gpus: float, num_workers: int) -> list[str]:
    """What each slot may see: nothing, some GPUs, or its share of one."""
    if not num_gpus:
        return [""] * num_workers
    if num_gpus < 1:
        return [gpu for gpu in gpus for _ in range(int(1 / num_gpus))]
    size = int(num_gpus)
    return [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]


def _count_slots(resources: Resources, num_workers: int, num_shares: int) -> int:
    slots = min(
        num_shares, max(1, int(num_workers / resources.num_cpus)) if resources.num_cpus else num_workers
    )
    if resources.memory_bytes:
        slots = min(slots, count_memory_bytes() // resources.memory_bytes)
    if slots < 1:
        raise WorkError(
            f"a worker needs {resources.num_gpus:g} GPUs and {resources.memory_bytes} bytes of memory, "
            f"which is more than this machine of {count_memory_bytes()} bytes has"
        )
    return slots
