"""Whoever joins a cluster misses lost machines soon and silent ones never, unless told otherwise."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from infra import machines as machines_module
from infra.machines import Machines
from infra.ray_cluster import ray_cluster
from schemas.errors import MismatchError, NotFoundError, WorkError

TIME, TIMEOUT = "RAY_grpc_client_keepalive_time_ms", "RAY_grpc_client_keepalive_timeout_ms"

SILENCE_S = 150
"""The fourth ping without an answer in between is one too many, so those each 15 s or 30 s are."""
NAP = """\
import sys, time
from infra.ray_cluster import ray_cluster
with ray_cluster(sys.argv[1]):
    import ray
    class Sleeper:
        def sleep(self, seconds):
            time.sleep(seconds)
            return f"slept {seconds}"
    sleeper = ray.remote(num_cpus=1)(Sleeper).remote()
    print(ray.get(sleeper.sleep.remote(int(sys.argv[2]))))
"""


class FakeRay(ModuleType):
    """Remembers the environment in which it was connected."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.seen: dict[str, str] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: object) -> None:
        self.seen = dict(os.environ)

    def shutdown(self) -> None:
        pass


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv(TIME, raising=False)
    monkeypatch.delenv(TIMEOUT, raising=False)
    return fake


def test_what_a_lost_machine_was_sent_is_given_up_soon(ray: FakeRay) -> None:
    with ray_cluster("10.0.0.1:6379"):
        pass
    assert int(ray.seen[TIMEOUT]) <= 15_000
    assert TIME not in ray.seen
    assert TIMEOUT not in os.environ


def test_settings_of_the_environment_stay(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "1234")
    with ray_cluster("10.0.0.1:6379"):
        pass
    assert ray.seen[TIMEOUT] == os.environ[TIMEOUT] == "1234"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(machines_module.missing() is not None, reason=f"{machines_module.missing()}")
def test_a_worker_that_says_nothing_for_long_is_not_lost() -> None:
    """On another machine: there a worker hangs up on whoever asks too often whether it is there."""
    folder = Path(tempfile.mkdtemp(prefix="otm-"))
    machines = Machines(folder)
    try:
        machines.up(1, is_temporary=True)
        command = machines.on_head(sys.executable, "-c", NAP, machines.address, str(SILENCE_S))
        napped = subprocess.run(command, capture_output=True, check=False, text=True)
    finally:
        machines.down()
        shutil.rmtree(folder, ignore_errors=True)
    assert (napped.returncode, napped.stdout) == (0, f"slept {SILENCE_S}\n"), napped.stderr


def test_an_exit_is_told_as_a_signal_only_where_it_was_one(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own handler leaves with the signal's number."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        for code in (1, int(signal.SIGTERM)):

            def leave(code: int = code, **_: object) -> None:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                sys.exit(code)

            monkeypatch.setattr(ray, "init", leave)
            with pytest.raises(SystemExit) as left, ray_cluster("10.0.0.1:6379"):
                pass
            assert left.value.code == code
            assert told == [signal.SIGTERM] * (code != 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_that_does_not_start_is_told(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**_: object) -> None:
        raise Exception("the node timed out")  # noqa: TRY002 - what Ray raises

    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(WorkError, match=r"the node timed out; .* --engine processes"), ray_cluster():
        pytest.fail("there is no cluster to work on")


@pytest.mark.parametrize("versions", [{"ray_version": "2.1.0"}, {"python_version": "3.9.1"}])
def test_a_cluster_of_other_versions_is_told(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]
) -> None:
    """In the words of Ray's own check."""
    own = {"ray_version": version("ray"), "python_version": platform.python_version()}
    code = "import sys, ray._private.utils as utils; utils.check_version_info(eval(sys.argv[1]), 'here')"
    checked = subprocess.run(
        [sys.executable, "-c", code, repr(own | versions)], capture_output=True, check=False, text=True
    )
    (_, said) = checked.stderr.split("RuntimeError: ")

    def refuse(**_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(ray, "init", refuse)
    (found,) = versions.values()
    complaint = rf"{found}.*install the same Ray and Python"
    with pytest.raises(MismatchError, match=complaint), ray_cluster("10.0.0.1:6379"):
        pytest.fail("there is no cluster to work on")


def test_a_cluster_that_is_not_there_is_told(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(ray, "init", refuse)
    complaint = r"no Ray cluster answers at 10\.0\.0\.1:6379: nobody listens"
    with pytest.raises(NotFoundError, match=complaint), ray_cluster("10.0.0.1:6379"):
        pytest.fail("there is no cluster to work on")
