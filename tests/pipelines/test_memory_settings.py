"""Workers keep the memory that they free, also where nobody could set the environment before they ran."""

import os
import subprocess
import sys

import pytest

from pipelines.host import MEMORY_VARIABLES

BLOCKS = """
import resource, sys
from pipelines.host import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def fill():
    for _ in range(4):
        for block in [bytearray(4 << 20) for _ in range(12)]:
            block[::4096] = bytes(1024)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc")
def test_freed_memory_is_not_asked_for_again():
    environment = {name: value for name, value in os.environ.items() if name not in MEMORY_VARIABLES}
    faults = {}
    for name in ("leave", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKS, name], env=environment, capture_output=True, text=True, check=True
        )
        faults[name] = int(done.stdout)
    assert faults["leave"] > 10_000
    assert faults["keep"] < faults["leave"] / 20
