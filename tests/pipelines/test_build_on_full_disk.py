"""A build on a disk that is full ends with an error that names the folder; with more room it goes on.

The disk is a small one in memory that a private mount namespace holds, so it is gone with the build: root and
Linux, else these tests are skipped. Each build ends within `LIMIT_S`.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from build_commands import REPOSITORY, Run
from watched_storage import read_objects

from infra.machines import missing
from infra.storage import LocalStorage
from pipelines.commit import load_manifest
from schemas.digest import sha256_hex

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"small disks of one host: {missing()}")

LIMIT_S = 600
LIGHT = ("ingest", "shard")
"""Verbs that import no encoder."""
WHOLE = ("build",)
PROGRAM = """\
import sys
from jobs.cli import main

verbs, *rest = sys.argv[1:]
for verb in verbs.split():
    try:
        main([verb, *rest])
    except SystemExit as left:
        if left.code:
            raise
"""
# Arguments: the disk's folder and size, where to leave what was seen, the corpus, then the command. What the
# corpus holds is copied when the disk was full, and when it had been given room and the command run again.
SCRIPT = """\
disk=$1 size=$2 seen=$3 corpus=$4; shift 4
mount -t tmpfs -o "size=$size" tmpfs "$disk" || exit 9
"$@" > "$seen/told1" 2> "$seen/said1"; echo $? > "$seen/status1"
cp -a "$corpus" "$seen/full" 2> /dev/null || mkdir "$seen/full"
mount -o remount,size=256m "$disk" || exit 9
"$@" > "$seen/told2" 2> "$seen/said2"; echo $? > "$seen/status2"
cp -a "$corpus" "$seen/whole"
"""


@dataclass(frozen=True)
class Seen:
    """What two runs of a build left, the first one on a small disk."""

    folder: Path

    def status(self, number: int) -> int:
        return int((self.folder / f"status{number}").read_text())

    def said(self, number: int) -> str:
        return (self.folder / f"said{number}").read_text()


def build_twice(
    recipe: Path,
    disk: Path,
    size_bytes: int,
    corpus: Path,
    command: tuple[tuple[str, ...], str],
    temporary: Path,
) -> Seen:
    """Build with a small disk at a folder, then with a large one."""
    seen = Seen(disk.with_name("seen"))
    verbs, engine = command
    for folder in (disk, seen.folder, temporary):
        folder.mkdir(exist_ok=True)
    build = (sys.executable, "-c", PROGRAM, " ".join(verbs), recipe, "--corpus", corpus, "--engine", engine)
    places = (disk, str(size_bytes), seen.folder, corpus)
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)}
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", *places, *build],
        env=os.environ | settings,
        check=True,
        timeout=LIMIT_S,
    )
    return seen


def check_full(seen: Seen, folder: Path) -> None:
    """It said which folder is full and what to do, and nothing torn is listed."""
    said = seen.said(1)
    assert seen.status(1) == 1, said
    assert f"error: no room is left in {folder}" in said
    assert "run the same command again: what is committed stays" in said
    assert "Traceback" not in said
    left = LocalStorage(seen.folder / "full")
    for path, data in read_objects(left.url).items():
        if path.endswith((".tar", ".idx", ".parquet")):
            assert sha256_hex(data).startswith(Path(path).stem.rpartition("-")[2])
    if left.exists("corpus.json"):
        load_manifest(left)


def build_undisturbed(run: Run, corpus: Path, verbs: tuple[str, ...]) -> dict[str, bytes]:
    """Every object of a serial build that had room enough."""
    for verb in verbs:
        run(corpus, verb)
    return read_objects(corpus)


@pytest.mark.parametrize(
    ("verbs", "engine", "share"),
    [
        (LIGHT, "serial", 0.6),
        pytest.param(WHOLE, "serial", 0.2, marks=pytest.mark.slow),
        pytest.param(WHOLE, "serial", 0.6, marks=pytest.mark.slow),
        pytest.param(WHOLE, "serial", 0.9, marks=pytest.mark.slow),
        pytest.param(WHOLE, "processes", 0.6, marks=pytest.mark.slow),
        pytest.param(WHOLE, "ray", 0.6, marks=[pytest.mark.slow, pytest.mark.ray]),
    ],
)
def test_a_full_corpus(
    recipe: Path, run: Run, tmp_path: Path, verbs: tuple[str, ...], engine: str, share: float
) -> None:
    undisturbed = build_undisturbed(run, tmp_path / "undisturbed", verbs)
    page = os.sysconf("SC_PAGE_SIZE")
    whole = sum(-(-len(data) // page) * page for data in undisturbed.values())
    disk = tmp_path / "disk"
    seen = build_twice(recipe, disk, int(share * whole), disk / "corpus", (verbs, engine), tmp_path / "tmp")
    check_full(seen, disk / "corpus")
    assert seen.status(2) == 0, seen.said(2)
    assert read_objects(seen.folder / "whole") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_a_full_temporary_folder(
    recipe: Path, undisturbed: dict[str, bytes], tmp_path: Path, engine: str
) -> None:
    disk = tmp_path / "disk"
    size_bytes = 4 * os.sysconf("SC_PAGE_SIZE")
    seen = build_twice(recipe, disk, size_bytes, tmp_path / "corpus", (WHOLE, engine), disk)
    check_full(seen, disk)
    assert "or set TMPDIR to a folder with more" in seen.said(1)
    assert seen.status(2) == 0, seen.said(2)
    assert read_objects(seen.folder / "whole") == undisturbed
