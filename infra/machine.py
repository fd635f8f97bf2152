"""What this process may use of its machine: CPUs, memory, GPUs. Containers count, as far as Linux tells."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
GPU_QUERY_LIMIT_S: Final = 30
_PEAK: Final = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def count_cpus(cgroup: Path = CGROUP) -> int:
    """CPUs that this process may run on, within the quota of its container."""
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        num_cpus = min(num_cpus, max(1, int(quota) // int(period)))
    return num_cpus


def count_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Memory of the machine, within the limit of its container."""
    num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(cgroup / "memory.max")
    return min(num_bytes, int(limit)) if limit.isdecimal() else num_bytes


def read_peak_bytes() -> int:
    """The most memory that this process, without children, ever had resident; 0 where the system is silent.

    `getrusage` would count the process that started this one, too.
    """
    found = _PEAK.search(_read(Path("/proc/self/status")))
    return int(found[1]) * 1024 if found else 0


def list_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return tuple(name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1"))
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run(  # noqa: S603 - no input of others in it
            [program, "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=GPU_QUERY_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
