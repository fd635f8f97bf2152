"""A real S3 server on this machine, for development and tests: Ceph's gateway.

    python -m infra.s3_server install                  the Debian packages, as root
    python -m infra.s3_server start FOLDER [--port N]  what does not run yet; tells how to reach it
    python -m infra.s3_server status FOLDER            exit status 0 when it answers
    python -m infra.s3_server stop FOLDER              every process; the data stay

It listens on 127.0.0.1 alone, on a port that it finds or is told. Its folder is private and holds all of it:
data, logs, and `environment`, the lines that S3 programs read (`set -a; . FOLDER/environment`). The
credentials are random and stand nowhere else. Every command may be given twice, and several at once.

Not for corpora that matter: one copy on one disk, one user, no encryption.
"""

import argparse
import contextlib
import fcntl
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra import ceph
from schemas.errors import ConfigError, NotFoundError, PipelineError, StorageUnavailableError

START_LIMIT_S: Final = 120.0
DOWNLOAD_LIMIT_S: Final = 120.0
ANSWER_LIMIT_S: Final = 2.0
PAUSE_S: Final = 0.05
NUM_STARTS: Final = 3
_ENVIRONMENT: Final = "environment"
_LOCK: Final = "lock"
_ABOUT: Final = "A real S3 server on this machine, for development and tests."
_VERBS: Final = {
    "start": "start what does not run yet",
    "status": "exit status 0 when it answers",
    "stop": "end every process; the data stay",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is, and who may use it."""

    url: str
    key_id: str
    secret: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that S3 programs read."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def install() -> None:
    """Install Ceph where it is missing.

    Raises:
        NotFoundError: when the packages cannot be installed here.
    """
    if not ceph.missing_programs():
        return
    names = ", ".join(ceph.PACKAGES)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NotFoundError(f"installing {names} takes apt-get and root")
    wanted = ("install", "--yes", "--no-install-recommends", *ceph.PACKAGES)
    deadline = time.monotonic() + DOWNLOAD_LIMIT_S  # installing is never broken off
    fetched = _apt_get(deadline, *wanted, "--download-only") or (
        _apt_get(deadline, "update")  # a new machine has no lists yet
        and _apt_get(deadline, *wanted, "--download-only")
    )
    if fetched:
        _apt_get(None, *wanted)
    if missing := ceph.missing_programs():
        raise NotFoundError(f"apt-get could not install {names}: {', '.join(missing)} are still missing")


def start(folder: Path, *, port: int | None = None, is_temporary: bool = False) -> Endpoint:
    """Start what does not run yet, and wait until the server answers.

    Args:
        folder: holds all of the server; made if missing.
        port: of a new server; None finds a free one. One that was started before keeps its port.
        is_temporary: a new server that keeps its data in memory and is killed when this process ends.

    Raises:
        NotFoundError: when Ceph is not installed.
        ConfigError: when the folder holds something else, or the port is taken.
        StorageUnavailableError: when it does not answer in time.
    """
    with _locked(folder):
        deadline = time.monotonic() + START_LIMIT_S
        known = None if is_temporary else find(folder)
        chosen = _choose_port(folder, known, port)
        if known is None:
            known = _make(folder, chosen, deadline, is_temporary)
        for _ in range(NUM_STARTS):  # one that was killed just before may look alive at first
            for daemon in ceph.daemons(folder):
                daemon.start(is_temporary)
            if _is_up(folder, known, deadline):
                return known
        raise StorageUnavailableError(f"the S3 server does not answer; {folder}/log may say why")


def stop(folder: Path) -> None:
    """End every process of the server; the data stay."""
    if (folder / _LOCK).exists():
        with _locked(folder):
            _stop(folder)


def find(folder: Path) -> Endpoint | None:
    """The server of a folder, whether it runs or not."""
    try:
        lines = (folder / _ENVIRONMENT).read_text().splitlines()
    except FileNotFoundError:
        return None
    values = dict(line.split("=", 1) for line in lines)
    return Endpoint(
        values["AWS_ENDPOINT_URL_S3"], values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]
    )


def answers(endpoint: Endpoint) -> bool:
    """Whether the gateway takes requests."""
    connection = http.client.HTTPConnection("127.0.0.1", _port_of(endpoint), timeout=ANSWER_LIMIT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """One command at a time in a folder, which is a private one of a server."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_file = folder / _LOCK
    if not lock_file.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something else than an S3 server; name a new folder")
    folder.chmod(0o700)
    with lock_file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _choose_port(folder: Path, known: Endpoint | None, port: int | None) -> int:
    if known is not None and port not in (None, _port_of(known)):
        raise ConfigError(f"the server in {folder} has port {_port_of(known)}; name that one, or none")
    chosen = _port_of(known) if known else port or ceph.free_port()
    if ceph.daemons(folder)[-1].find() is None and not ceph.is_free(chosen):
        raise ConfigError(f"port {chosen} of 127.0.0.1 is taken; stop who listens there")
    return chosen


def _make(folder: Path, port: int, deadline: float, is_temporary: bool) -> Endpoint:
    """A new cluster in place of what there is, with a user; monitor and store run."""
    monitor, store, _ = ceph.daemons(folder)
    _stop(folder)
    (folder / _ENVIRONMENT).unlink(missing_ok=True)
    ceph.write_empty(folder, port, ceph.MEMORY if is_temporary else ceph.DISK)
    monitor.start(is_temporary)
    ceph.add_store(folder, deadline)
    store.start(is_temporary)
    endpoint = Endpoint(f"http://127.0.0.1:{port}", *ceph.add_user(folder, deadline))
    _write(folder, endpoint)
    return endpoint


def _is_up(folder: Path, endpoint: Endpoint, deadline: float) -> bool:
    """Wait until the server answers, or one of its processes is gone, or it takes too long."""
    while all(daemon.find() for daemon in ceph.daemons(folder)) and time.monotonic() < deadline:
        if answers(endpoint):
            return True
        time.sleep(PAUSE_S)
    return False


def _stop(folder: Path) -> None:
    for daemon in reversed(ceph.daemons(folder)):
        daemon.stop()


def _write(folder: Path, endpoint: Endpoint) -> None:
    """Whole or not at all: a folder with this file is one of a server that was finished."""
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:  # mode 0600
        file.writelines(f"{name}={value}\n" for name, value in endpoint.environment.items())
    Path(file.name).replace(folder / _ENVIRONMENT)


def _port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2])


