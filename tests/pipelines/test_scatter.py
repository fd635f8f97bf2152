"""Scattered rows come back whole, and scratch does not outlive its run."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import LocalStorage
from pipelines import scatter as scattering
from pipelines.scatter import gather, read_blob, scatter, scratch_folder


@given(written=st.lists(st.lists(st.binary(max_size=20), min_size=4, max_size=4), max_size=5))
def test_every_bucket_gets_its_blobs_in_the_order_of_objects(tmp_path_factory, written):
    storage = LocalStorage(tmp_path_factory.mktemp("corpus"))
    objects = [scatter(storage, f"scratch/run/{n}", blobs) for n, blobs in enumerate(written)]
    for bucket in range(4):
        found = list(gather(storage, objects, bucket))
        assert found == [(n, blobs[bucket]) for n, blobs in enumerate(written) if blobs[bucket]]
        assert [read_blob(storage, one, bucket) for one in objects] == [blobs[bucket] for blobs in written]


def test_blobs_that_are_all_empty_are_no_object(tmp_path):
    storage = LocalStorage(tmp_path)
    scattered = scatter(storage, "scratch/run/a", [b"", b""])
    assert storage.list("scratch") == []
    assert list(gather(storage, [scattered], 1)) == []


def test_scratch_is_gone_when_the_run_is_over_however_it_ends(tmp_path):
    storage = LocalStorage(tmp_path)
    seen = []

    def fail():
        with scratch_folder(storage) as folder:
            scatter(storage, f"{folder}/a", [b"x"])
            seen.extend([folder, *storage.list("scratch")])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [seen[0], f"{seen[0]}/a"]
    assert storage.list("scratch") == []


def test_scratch_of_dead_runs_is_swept_and_that_of_live_and_far_ones_is_not(tmp_path):
    storage = LocalStorage(tmp_path)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    machine = scattering._machine()
    mine, live, far = (
        f"scratch/{machine}-{int(dead.stdout)}-aa/x",
        f"scratch/{machine}-{os.getpid()}-bb/x",
        f"scratch/0123456789abcdef-{int(dead.stdout)}-cc/x",
    )
    for path in (mine, live, far):
        storage.write_scratch(path, [b"x"])
    with scratch_folder(storage):
        assert storage.list("scratch") == sorted([live, far])
