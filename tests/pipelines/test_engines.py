"""Every engine gives what the serial one gives; lost workers cost a repeat, not a result."""

import os
from collections.abc import Iterator
from pathlib import Path

import engine_workers
import pytest
from engine_workers import Buggy, DiesAt, Environment, Flaky, Squares, Upper, Words

from infra.ray_cluster import ray_cluster, source_digest
from pipelines import engine as engine_module
from pipelines.engine import Engine, Resources, SerialEngine, run_as_finished, run_in_order
from pipelines.ray_engine import RayEngine
from schemas.errors import ConfigError, RejectCode, WorkerLostError, WorkError


@pytest.fixture(scope="module")
def ray() -> Iterator[Engine]:
    with ray_cluster(num_cpus=2):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(engine_workers)
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


@pytest.mark.slow
@pytest.mark.ray
def test_poisonous_items_are_rejected_and_nothing_else_is_lost(ray: Engine) -> None:
    units = [Words(("a", "kill", "b")), Words(("loop",)), Words(("c", "exit", "d")), Words(("e",))]
    crash = RejectCode.WORKER_CRASH.value
    found = run_in_order(ray, Upper(), units, "s", resources=Resources(unit_limit_s=10.0))
    assert found == [["A", crash, "B"], [crash], ["C", crash, "D"], ["E"]]


@pytest.mark.ray
def test_the_outside_may_fail_three_times(
    ray: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "FIRST_PAUSE_S", 0.01)
    assert run_in_order(ray, Flaky(tmp_path, 3), [1, 2, 3], "s") == [1, 2, 3]


@pytest.mark.ray
def test_actors_work_with_one_thread_each(ray: Engine) -> None:
    assert run_in_order(ray, Environment(), ["OMP_NUM_THREADS", "POLARS_MAX_THREADS"], "s") == ["1", "1"]


@pytest.mark.ray
def test_a_worker_that_needs_more_than_there_is_is_refused(ray: Engine) -> None:
    with pytest.raises(WorkError, match="a worker needs 3, 0 and 0"):
        run_in_order(ray, Squares(), [1], "s", resources=Resources(num_cpus=3.0))


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


def test_results_are_handed_on_as_they_are_finished() -> None:
    finished = run_as_finished(SerialEngine(), Squares(), [3, -1], "squares")
    assert next(finished) == (0, 9)
    with pytest.raises(ConfigError):
        next(finished)


def test_the_source_digest_is_stable() -> None:
    assert source_digest() == source_digest()
