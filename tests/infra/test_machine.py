"""What a container allows counts, not what the machine has."""

import os
from pathlib import Path

import pytest

from infra.machine import count_cpus, count_memory_bytes, list_gpus


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("99900000 100000", None), ("", None)],
)
def test_cpus_are_those_of_the_container(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert count_cpus(tmp_path) == (expected or len(os.sched_getaffinity(0)))


def test_without_a_container_all_cpus_and_memory_count(tmp_path: Path) -> None:
    assert count_cpus(tmp_path / "nothing") == len(os.sched_getaffinity(0))
    assert count_memory_bytes(tmp_path / "nothing") > 1 << 28


def test_memory_is_that_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")
    assert count_memory_bytes(tmp_path) == 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    assert count_memory_bytes(tmp_path) == count_memory_bytes(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("allowed", "expected"), [("0,1", ("0", "1")), ("", ()), ("-1", ()), ("GPU-8f3c", ("GPU-8f3c",))]
)
def test_gpus_are_those_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert list_gpus() == expected


def test_gpus_are_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == ()
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n[ $# = 2 ] && echo GPU-1 && echo GPU-2\n")
    program.chmod(0o755)
    assert list_gpus() == ("GPU-1", "GPU-2")
    program.write_text("#!/bin/sh\necho no devices; exit 6\n")
    assert list_gpus() == ()
