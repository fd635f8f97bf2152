"""The development server: started once, private, whole again after kill -9, and gone when it is stopped."""

import io
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import ceph, s3_server
from infra.s3_server import Endpoint
from infra.storage import open_storage
from schemas.errors import ConfigError, NotFoundError

needs_ceph = pytest.mark.skipif(bool(ceph.missing_programs()), reason="Ceph is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a server keeps its data on disk."""
    made = tmp_path_factory.mktemp("server") / "s3"
    yield made
    s3_server.stop(made)


@pytest.mark.slow
@needs_ceph
def test_data_outlive_stop_and_kill(
    folder: Path, s3_environment: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("start", str(folder), "--bucket", "kept") == 0
    told = capfd.readouterr().out
    endpoint = s3_server.find(folder)
    assert endpoint is not None
    assert told.startswith(f"{endpoint.url} has bucket kept")
    assert endpoint.secret not in told
    use(endpoint, monkeypatch)
    storage = open_storage("s3://kept/corpus")
    storage.put("a", io.BytesIO(b"bytes"))

    running = processes(folder)
    assert len(running) == 3
    assert command("start", str(folder)) == command("status", str(folder)) == 0
    assert s3_server.start(folder) == endpoint
    assert processes(folder) == running

    for process in running:
        os.kill(process, signal.SIGKILL)
    assert s3_server.start(folder) == endpoint
    assert not set(processes(folder)) & set(running)
    assert storage.read_bytes("a") == b"bytes"
    assert storage.create("a", b"else") is False

    assert command("stop", str(folder)) == command("stop", str(folder)) == 0
    assert processes(folder) == []
    assert command("status", str(folder)) == 1
    assert s3_server.start(folder) == endpoint
    assert open_storage("s3://kept/corpus").read_bytes("a") == b"bytes"


@needs_ceph
def test_its_secrets_are_its_own(folder: Path, tmp_path: Path) -> None:
    endpoint = s3_server.start(folder)
    assert len(endpoint.secret) >= 20
    assert endpoint.secret not in repr(endpoint)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "environment").stat().st_mode) == 0o600
    lines = (folder / "environment").read_text().splitlines()
    assert dict(line.split("=") for line in lines) == endpoint.environment
    holders = [
        path
        for path in folder.rglob("*")
        if path.name != "environment" and is_text_with(path, endpoint.secret)
    ]
    assert holders == []
    for process in processes(folder):
        assert endpoint.secret.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        assert b"AWS_" not in Path(f"/proc/{process}/environ").read_bytes()


@needs_ceph
def test_it_listens_on_loopback_alone(folder: Path) -> None:
    s3_server.start(folder)
    addresses: list[str] = []
    for process in processes(folder):
        sockets = {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir() if path.exists()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    addresses.append(fields[1].partition(":")[0])
    assert len(addresses) >= 3
    assert set(addresses) == {"0100007F"}


@needs_ceph
def test_a_known_server_keeps_its_port(folder: Path) -> None:
    s3_server.start(folder)
    with pytest.raises(ConfigError, match=r"has port .*name that one, or none"):
        s3_server.start(folder, port=1)


@needs_ceph
def test_a_port_that_is_taken_is_named(folder: Path, tmp_path: Path) -> None:
    port = int(s3_server.start(folder).url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
        s3_server.start(tmp_path / "other", port=port)


def test_a_folder_of_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "osd").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        s3_server.start(tmp_path)
    s3_server.stop(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["osd"]
    assert command("start", str(tmp_path)) == 2


def test_nothing_is_installed_without_the_right_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceph, "missing_programs", lambda: ["radosgw"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotFoundError, match=r"radosgw.*takes apt-get and root"):
        s3_server.install()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ceph.missing_programs() == list(ceph.PROGRAMS)
    with pytest.raises(
        NotFoundError, match=r"ceph-mon is not installed; run `python -m infra\.s3_server install`"
    ):
        s3_server.start(tmp_path / "s3")


def command(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "infra.s3_server", *words], check=False).returncode


def use(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in endpoint.environment.items():
        monkeypatch.setenv(name, value)


def processes(folder: Path) -> list[int]:
    """All that run with the configuration of this folder, whoever knows of them."""
    configuration = os.fsencode(folder / "ceph.conf")
    found: list[int] = []
    for path in Path("/proc").iterdir():
        if re.fullmatch("[0-9]+", path.name):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if configuration in words:
                found.append(int(path.name))
    return sorted(found)


def is_text_with(path: Path, secret: str) -> bool:
    small = path.is_file() and path.stat().st_size < 1 << 20
    return small and secret.encode() in path.read_bytes()
