"""Folders of processes that are gone are swept; those of the living, of others, of nobody are left alone."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from infra.ray_cluster import MIN_ORPHAN_AGE_S, sweep_folders, temporary_folder


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the system's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_block(root: Path) -> None:
    with temporary_folder() as folder:
        assert folder.parent == root
        (folder / "a/b").mkdir(parents=True)
    assert list(root.iterdir()) == []


def test_folders_of_the_dead_go_at_the_next_start(root: Path) -> None:
    program = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from infra.ray_cluster import temporary_folder\n"
        "with temporary_folder() as folder: (folder / 'x').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    (orphan,) = root.iterdir()
    with temporary_folder() as mine, temporary_folder() as other:
        assert set(root.iterdir()) == {mine, other}
    assert not orphan.exists()


def test_what_may_be_in_use_is_left(root: Path) -> None:
    (root / "ot-young").mkdir()
    (root / "ot-link").symlink_to(root / "kept")
    (root / "kept").mkdir()
    (root / "ot-file").touch()
    old = root / "ot-old"
    old.mkdir()
    then = time.time() - 2 * MIN_ORPHAN_AGE_S
    os.utime(old, (then, then))
    sweep_folders(root)
    assert {path.name for path in root.iterdir()} == {"ot-young", "ot-link", "kept", "ot-file"}
