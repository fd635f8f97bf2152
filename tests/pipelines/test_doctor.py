"""The doctor finds what is wrong, says how to mend it, and finds nothing where nothing is wrong."""

import shutil
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version

from infra.storage import LocalStorage, open_storage
from pipelines import doctor
from pipelines.doctor import examine
from schemas.errors import NotFoundError, StorageUnavailableError

NAMES = [
    *("python", "packages", "torch", "pictures", "clips", "machine", "free space"),
    *("free space", "disk", "storage", "ray"),
]


def test_a_machine_that_runs_these_tests_is_fit(tmp_path):
    findings = list(examine(str(tmp_path / "not/yet"), None))
    assert [finding.name for finding in findings] == NAMES
    assert [
        finding for finding in findings if finding.fix and finding.name not in ("disk", "free space")
    ] == []
    seen = {finding.name: finding.seen for finding in findings}
    assert seen["pictures"].endswith("a JPEG gives 5 views")
    assert "a clip of 4 s gives 4 views" in seen["clips"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_packages_out_of_range_and_missing_ones_are_named(monkeypatch):
    def pretend(name):
        if name == "zstandard":
            raise PackageNotFoundError
        return "0.0.1" if name == "pillow" else version(name)

    monkeypatch.setattr(doctor, "version", pretend)
    finding = doctor.check_packages()
    assert finding.seen == "pillow 0.0.1 is not >=12; zstandard is missing"
    assert finding.fix.startswith("pip install")


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 1, "final", 0))
    assert doctor.check_python().fix == "install Python 3.11 or 3.12"


def test_gpus_that_torch_does_not_see_are_told(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "list_gpus", lambda: ("GPU-1", "GPU-2"))
    finding = doctor.check_torch()
    assert "though the system has 2 GPUs" in finding.seen
    assert "install torch for CUDA" in finding.fix


def test_a_full_disk_and_a_small_machine_are_told(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 9, 1))
    assert f"make room in {tmp_path}" in doctor.check_space(tmp_path).fix
    monkeypatch.setattr(doctor, "count_memory_bytes", lambda: 2**30)
    assert "4 GiB" in doctor.check_machine().fix


def test_a_storage_that_lets_both_writers_win_is_told(monkeypatch, tmp_path):
    class Forgetful(LocalStorage):
        def create(self, path, data):
            self.remove(path)
            return super().create(path, data)

    monkeypatch.setattr(doctor, "open_storage", lambda url: Forgetful(tmp_path))
    finding = doctor.check_storage("any")
    assert finding.seen.endswith("let a second writer win")
    assert "If-None-Match" in finding.fix


def test_a_storage_that_does_not_answer_is_a_finding_and_no_crash(monkeypatch):
    def fail(url):
        raise StorageUnavailableError("nobody answers; look at AWS_ENDPOINT_URL_S3")

    monkeypatch.setattr(doctor, "open_storage", fail)
    (finding,) = [one for one in examine("s3://a/b", None) if one.name == "storage"]
    assert finding.seen == "StorageUnavailableError"
    assert "AWS_ENDPOINT_URL_S3" in finding.fix


def test_a_real_server_is_fit_and_left_as_it_was(s3_url):
    (finding,) = [one for one in examine(s3_url, None) if one.name == "storage"]
    assert (finding.fix, s3_url in finding.seen) == ("", True)
    assert [*open_storage(s3_url).list("scratch")] == []


def test_a_cluster_that_does_not_answer_is_a_finding(monkeypatch):
    def fail(address):
        raise NotFoundError(f"no Ray cluster answers at {address}")

    monkeypatch.setattr("infra.ray_cluster.ray_cluster", fail)
    (finding,) = [one for one in examine(None, "10.0.0.1:6379") if one.name == "ray"]
    assert finding.fix == "no Ray cluster answers at 10.0.0.1:6379"
