"""Whoever joins a cluster misses lost machines soon, unless the environment says otherwise."""

import os
import sys
from types import ModuleType

import pytest

from infra.ray_cluster import ray_cluster
from schemas.errors import WorkError

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
