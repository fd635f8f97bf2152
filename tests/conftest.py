"""Shared fixtures: quiet libraries, outside material, and nothing from the network."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ["s3_lane"]
# How long an example takes says how busy the machine is, and nothing else.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread: the machines are small, and sums must not depend on how many cores are free."""
    torch.set_num_threads(1)


def _outside_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / default)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; name one with {variable}")
    return folder


@pytest.fixture(scope="session")
def media_folder() -> Path:
    """Real pictures, clips and annotation files, hostile ones among them."""
    return _outside_folder("ONETOKEN_MEDIA", "media")
