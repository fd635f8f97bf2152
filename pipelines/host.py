"""The inside of a worker, whatever it lives in: builds the work once, does units, reports plain values.

An error of ours is a value on its way home, with its type, and so is what the operating system refused (a
full disk). Memory that ran out ends the process, for what is left of it cannot be trusted; the other side
sees a worker that died. Any other exception is a fault of the program and left to whoever runs the host.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pipelines.engine import Worker
from schemas.errors import PipelineError

OUT_OF_MEMORY_STATUS: Final = 70
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_IO_THREADS",
)
MEMORY_VARIABLES: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}
_MALLOC_OPTIONS: Final = {
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_TOP_PAD_": -2,
    "MALLOC_MMAP_THRESHOLD_": -3,
}
"""The same settings by the numbers that `mallopt` knows them by."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is alive and has built its work."""


@dataclass(frozen=True, slots=True)
class Done:
    """A unit is finished."""

    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A unit, or the building, let an error through that the command line knows."""

    error: PipelineError | OSError


@dataclass(frozen=True, slots=True)
class Broken:
    """Something was raised that nobody planned."""

    trace: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker is gone; said by who looks after it."""

    reason: str


Report = Ready | Done | Failed | Broken | Lost


class Host:
    """One worker."""

    def __init__(self, spec: Worker[Any, Any]) -> None:
        self._spec = spec
        self._work: Callable[[Any], Any] | None = None

    def build(self) -> Ready | Failed:
        """Prepare to work."""
        try:
            self._work = self._spec.build()
        except (PipelineError, OSError) as error:
            return _carry_home(error)
        except MemoryError:
            _leave_without_memory()
        return Ready()

    def run(self, unit: Any) -> Done | Failed:  # noqa: ANN401 - any unit
        """Do one unit; only after `build`."""
        assert self._work is not None, "build() comes first"  # noqa: S101 - a fault of the engine
        try:
            return Done(self._work(unit))
        except (PipelineError, OSError) as error:
            return _carry_home(error)
        except MemoryError:
            _leave_without_memory()


def _carry_home(error: PipelineError | OSError) -> Failed:
    """Errors of libraries that count as OSError may not survive the way; they are faults like others."""
    if not isinstance(error, PipelineError) and type(error).__module__ != "builtins":
        raise error
    return Failed(error)


def _leave_without_memory() -> NoReturn:
    os.write(2, b"out of memory\n")
    os._exit(OUT_OF_MEMORY_STATUS)


def process_settings(num_cpus: float) -> dict[str, str]:
    """Environment that a worker needs before libraries are imported: threads for its CPUs, memory kept.

    Left to itself the C library gives every large block back to the system when it is freed, and pays for
    each page of the next one again: a fifth of the time of workers that fill and drop buffers all day.
    """
    num_threads = str(max(1, int(num_cpus)))
    threads = dict.fromkeys(THREAD_VARIABLES, num_threads)
    return threads | MEMORY_VARIABLES | {"TOKENIZERS_PARALLELISM": "false"}


def keep_memory() -> None:
    """Make the memory settings in a process that runs already, where the C library has them."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for name, value in MEMORY_VARIABLES.items():
            set_option(_MALLOC_OPTIONS[name], int(value))
