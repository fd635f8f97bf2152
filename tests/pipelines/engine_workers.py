"""Workers for the tests of engines; a module of its own, so that child processes import it without pytest."""

import ctypes
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, RejectCode, SampleError, StorageUnavailableError


@dataclass(frozen=True)
class Squares:
    """Squares its unit; units below 0 are refused."""

    pause_s: float = 0.0

    def build(self) -> Callable[[int], int]:
        return self._square

    def _square(self, unit: int) -> int:
        if unit < 0:
            raise ConfigError(f"{unit} is negative")
        if self.pause_s:
            time.sleep(random.Random(unit).uniform(0, 2 * self.pause_s))
        return unit * unit


@dataclass(frozen=True)
class SignedSquares:
    """Squares, and the process that made each."""

    pause_s: float

    def build(self) -> Callable[[int], tuple[int, int]]:
        square = Squares(self.pause_s).build()
        return lambda unit: (os.getpid(), square(unit))


@dataclass(frozen=True)
class DiesAt:
    """Kills its own process at unit 3, as often as told."""

    folder: Path
    times: int

    def build(self) -> Callable[[int], int]:
        return self._work

    def _work(self, unit: int) -> int:
        if unit == 3:
            num_graves = len(list(self.folder.iterdir()))
            if num_graves < self.times:
                (self.folder / str(num_graves)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return unit


@dataclass(frozen=True)
class Buggy:
    """Raises what nobody planned."""

    def build(self) -> Callable[[int], int]:
        return lambda unit: 1 // unit


@dataclass(frozen=True)
class Raises:
    """Raises an error at every unit."""

    error: Exception

    def build(self) -> Callable[[int], int]:
        return self._work

    def _work(self, unit: int) -> int:
        raise self.error


@dataclass(frozen=True)
class Flaky:
    """The outside fails a number of times for every unit."""

    folder: Path
    times: int

    def build(self) -> Callable[[int], int]:
        return self._work

    def _work(self, unit: int) -> int:
        for number in range(self.times):
            path = self.folder / f"{unit}-{number}"
            if not path.exists():
                path.touch()
                raise StorageUnavailableError(f"unit {unit} finds nobody, time {number + 1}")
        return unit


@dataclass(frozen=True)
class Environment:
    """Tells what a worker sees."""

    def build(self) -> Callable[[str], str | None]:
        return lambda unit: str(os.getpid()) if unit == "pid" else os.environ.get(unit)


@dataclass(frozen=True)
class Unstartable:
    """Never gets ready: by an exit with a word on stderr, or by waiting."""

    waits: bool = False

    def build(self) -> Callable[[int], int]:
        if self.waits:
            time.sleep(600)
        sys.stderr.write("the library libmissing.so is not there\n")
        sys.stderr.flush()
        os._exit(3)


def end_by_exit() -> None:
    os._exit(0)


def end_by_segfault() -> None:
    ctypes.string_at(0)


def end_by_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    blocks: list[bytes] = []
    while True:
        blocks.append(bytes(64 << 20))


def loop_for_ever() -> None:
    while True:
        pass


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


POISONS: dict[str, Callable[[], None]] = {
    "exit": end_by_exit,
    "segfault": end_by_segfault,
    "memory": end_by_memory,
    "loop": loop_for_ever,
    "kill": kill_itself,
}


@dataclass(frozen=True)
class Words:
    """Some words, and which of them are not to be touched."""

    words: tuple[str, ...]
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upper:
    """Upper case of words; some words kill the process. Units are divided word by word."""

    def build(self) -> Callable[[Words], list[str]]:
        return self._work

    def _work(self, unit: Words) -> list[str]:
        return [self._shout(word) if word not in unit.rejected else self._reject(word) for word in unit.words]

    def _shout(self, word: str) -> str:
        if word in POISONS:
            POISONS[word]()
        return word.upper()

    def _reject(self, word: str) -> str:
        return SampleError(RejectCode.WORKER_CRASH, word).code.value

    def divide(self, unit: Words) -> Sequence[Words]:
        return [Words((word,)) for word in unit.words]

    def exclude(self, unit: Words, killers: Sequence[Words]) -> Words:
        return Words(unit.words, tuple(word for killer in killers for word in killer.words))


@dataclass(frozen=True)
class Undivided:
    """The same, not divisible."""

    def build(self) -> Callable[[Words], Any]:
        return Upper().build()
