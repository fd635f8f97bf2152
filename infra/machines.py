"""A Ray cluster of several machines on one host, to see what a build does when a machine dies.

    python -m infra.machines up FOLDER [--workers 2]     a head without CPUs, and workers with one each
    python -m infra.machines kill FOLDER N               machine N loses its power (0 is the head)
    python -m infra.machines cut FOLDER N                nobody hears machine N any more; it goes on
    python -m infra.machines mend FOLDER N               its cable is plugged in again
    python -m infra.machines run FOLDER COMMAND...       on the head, from the current folder
    python -m infra.machines down FOLDER                 ends every process; only logs are left

A machine is a process with a network, a process table, mounts and a host name of its own: killing that one
process takes raylet, workers and agents along, and the kernel clears away what it had (`virtual_network`).
All machines share the host's files, as they would share a network file system; `/dev/shm` and Ray's folder
are private.

Ray is started as a cluster should be that is to notice lost machines soon: with a token, stated memory, and
a head that asks every machine each second whether it is there. Left out: a way from the machines to anywhere
else, S3 servers included. Costs: 0.3 GB of memory a machine, and 15 s to start on two cores.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Final

from infra.daemon import Daemon, program_environment, program_path
from infra.virtual_network import Switch, address_of, listens, wait_for_network
from schemas.errors import ConfigError, NotFoundError, PipelineError, WorkError

HEAD: Final = 0
PORT: Final = 6379
START_LIMIT_S: Final = 180.0
POWER_OFF_LIMIT_S: Final = 15.0
MEMORY_BYTES: Final = 2_000_000_000
STORE_BYTES: Final = 100_000_000
MAX_FOLDER_BYTES: Final = 40
"""Ray has sockets below it, and a socket's path has 107 bytes."""
SETTINGS: Final = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The head misses a machine after three seconds instead of half a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
PROGRAMS: Final = ("unshare", "nsenter", "ip", "mount", "setpriv")
_APART: Final = ("--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
_PAUSE_S: Final = 0.05
# Arguments: host name, folder of its own files, where Ray looks for it, and what to run. Whoever looks up a
# name gets an answer or none, at once: there is no way to a name server.
_START: Final = """\
set -e
echo "$1" > /proc/sys/kernel/hostname
mount --make-rprivate /
mount --bind "$2/hosts" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount --bind "$2" "$3"
mount -t tmpfs -o size=1g tmpfs /dev/shm
shift 3
until ip -4 route show default 2>/dev/null | grep -q eth0; do sleep 0.05; done
exec "$@"
"""
_COUNT: Final = """\
import sys, time, ray
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.1)
"""


def missing() -> str | None:
    """Why there can be no such machines here; None when there can."""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in PROGRAMS if which(name) is None]
    if absent:
        return f"needs the programs {', '.join(absent)}"
    tried = subprocess.run(  # noqa: S603
        [program_path("unshare"), *_APART, "mount", "--make-rprivate", "/"],
        capture_output=True,
        check=False,
        env=program_environment(),
    )
    return "needs a root that may make namespaces and mounts" if tried.returncode else None


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines of a folder, whether they run or not."""

    folder: Path

    @property
    def address(self) -> str:
        """Of the cluster, for `--ray-address`."""
        return f"{address_of(HEAD)}:{PORT}"

    def up(self, num_workers: int = 2, *, is_temporary: bool = False) -> None:
        """Start a head and some workers with one CPU each, and wait until all of them have met.

        Args:
            num_workers: machines besides the head.
            is_temporary: they end with this process, however it ends.

        Raises:
            ConfigError: when this cannot be done here.
            WorkError: when they do not find each other in time.
        """
        if reason := missing():
            raise ConfigError(f"machines of one host: {reason}")
        if len(os.fsencode(self.folder)) > MAX_FOLDER_BYTES:
            raise ConfigError(f"{self.folder}: name a folder of at most {MAX_FOLDER_BYTES} bytes")
        if self._switch.daemon.find() is not None:
            raise ConfigError(f"machines run in {self.folder} already; `down` ends them")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ray_folder.mkdir(exist_ok=True)
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32))
        deadline = time.monotonic() + START_LIMIT_S
        self._switch.start(deadline, is_temporary=is_temporary)
        for number in range(num_workers + 1):
            self.start(number, deadline, is_temporary=is_temporary)
        self._meet(num_workers + 1, deadline)

    def start(self, number: int, deadline: float, *, is_temporary: bool) -> None:
        """Start one machine and plug it in; Ray starts by itself, and the head is waited for.

        Raises:
            WorkError: when it does not start in time.
        """
        own = self.folder / f"files{number}"
        own.mkdir(exist_ok=True)
        (own / "hosts").write_text(f"127.0.0.1 localhost\n{address_of(number)} {_name(number)}\n")
        begin = ("sh", "-c", _START, "sh", f"machine{number}", str(own), str(self._ray_folder))
        ray = (program_path("env"), *self._settings(), *self._ray_words(number))
        machine = Daemon(self.folder, _name(number), (program_path("unshare"), *_APART, *begin, *ray))
        machine.start(is_temporary)
        process = wait_for_network(machine, deadline)
        self._switch.plug(number, process)
        while number == HEAD and not listens(process, PORT):
            if machine.find() is None or time.monotonic() > deadline:
                raise WorkError(f"Ray's head does not start; {machine.output} may say why")
            time.sleep(_PAUSE_S)

    def down(self) -> None:
        """End every process."""
        for file in sorted(self.folder.glob("*.pid")):
            _power_off(Daemon(self.folder, file.stem, ()))
            file.unlink(missing_ok=True)

    def kill(self, number: int) -> None:
        """Take the power of a machine: every process of it ends at once."""
        _power_off(Daemon(self.folder, _name(number), ()))

    def cut(self, number: int) -> None:
        """Pull its cable: packets are lost and nobody is told."""
        self._switch.cut(number)

    def mend(self, number: int) -> None:
        """Plug the cable in again."""
        self._switch.mend(number)

    def list_processes(self, number: int) -> list[int]:
        """Every process of a machine, by the host's process ids."""
        inside = _process_table(self._first_process(number))
        found = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        return [process for process in found if _process_table(process) == inside]

    def on_head(self, *words: str) -> list[str]:
        """The words of a command of the host that runs another one on the head, in the current folder.

        The other one is a child of it and does not end with it.
        """
        into = ("--target", str(self._first_process(HEAD)), "--net", "--mount", "--uts", "--pid")
        there = (program_path("env"), f"--chdir={Path.cwd()}", *self._settings())
        return [program_path("nsenter"), *into, *there, *words]

    @property
    def _switch(self) -> Switch:
        return Switch(self.folder)

    @property
    def _token(self) -> Path:
        return self.folder / "token"

    @property
    def _ray_folder(self) -> Path:
        """Where every machine sees files of its own."""
        return self.folder / "ray"

    def _settings(self) -> list[str]:
        places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        settings = SETTINGS | {
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "PYTHONPATH": os.pathsep.join(place for place in places if place),
        }
        return [f"{name}={value}" for name, value in settings.items()]

    def _ray_words(self, number: int) -> list[str]:
        head = ("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self._ray_folder}")
        role = head if number == HEAD else (f"--address={self.address}",)
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *role,
            f"--node-ip-address={address_of(number)}",
            f"--num-cpus={0 if number == HEAD else 1}",
            f"--memory={MEMORY_BYTES}",
            f"--object-store-memory={STORE_BYTES}",
            f"--resources={json.dumps({_name(number): 1})}",
        ]

    def _first_process(self, number: int) -> int:
        """The process that is number 1 inside of a machine."""
        inner = _children_of(Daemon(self.folder, _name(number), ()).find())
        if not inner:
            raise NotFoundError(f"machine {number} of {self.folder} does not run")
        return inner[0]

    def _meet(self, num_machines: int, deadline: float) -> None:
        """Wait until the head knows everybody."""
        count = (sys.executable, "-c", _COUNT, self.address, str(num_machines))
        while True:
            try:
                subprocess.run(  # noqa: S603
                    self.on_head(*count),
                    check=True,
                    capture_output=True,
                    timeout=max(1.0, deadline - time.monotonic()),
                    env=program_environment(),
                )
            except subprocess.SubprocessError as error:
                if time.monotonic() > deadline:
                    logs = self.folder / "machine*.out"
                    raise WorkError(
                        f"the machines did not meet within {START_LIMIT_S:g} s; {logs} may say why"
                    ) from error
                time.sleep(_PAUSE_S)
            else:
                return


def _name(number: int) -> str:
    return f"machine{number}"


def _power_off(daemon: Daemon) -> None:
    """Kill a daemon, and wait for the process inside that goes with it."""
    inner = _children_of(daemon.find())
    daemon.kill()
    deadline = time.monotonic() + POWER_OFF_LIMIT_S
    while any(Path(f"/proc/{process}").exists() for process in inner) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def _children_of(process: int | None) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _process_table(process: int) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:
        return None


def main(words: Sequence[str] | None = None) -> int:
    """The command line: the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.machines")
    parser.add_argument("verb", choices=["up", "down", "kill", "cut", "mend", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="number of a machine, or a command")
    typed = parser.parse_args(words)
    machines = Machines(typed.folder.resolve())
    try:
        if typed.verb == "up":
            machines.up(typed.workers)
            sys.stdout.write(f"a cluster of {typed.workers} workers runs at {machines.address}\n")
        elif typed.verb == "down":
            machines.down()
        elif typed.verb == "run":
            return subprocess.run(machines.on_head(*typed.rest), check=False).returncode  # noqa: S603
        else:
            getattr(machines, typed.verb)(int(typed.rest[0]))
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
