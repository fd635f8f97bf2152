"""Memory of a process and all that it started, seen from outside.

Counted is the proportional set: a page that several processes map is shared among them, so the sum is what
the machine gives for the tree. The kernel walks page tables for it, some milliseconds a process: who is
watched is slowed down, and should not be timed in the same run.
"""

import re
from pathlib import Path
from typing import Final

_PSS: Final = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


def can_watch_memory() -> bool:
    """Whether this machine tells; Linux does."""
    return Path("/proc/self/smaps_rollup").exists()


def count_tree_bytes(process_id: int) -> int:
    """Memory of a process and its descendants now; of one that has ended, none."""
    total = 0
    waiting = [process_id]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            found = _PSS.search((folder / "smaps_rollup").read_bytes())
            children = [task.read_text().split() for task in folder.glob("task/*/children")]
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(found[1]) * 1024 if found else 0
        waiting += [int(child) for group in children for child in group]
    return total
