"""Programs in the background: one at a time, found by others, stopped for good, and never a stranger."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import daemon
from infra.daemon import Daemon

LIMIT_S = 20.0


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path, "sleeper", ("/bin/sleep", "600"))
    yield found
    found.stop()


def test_it_runs_once_and_is_stopped(sleeper: Daemon) -> None:
    assert sleeper.find() is None
    sleeper.start(is_tied=False)
    process = sleeper.find()
    assert process is not None
    sleeper.start(is_tied=False)
    assert sleeper.find() == process
    sleeper.stop()
    assert sleeper.find() is None
    assert not is_running(process)
    sleeper.stop()


def test_another_process_finds_and_stops_it(sleeper: Daemon) -> None:
    sleeper.start(is_tied=False)
    process = sleeper.find()
    assert process is not None
    code = (
        f"from pathlib import Path; from infra.daemon import Daemon;"
        f"it = Daemon(Path({str(sleeper.folder)!r}), 'sleeper', ('/bin/sleep', '600'));"
        "print(it.find()); it.stop()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(process)]
    assert sleeper.find() is None


def test_a_process_that_has_the_number_by_chance_is_left_alone(sleeper: Daemon) -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as stranger:
        (sleeper.folder / "sleeper.pid").write_text(f"{stranger.pid} 1")
        assert sleeper.find() is None
        sleeper.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_the_end_of_another_child_is_left_to_who_waits_for_it(sleeper: Daemon) -> None:
    with subprocess.Popen(["/bin/sh", "-c", "exit 7"]) as other:
        wait_for(lambda: not is_running(other.pid))
        (sleeper.folder / "sleeper.pid").write_text(f"{other.pid} 1")
        assert sleeper.find() is None
        assert other.wait() == 7


@pytest.mark.parametrize("text", ["", "12", "not a number", "-1 1", "0 1"])
def test_a_damaged_file_names_no_process(sleeper: Daemon, text: str) -> None:
    (sleeper.folder / "sleeper.pid").write_text(text)
    assert sleeper.find() is None


def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "STOP_LIMIT_S", 0.3)
    script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    deaf = Daemon(tmp_path, "deaf", ("/bin/sh", "-c", script))
    deaf.start(is_tied=False)
    wait_for(lambda: deaf.output.read_text() == "deaf\n")
    process = deaf.find()
    assert process is not None
    deaf.stop()
    assert not is_running(process)


def test_a_tied_one_ends_with_the_process_that_was_killed(sleeper: Daemon) -> None:
    code = (
        "import sys, time; from pathlib import Path; from infra.daemon import Daemon;"
        f"Daemon(Path({str(sleeper.folder)!r}), 'sleeper', ('/bin/sleep', '600')).start(is_tied=True);"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as owner:
        wait_for(lambda: sleeper.find() is not None)
        process = sleeper.find()
        wait_for(lambda: Path(f"/proc/{process}/cmdline").read_bytes() == b"/bin/sleep\x00600\x00")
        owner.kill()
    wait_for(lambda: sleeper.find() is None)
    assert process is not None
    assert not is_running(process)


def test_it_inherits_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    printer = Daemon(tmp_path, "printer", ("/usr/bin/env",))
    printer.start(is_tied=False)
    wait_for(lambda: printer.find() is None)
    assert "PATH=" in printer.output.read_text()
    assert "secret" not in printer.output.read_text()


def is_running(process: int) -> bool:
    """Whether it is there and more than what its parent has not yet taken note of."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
