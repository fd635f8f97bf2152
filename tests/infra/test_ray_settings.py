"""Whoever joins a cluster misses lost machines soon, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

from infra.ray_cluster import ray_cluster
from schemas.errors import MismatchError, NotFoundError, WorkError

TIME, TIMEOUT = "RAY_grpc_client_keepalive_time_ms", "RAY_grpc_client_keepalive_timeout_ms"


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


def test_silent_machines_are_missed_within_half_a_minute(ray: FakeRay) -> None:
    with ray_cluster("10.0.0.1:6379"):
        pass
    assert int(ray.seen[TIME]) + int(ray.seen[TIMEOUT]) <= 30_000
    assert TIME not in os.environ


def test_settings_of_the_environment_stay(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIME, "1234")
    with ray_cluster("10.0.0.1:6379"):
        pass
    assert ray.seen[TIME] == os.environ[TIME] == "1234"
    assert ray.seen[TIMEOUT] == "15000"


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
