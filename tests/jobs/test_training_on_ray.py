"""`onetoken train --engine ray`: two workers train what one process does."""

import json

import pytest
import yaml
from small_job import run_onetoken, write_yaml

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("outcomes"),
    # Ray Train's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_two_workers_train_as_one_process(small_job, tmp_path) -> None:
    config = yaml.safe_load(small_job.stage(2).read_text()) | {"out": str(tmp_path / "ray")}
    path = write_yaml(tmp_path / "c.yaml", config)
    outcome = run_onetoken("train", path, "--engine", "ray", "--workers", 2, "--json")
    assert outcome.status == 0, outcome.err
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "ray", small_job.out(2))
    ]
    together, alone = ([line["loss"] for line in one] for one in lines)
    assert len(alone) > 1
    assert together == pytest.approx(alone, rel=1e-4)
