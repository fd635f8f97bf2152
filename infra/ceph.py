"""A Ceph cluster of one: a monitor, one object store, one S3 gateway, all on 127.0.0.1.

Enough for the real protocol (`radosgw` answers, with its own view of conditional writes and uploads in
parts), and nothing else: one copy of everything, no manager, no dashboard. Everything lies in one private
folder, which `infra/s3_server.py` starts and stops as a whole.

The store keeps its data in a sparse file (`DISK`: what was acknowledged outlives `kill -9` of all three), or
in memory (`MEMORY`: on any file system, also one without direct writes; all is gone when it stops).
Costs: 270 MB installed, about 150 MB of memory when idle, 10 s for the first start on disk.
"""

import json
import random
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Final, cast

from infra.daemon import Daemon, program_environment
from schemas.errors import ConfigError, NotFoundError, StorageUnavailableError

PACKAGES: Final = ("radosgw", "ceph-mon", "ceph-osd")
PROGRAMS: Final = (
    *("ceph", "ceph-authtool", "ceph-mon", "ceph-osd"),
    *("monmaptool", "radosgw", "radosgw-admin", "setpriv"),
)
DISK: Final = "bluestore"
MEMORY: Final = "memstore"
_STORE_BYTES: Final = {DISK: 20 << 30, MEMORY: 4 << 30}
_PORTS: Final = range(20_000, 32_000)
"""Below those that the system gives to connections."""
_OWN: Final = ("mon", "osd", "gateway", "log", "crash", "ceph.conf", "keyring", "monmap")

_CONFIGURATION: Final = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor_port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
auth allow insecure global id reclaim = false
keyring = {folder}/keyring
run dir = {folder}
admin socket =
crash dir = {folder}/crash
log file = {folder}/log/$name.log
debug ms = 0/0

# one copy on one disk, in few placement groups
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000

[mon]
mon data = {folder}/mon
mon cluster log file = {folder}/log/cluster.log
# works on until the disk is as good as full
mon data avail warn = 2
mon data avail crit = 1
# nobody else has a say: agree at once
paxos propose interval = 0.05
paxos min wait = 0.01
debug mon = 0/0
debug paxos = 0/0
debug rocksdb = 0/0

[osd]
osd data = {folder}/osd
osd objectstore = {store}
osd crush initial weight = 1
osd class update on start = false
osd memory target = 1073741824
bluestore block size = {store_bytes}
bluestore block create = true
memstore device bytes = {store_bytes}
debug osd = 0/0
debug bluestore = 0/0
debug bluefs = 0/0
debug bdev = 0/0
debug rocksdb = 0/0

[client.admin]
rgw data = {folder}/gateway
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
# what was deleted makes room within minutes
rgw gc obj min wait = 60
rgw gc processor period = 60
"""


def missing_programs() -> list[str]:
    """The programs of Ceph that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def version() -> str:
    """What the installed gateway calls itself.

    Raises:
        NotFoundError: when none is installed.
    """
    done = subprocess.run(  # noqa: S603
        [_program("radosgw"), "--version"],
        capture_output=True,
        check=True,
        env=program_environment(),
        text=True,
    )
    return done.stdout.split()[2]


def daemons(folder: Path) -> tuple[Daemon, Daemon, Daemon]:
    """Monitor, store and gateway; each needs those before it."""
    at = ("-f", "-c", str(folder / "ceph.conf"))
    return (
        Daemon(folder, "monitor", (_program("ceph-mon"), *at, "-i", "a")),
        Daemon(folder, "store", (_program("ceph-osd"), *at, "-i", "0")),
        Daemon(folder, "gateway", (_program("radosgw"), *at, "-n", "client.admin")),
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    for port in random.sample(_PORTS, 100):
        if is_free(port):
            return port
    raise ConfigError("no free port on 127.0.0.1 in a hundred tries; name one")


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def write_empty(folder: Path, port: int, store: str) -> None:
    """Write a new cluster, over one that was never finished.

    Raises:
        StorageUnavailableError: when a program of Ceph fails.
    """
    for name in _OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    for name in ("mon", "osd", "gateway", "log", "crash"):
        (folder / name).mkdir()
    monitor_port = port
    while monitor_port == port:
        monitor_port = free_port()
    fsid = str(uuid.uuid4())
    (folder / "ceph.conf").write_text(
        _CONFIGURATION.format(
            fsid=fsid,
            folder=folder,
            port=port,
            monitor_port=monitor_port,
            store=store,
            store_bytes=_STORE_BYTES[store],
        )
    )
    keyring, monmap = str(folder / "keyring"), str(folder / "monmap")
    limit = time.monotonic() + 60
    run(folder, limit, "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", *_all("mon"))
    run(folder, limit, "ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *_all("mon", "osd"))
    run(folder, limit, "ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *_all("mon", "osd"))
    address = f"[v2:127.0.0.1:{monitor_port}]"
    run(folder, limit, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
    run(folder, limit, "ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)


def add_store(folder: Path, deadline: float) -> None:
    """Make the object store and tell the monitor, which runs."""
    identity = str(uuid.uuid4())
    run(folder, deadline, "ceph", "--connect-timeout", "60", "osd", "new", identity, "0")
    run(folder, deadline, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)


def add_user(folder: Path, deadline: float) -> tuple[str, str]:
    """Make the S3 user, while monitor and store run: key id and secret, made up by Ceph."""
    told = run(
        folder,
        deadline,
        "radosgw-admin",
        "user",
        "create",
        "--uid",
        "developer",
        "--display-name",
        "developer",
    )
    keys = cast(dict[str, list[dict[str, str]]], json.loads(told))["keys"]
    return keys[0]["access_key"], keys[0]["secret_key"]


def run(folder: Path, deadline: float, program: str, *arguments: str) -> str:
    """Run a program of Ceph to its end: what it tells.

    Raises:
        StorageUnavailableError: when it fails, or does not end in time.
    """
    errors = folder / "log" / f"{program}.err"
    command = [_program(program), "-c", str(folder / "ceph.conf"), *arguments]
    try:
        with errors.open("ab") as log:
            done = subprocess.run(  # noqa: S603
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                timeout=max(1.0, deadline - time.monotonic()),
                check=True,
                env=program_environment(),
                text=True,
            )
    except subprocess.SubprocessError as error:
        raise StorageUnavailableError(
            f"{program} did not do its part ({type(error).__name__}); {errors} may say why"
        ) from error
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotFoundError(
            f"{name} is not installed; run `python -m infra.s3_server install` as root, "
            f"or install the Debian packages {', '.join(PACKAGES)}"
        )
    return found


def _all(*services: str) -> list[str]:
    """Every capability at some services."""
    return [word for service in services for word in ("--cap", service, "allow *")]
