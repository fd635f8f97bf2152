"""A network of its own on one host: a switch, and a cable to each of some processes.

The switch is a process with a network namespace of its own that holds a bridge; a cable is a pair of virtual
network cards, one end in the switch, one (`eth0`) in the namespace of the other process. Namespaces have no
names and no mounts: they are found by their processes and end with them, however they end. The host's own
network is never touched, and no way leads out of this one. Needs root, iproute2 and util-linux.
"""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.daemon import Daemon, program_environment, program_path
from schemas.errors import NotFoundError, WorkError

NETWORK: Final = "10.231.77"
_PAUSE_S: Final = 0.05
_LISTENING: Final = "0A"


@dataclass(frozen=True, slots=True)
class Switch:
    """The switch of a folder, whether it runs or not."""

    folder: Path

    def start(self, deadline: float, *, is_temporary: bool) -> None:
        """Start it, without cables.

        Raises:
            WorkError: when it does not start in time.
        """
        switch = self.daemon
        switch.start(is_temporary)
        wait_for_network(switch, deadline)
        self._do("link", "add", "bridge", "type", "bridge")
        self._do("link", "set", "bridge", "up")
        self._do("address", "add", f"{NETWORK}.1/24", "dev", "bridge")

    def plug(self, number: int, process: int) -> None:
        """Lead a cable to a process that has a network of its own, and give it the address of a number."""
        port = _port(number)
        self._do("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(process))
        self._do("link", "set", port, "master", "bridge", "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("address", "add", f"{address_of(number)}/24", "dev", "eth0"),
            # Leads nowhere; by it programs find out which address is the machine's own.
            ("route", "add", "default", "via", f"{NETWORK}.1"),
        ):
            _ip(process, *words)

    def cut(self, number: int) -> None:
        """Pull a cable: packets are lost and nobody is told."""
        self._do("link", "set", _port(number), "down")

    def mend(self, number: int) -> None:
        """Plug a cable in again."""
        self._do("link", "set", _port(number), "up")

    @property
    def daemon(self) -> Daemon:
        """Its process."""
        return Daemon(self.folder, "switch", (program_path("unshare"), "--net", "sleep", "infinity"))

    def _do(self, *words: str) -> None:
        process = self.daemon.find()
        if process is None:
            raise NotFoundError(f"no machines run in {self.folder}; start them first")
        _ip(process, *words)


def address_of(number: int) -> str:
    """The address at the end of a cable."""
    return f"{NETWORK}.{number + 2}"


def wait_for_network(daemon: Daemon, deadline: float) -> int:
    """The process of a daemon, when it has a network of its own.

    Raises:
        WorkError: when it has none in time.
    """
    own = os.readlink("/proc/self/ns/net")
    while (process := daemon.find()) is not None and time.monotonic() < deadline:
        if os.readlink(f"/proc/{process}/ns/net") != own:
            return process
        time.sleep(_PAUSE_S)
    raise WorkError(f"{daemon.name} does not start; {daemon.output} may say why")


def listens(process: int, port: int) -> bool:
    """Whether anybody in the network of a process listens on a port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            return False
        if any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == _LISTENING for line in lines):
            return True
    return False


def _port(number: int) -> str:
    return f"port{number}"


def _ip(process: int, *words: str) -> None:
    """Run iproute2 in the network of a process."""
    into = (program_path("nsenter"), "--target", str(process), "--net")
    done = subprocess.run(  # noqa: S603 - no input of others in it
        [*into, program_path("ip"), *words],
        capture_output=True,
        check=False,
        env=program_environment(),
        text=True,
    )
    if done.returncode:
        raise WorkError(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")
