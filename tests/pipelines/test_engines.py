"""Every engine gives what the serial one gives; lost workers cost a repeat, not a result."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.ray_cluster import ray_cluster, source_digest
from pipelines.engine import Engine, SerialEngine, run_in_order
from pipelines.ray_engine import RayEngine
from schemas.errors import ConfigError, WorkerLostError, WorkError


@dataclass(frozen=True)
class Squares:
    """Squares its unit; units below 0 are refused."""

    def build(self) -> Callable[[int], int]:
        return self._square

    @staticmethod
    def _square(unit: int) -> int:
        if unit < 0:
            raise ConfigError(f"{unit} is negative")
        return unit * unit


@dataclass(frozen=True)
class DiesAt:
    """Kills its own process at unit 3, as often as told."""

    folder: Path
    times: int

    def build(self) -> Callable[[int], int]:
        return self._work

    def _work(self, unit: int) -> int:
        if unit == 3:
            grave = self.folder / str(len(list(self.folder.iterdir())))
            if len(list(self.folder.iterdir())) < self.times:
                grave.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return unit


@dataclass(frozen=True)
class Buggy:
    """Raises what nobody planned."""

    def build(self) -> Callable[[int], int]:
        return lambda unit: 1 // unit


@pytest.fixture(scope="module")
def ray() -> Iterator[Engine]:
    with ray_cluster(num_cpus=2):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield RayEngine()


def listening_addresses() -> set[str]:
    """Addresses that processes started by this one listen on, from /proc."""
    inodes: set[str] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or "ray" not in _command(process):
            continue
        for descriptor in _descriptors(process):
            if descriptor.startswith("socket:["):
                inodes.add(descriptor[8:-1])
    addresses: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.add(fields[1].split(":")[0])
    return addresses


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _descriptors(process: Path) -> list[str]:
    try:
        return [os.readlink(entry) for entry in (process / "fd").iterdir()]
    except OSError:
        return []


def test_serial_yields_results_in_order() -> None:
    assert run_in_order(SerialEngine(), Squares(), [3, 1, 2], "squares") == [9, 1, 4]


def test_progress_is_told_from_zero_to_all() -> None:
    told: list[tuple[str, int, int]] = []
    run_in_order(SerialEngine(), Squares(), [3, 1], "squares", progress=lambda *args: told.append(args))
    assert told == [("squares", 0, 2), ("squares", 1, 2), ("squares", 2, 2)]


@pytest.mark.ray
def test_ray_equals_serial(ray: Engine) -> None:
    units = list(range(20))
    assert run_in_order(ray, Squares(), units, "s") == run_in_order(SerialEngine(), Squares(), units, "s")


@pytest.mark.ray
def test_a_killed_worker_costs_a_repeat(ray: Engine, tmp_path: Path) -> None:
    assert run_in_order(ray, DiesAt(tmp_path, times=1), [1, 2, 3, 4, 5], "s") == [1, 2, 3, 4, 5]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.ray
def test_a_unit_that_kills_twice_is_named(ray: Engine, tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match=r"unit 2 \(3\) killed its worker 2 times"):
        run_in_order(ray, DiesAt(tmp_path, times=9), [1, 2, 3, 4, 5], "s")


@pytest.mark.ray
def test_our_errors_come_home_as_they_are(ray: Engine) -> None:
    with pytest.raises(ConfigError, match="-7 is negative"):
        run_in_order(ray, Squares(), [1, -7, 2], "s")


@pytest.mark.ray
def test_other_errors_name_the_unit(ray: Engine) -> None:
    with pytest.raises(WorkError, match=r"unit 1 \(0\) failed in a worker"):
        run_in_order(ray, Buggy(), [1, 0], "s")


@pytest.mark.ray
def test_a_local_cluster_listens_on_loopback_only(ray: Engine) -> None:
    addresses = listening_addresses()
    assert addresses
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert addresses <= loopback


def test_the_source_digest_is_stable() -> None:
    assert source_digest() == source_digest()
