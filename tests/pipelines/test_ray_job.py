"""`ray job submit --working-dir .` on a running head, with a token, gives what the serial engine gives."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from encodable_inputs import recipe_values, write_inputs
from watched_storage import read_objects

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
LIMIT_S = 120
STOPPING_S = 30


class Head(NamedTuple):
    """A running cluster of one machine."""

    dashboard: str
    environment: dict[str, str]


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """Everything on loopback, gone with the test. Ray's socket paths are short, so its folder has to be."""
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    environment.pop("PYTHONPATH", None)
    folder = Path(tempfile.mkdtemp(prefix="otj-"))
    port, dashboard_port = find_free_port(), find_free_port()
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "include-dashboard": "true",
        "temp-dir": folder,
        "num-cpus": 2,
    }
    command = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    log = tmp_path / "head.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=tmp_path
        )
    try:
        end = time.monotonic() + LIMIT_S
        while not answers(dashboard_port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield Head(f"http://127.0.0.1:{dashboard_port}", environment)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPPING_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_writes_what_the_serial_engine_writes(head: Head, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    write_inputs(tmp_path / "inputs")
    recipe.write_text(yaml.safe_dump(recipe_values(tmp_path / "inputs")))
    onetoken = Path(sys.executable).with_name("onetoken")
    serial, submitted = tmp_path / "serial", tmp_path / "submitted"
    alone = subprocess.run(
        [onetoken, "ingest", recipe, "--corpus", serial], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    work = [onetoken, "ingest", recipe, "--corpus", submitted, "--engine", "ray", "--ray-address", "auto"]
    submit = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *work]
    done = subprocess.run(
        submit, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = read_objects(serial)
    assert len(expected) >= 4
    assert read_objects(submitted) == expected

    stranger = head.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = subprocess.run(
        submit, cwd=REPOSITORY, env=stranger, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert refused.returncode != 0
    assert "AuthenticationError" in refused.stderr, refused.stderr
