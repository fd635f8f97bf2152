"""Ray and the serial engine write the same corpus, byte for byte."""

from functools import partial

import pytest
from watched_storage import read_objects

from infra.ray_cluster import ray_cluster
from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.rows.ranges import plan_ranges
from pipelines.ray_engine import RayEngine
from pipelines.shard.flow import shard

pytestmark = pytest.mark.ray


def test_ray_writes_what_the_serial_engine_writes(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.ingest.inputs.plan_ranges", partial(plan_ranges, range_bytes=700))
    monkeypatch.setattr("pipelines.ingest.tables.ROWS_PER_FILE", 10)
    with ray_cluster(num_cpus=2):
        for name, engine in (("serial", SerialEngine()), ("ray", RayEngine())):
            storage = LocalStorage(tmp_path / name)
            ingest(tiny_recipe, storage, engine)
            shard(tiny_recipe, storage, engine)
    serial = read_objects(tmp_path / "serial")
    assert len(serial) > 20
    assert read_objects(tmp_path / "ray") == serial
