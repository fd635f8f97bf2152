"""A shard that fails its digest stops all processes of a training: two of them, no deadlock."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_job import SmallJob, write_yaml

from infra.storage import LocalStorage
from pipelines.commit import load_manifest

HERE = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("outcomes")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def train_with_two(config: Path, out: Path) -> list[str]:
    """How each of two processes ended; empty is well."""
    paths = [str(HERE), str(HERE.parents[1])]
    done = subprocess.run(
        [sys.executable, str(HERE / "two_ranks.py"), str(config), str(free_port())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"said-{rank}.json").read_text()) for rank in range(2)]


def write_config(job: SmallJob, folder: Path) -> Path:
    document = yaml.safe_load(job.stage(2).read_text())
    document |= {"corpus": str(folder / "corpus"), "out": str(folder / "out")}
    document["data"] |= {"batch": 2, "micro_batch": 1}
    return write_yaml(folder / "c.yaml", document)


def test_one_bad_shard_stops_all(small_job: SmallJob, tmp_path: Path) -> None:
    shutil.copytree(small_job.corpus, tmp_path / "corpus")
    storage = LocalStorage(tmp_path / "corpus")
    (features,) = load_manifest(storage).features.values()
    bad = max(features.shards, key=lambda shard: shard.tar.num_bytes)
    tar = storage.local_path(bad.tar.path)
    tar.write_bytes(bytes(tar.stat().st_size))
    said = train_with_two(write_config(small_job, tmp_path), tmp_path / "out")
    assert said[0] == said[1]
    assert f"shard {bad.name}" in said[0]
    assert f"exclude: [{bad.name}]" in said[0]
