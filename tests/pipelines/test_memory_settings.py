"""Workers keep the memory that they free, also where nobody could set the environment before they ran."""

import subprocess
import sys

import pytest

BLOCKS = """
import resource, sys
from pipelines.host import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def fill():
    for _ in range(20):
        bytearray(8 << 20)[::4096] = bytes(2048)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc")
def test_freed_memory_is_not_asked_for_again():
    faults = {}
    for name in ("leave", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKS, name], capture_output=True, text=True, check=True
        )
        faults[name] = int(done.stdout)
    assert faults["leave"] > 10_000
    assert faults["keep"] < faults["leave"] / 20
