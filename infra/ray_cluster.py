"""Ray: started on this machine, or joined where it runs; and the check that workers run this code.

A cluster started here is private: token authentication with a fresh token, every socket on loopback, no
dashboard, no usage report, nothing written to the home folder. Ray keeps its socket paths in 107 bytes, so
its folder is a short one of its own, under the system's temporary folder or, where the path of that is long,
under /tmp; it goes when the cluster goes. A process that was killed leaves its folder behind; the next one
that starts a cluster removes it.

The package names of this project are generic (Ray ships the working directory whole), so a worker could
import somebody else's `schemas`. `source_digest` covers every module of the five packages as the process
resolved them: driver and worker must agree on it before any work is handed out.
"""

import contextlib
import fcntl
import hashlib
import importlib
import importlib.util
import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from schemas.errors import ConfigError, MismatchError, NotFoundError, WorkError

# Ray reads its token once per process, so a process has one for all the clusters that it starts.
_TOKEN = secrets.token_hex(32)

PACKAGES = ("schemas", "operators", "infra", "pipelines", "jobs")


FOLDER_PREFIX: Final = "ot-"
OWNER_FILE: Final = "owner"
"""Locked for as long as the process lives that made the folder."""
MIN_ORPHAN_AGE_S: Final = 3600.0
"""Of a folder that has no owner file yet."""
MAX_ROOT_BYTES: Final = 30
"""Of a path below which Ray's sockets fit, `ot-XXXXXXXX/session_DATE_TIME_PID/sockets/plasma_store`."""
_OTHER_VERSIONS: Final = "Version mismatch"
"""How Ray begins what it says of a cluster of another Ray or Python."""
SHORT_ROOT: Final = Path("/tmp")  # noqa: S108 - the folder that is made there is private


@contextlib.contextmanager
def ray_cluster(address: str | None = None, num_cpus: int | None = None) -> Generator[None]:
    """Join the cluster at an address, or start one on this machine for as long as the block runs.

    Raises:
        NotFoundError: when nothing answers at the address.
        MismatchError: when the cluster there runs another Ray or Python.
        ConfigError: when this process is connected to Ray already.
        WorkError: when Ray does not start here.
    """
    with contextlib.nullcontext() if address else temporary_folder() as folder:
        settings = _local_environment(folder) if folder else _quiet_and_watchful()
        before = dict(os.environ)
        os.environ.update(settings)
        ray: Any = importlib.import_module("ray")
        if ray.is_initialized():
            raise ConfigError("this process is connected to Ray already; leave that block first")
        try:
            with _own_signals():
                if folder:
                    _start(ray, folder, num_cpus)
                else:
                    _join(ray, str(address))
            yield
        finally:
            ray.shutdown()
            _restore_environment(before, settings)


@contextlib.contextmanager
def temporary_folder() -> Generator[Path]:
    """A folder of this process; those of processes that are gone are removed first."""
    root = Path(tempfile.gettempdir())
    if len(os.fsencode(root)) > MAX_ROOT_BYTES:
        root = SHORT_ROOT
    sweep_folders(root)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=root))
    try:
        with (folder / OWNER_FILE).open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_folders(root: Path) -> None:
    """Remove the folders, below a temporary folder, whose owners are gone."""
    for folder in root.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _is_orphan(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_orphan(folder: Path) -> bool:
    try:
        with (folder / OWNER_FILE).open("r+") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > MIN_ORPHAN_AGE_S
    return True


@contextlib.contextmanager
def _own_signals() -> Generator[None]:
    """Ray sets a handler for SIGTERM when it connects, and keeps it; ours comes back, and is told."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as left:
        _set_handler(before)
        if left.code == signal.SIGTERM:  # so ends Ray's handler
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        _set_handler(before)


def _set_handler(handler: Any) -> None:  # noqa: ANN401 - what signal.getsignal gives
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


_QUIET_AND_WATCHFUL: Final = {
    # What Ray has to say about lost workers goes to stdout, among our results; our errors tell it.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # What a machine that is cut off was sent last is given up after 15 s instead of two minutes. How often
    # silent ones are asked stays as it is, each five minutes: whoever is asked more often hangs up.
    "RAY_grpc_client_keepalive_timeout_ms": "15000",
}


def _quiet_and_watchful() -> dict[str, str]:
    """Settings of every connection; what the environment says already counts more."""
    return {name: os.environ.get(name, value) for name, value in _QUIET_AND_WATCHFUL.items()}


def _local_environment(folder: Path) -> dict[str, str]:
    return {
        **_quiet_and_watchful(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        # The only setting that makes every server of a single machine listen on 127.0.0.1 alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": str(folder),
    }


def _restore_environment(before: Mapping[str, str], changed: Iterable[str]) -> None:
    """Undo what starting a cluster set, so that a cluster joined later does not meet a token of this one."""
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)


def _start(ray: Any, folder: Path, num_cpus: int | None) -> None:  # noqa: ANN401 - as below
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            _temp_dir=str(folder),
        )
    except Exception as error:  # a plain one when its node is not there within 30 s
        advice = "try again when the machine is less busy, or use --engine processes"
        raise WorkError(f"Ray does not start on this machine: {error}; {advice}") from error


def _join(ray: Any, address: str) -> None:  # noqa: ANN401 - Ray is loaded only when it is used
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        if told.startswith(_OTHER_VERSIONS):
            raise MismatchError(
                f"the cluster at {address} runs other versions than this process: {told}; install the same "
                "Ray and Python on both"
            ) from error
        raise NotFoundError(f"no Ray cluster answers at {address}: {error}") from error


def source_digest() -> str:
    """Digest of every module of this project's packages, as this process would import them.

    Raises:
        MismatchError: when a package does not lie beside the others.
    """
    digest = hashlib.sha256()
    root = _folder_of("infra").parent
    for name in PACKAGES:
        folder = _folder_of(name)
        if folder.parent != root:
            raise MismatchError(
                f"package {name!r} resolves to {folder}, not to {root / name}: another package of that name "
                "is installed; remove it or start from this project's folder"
            )
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MismatchError(
            f"package {package!r} is not importable here; install this project on every machine"
        )
    return Path(spec.origin).parent


def check_source(expected: str) -> None:
    """Refuse to work with other code than the driver's.

    Raises:
        MismatchError: when this process runs other code.
    """
    found = source_digest()
    if found != expected:
        raise MismatchError(
            f"this worker runs other code ({found[:12]}) than the driver ({expected[:12]}); "
            "install the same release on every machine or ship it with `ray job submit --working-dir .`"
        )
