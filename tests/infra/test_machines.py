"""Machines on one host: they hear each other through the switch alone, and nothing of them is left behind."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import machines as machines_module
from infra.daemon import Daemon, program_path
from infra.machines import MAX_FOLDER_BYTES, Machines, main
from infra.virtual_network import Switch, address_of, listens, wait_for_network
from schemas.errors import ConfigError, NotFoundError, WorkError

LIMIT_S = 20.0
PORT = 7000
SEND_LIMIT_S = 2
LISTEN = f"import socket, time; s = socket.create_server(('', {PORT})); time.sleep(600)"
needs_root = pytest.mark.skipif(machines_module.missing() is not None, reason=f"{machines_module.missing()}")


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[tuple[Switch, dict[int, int]]]:
    """A switch and two processes with cables to it; the second one listens."""
    switch = Switch(tmp_path)
    unshare = (program_path("unshare"), "--net")
    ends = {
        1: Daemon(tmp_path, "first", (*unshare, "sleep", "600")),
        2: Daemon(tmp_path, "second", (*unshare, sys.executable, "-c", LISTEN)),
    }
    deadline = time.monotonic() + LIMIT_S
    try:
        switch.start(deadline, is_temporary=True)
        processes: dict[int, int] = {}
        for number, daemon in ends.items():
            daemon.start(is_tied=True)
            processes[number] = wait_for_network(daemon, deadline)
            switch.plug(number, processes[number])
        wait_until(lambda: listens(processes[2], PORT))
        yield switch, processes
    finally:
        for daemon in (*ends.values(), switch.daemon):
            daemon.kill()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def reaches(process: int, number: int) -> bool:
    """Whether a process gets a connection to the end of a cable."""
    connect = f"import socket; socket.create_connection(({address_of(number)!r}, {PORT}), {SEND_LIMIT_S})"
    into = (program_path("nsenter"), "--target", str(process), "--net")
    done = subprocess.run([*into, sys.executable, "-c", connect], capture_output=True, check=False)
    return done.returncode == 0


def describe_host_network() -> list[str]:
    """Cards, routes and named namespaces of this process' own network."""
    cards = Path("/proc/net/dev").read_text().splitlines()[2:]
    named = Path("/run/netns")
    return [
        *sorted(line.partition(":")[0] for line in cards),
        Path("/proc/net/route").read_text(),
        Path("/proc/self/mounts").read_text(),
        *(path.name for path in (named.iterdir() if named.exists() else ())),
    ]


@needs_root
def test_a_cable_is_cut_and_mended(plugged: tuple[Switch, dict[int, int]]) -> None:
    switch, processes = plugged
    assert reaches(processes[1], 2)
    switch.cut(2)
    assert not reaches(processes[1], 2)
    switch.mend(2)
    wait_until(lambda: reaches(processes[1], 2))


@needs_root
def test_the_network_of_the_host_stays_as_it_is(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = describe_host_network()
    request.getfixturevalue("plugged")
    assert describe_host_network() == before


@needs_root
def test_a_network_ends_with_its_processes(plugged: tuple[Switch, dict[int, int]], tmp_path: Path) -> None:
    switch, processes = plugged
    Daemon(tmp_path, "second", ()).kill()
    wait_until(lambda: not Path(f"/proc/{processes[2]}").exists())
    assert not reaches(processes[1], 2)
    switch.daemon.kill()
    with pytest.raises(NotFoundError, match="no machines run in"):
        switch.cut(1)


@needs_root
def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"at most {MAX_FOLDER_BYTES} bytes"):
        Machines(tmp_path / "a-folder-with-quite-a-long-name-for-sockets").up()
    with pytest.raises(NotFoundError, match=r"machine 0 of .* does not run"):
        Machines(tmp_path).on_head("true")
    idle = Daemon(tmp_path, "idle", ("/bin/sleep", "600"))
    idle.start(is_tied=True)
    with pytest.raises(WorkError, match="idle does not start"):
        wait_for_network(idle, time.monotonic() + 0.2)
    idle.kill()
    assert idle.find() is None


def test_who_may_not_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines_module, "missing", lambda: "needs root")
    with pytest.raises(ConfigError, match="needs root"):
        Machines(tmp_path).up()


def test_the_command_line_tells_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path), "true"]) == 1
    assert "does not run" in capsys.readouterr().err
    assert main(["down", str(tmp_path)]) == 0
