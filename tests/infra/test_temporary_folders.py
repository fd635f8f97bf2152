"""Folders of processes that are gone are swept; those of the living, of others, of nobody are left alone."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from infra.ray_cluster import MIN_ORPHAN_AGE_S, SHORT_ROOT, sweep_folders, temporary_folder


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Stands in for the system's temporary folder; its path is as short."""
    with tempfile.TemporaryDirectory(dir=SHORT_ROOT) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_folder_goes_with_its_block(root: Path) -> None:
    with temporary_folder() as folder:
        assert folder.parent == root
        (folder / "a/b").mkdir(parents=True)
    assert list(root.iterdir()) == []


def test_sockets_fit_whatever_the_temporary_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = "session_2026-11-28_08-23-13_854753_4194304"
    for length in (0, 1, 5, 20, 80):
        place = root / ("x" * length)
        place.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with temporary_folder() as folder:
            assert len(os.fsencode(folder / session / "sockets/plasma_store")) <= 107
            is_short = len(os.fsencode(place)) <= 30
            assert folder.parent == (place if is_short else SHORT_ROOT)
    assert not is_short


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
