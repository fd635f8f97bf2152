"""A full disk is told by the folder that is full, and by no other error."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from infra.space import named_full_disk, temporary_file
from schemas.errors import NoSpaceError

needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@needs_full_device
def test_the_system_says_no_and_the_folder_is_named() -> None:
    with (
        pytest.raises(
            NoSpaceError, match=r"no room is left in some/folder on .*; make some, then run the same"
        ),
        named_full_disk("some/folder"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_quotas_are_full_disks(number: int) -> None:
    with pytest.raises(NoSpaceError), named_full_disk("folder"):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), named_full_disk("folder"):
        raise PermissionError(errno.EACCES, "no")


def test_a_temporary_file_names_its_folder_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(NoSpaceError, match="or set TMPDIR") as caught:
        fill_temporary_file()
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def fill_temporary_file() -> None:
    with temporary_file() as file:
        file.write(b"fits")
        raise OSError(errno.ENOSPC, "full")