def _apt_get(deadline: float | None, *words: str) -> bool:
    quiet = ("-q", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20")
    try:
        done = subprocess.run(  # noqa: S603
            ["apt-get", *quiet, *words],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=max(1.0, deadline - time.monotonic()) if deadline else None,
            check=False,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},  # starts no service
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(words: list[str] | None = None) -> int:
    """The command line: the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.s3_server", description=_ABOUT)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("install", help="the Debian packages of Ceph; takes root")
    for verb, meaning in _VERBS.items():
        verbs.add_parser(verb, help=meaning).add_argument("folder", type=Path)
    verbs.choices["start"].add_argument("--port", type=int, help="of a new server; a free one otherwise")
    verbs.choices["start"].add_argument("--bucket", default="corpora", help="made where it is missing")
    typed = parser.parse_args(words)
    try:
        if typed.verb == "install":
            install()
        elif typed.verb == "start":
            _start_with_bucket(typed.folder.resolve(), typed.port, typed.bucket)
        elif typed.verb == "stop":
            stop(typed.folder.resolve())
        else:
            return _tell_status(typed.folder.resolve())
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def _start_with_bucket(folder: Path, port: int | None, bucket: str) -> None:
    from infra.s3_client import connect  # the other verbs need no S3 library

    endpoint = start(folder, port=port)
    os.environ.update(endpoint.environment)
    connect().call_s3("create_bucket", Bucket=bucket)
    sys.stdout.write(f"{endpoint.url} has bucket {bucket}; to use it: set -a; . {folder / _ENVIRONMENT}\n")


def _tell_status(folder: Path) -> int:
    endpoint = find(folder)
    if endpoint is None or not answers(endpoint):
        sys.stdout.write("no answer\n")
        return 1
    sys.stdout.write(f"{endpoint.url} answers\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
