"""Metrics: every event is told, the dashboard watches each of them and nothing else, and Ray serves them."""

import dataclasses
import json
import re
import time
import typing
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import yaml

from infra.metrics import METRICS, list_samples
from infra.ray_cluster import ray_cluster
from infra.ray_metrics import RayMetrics, exported_names
from schemas.events import (
    Counted,
    EncoderUsed,
    Event,
    Rejected,
    StageEnded,
    StageStarted,
    UnitDivided,
    UnitDone,
    UnitRetried,
    WorkerLost,
)

MONITORING = Path(__file__).resolve().parents[2] / "infra" / "monitoring"
EVENTS = [
    StageStarted(stage="featurize", num_units=3),
    UnitDone(stage="featurize", unit=1, seconds=2.0),
    UnitDone(stage="featurize", unit=0, seconds=40.0),
    UnitRetried(stage="featurize", unit=2, error="StorageUnavailableError"),
    UnitDivided(stage="featurize", unit=2, num_parts=5),
    WorkerLost(stage="featurize", unit=2, reason="process 7 ended with SIGKILL"),
    WorkerLost(stage="featurize", unit=None, reason="it was not ready within 600 s"),
    Counted(stage="featurize", num_items=5, num_views=25, num_bytes=1000),
    Counted(stage="featurize", num_items=0, num_found=1),
    Rejected(stage="featurize", code="damaged_image", number=2),
    EncoderUsed(
        stage="featurize", seconds=3.0, busy_s=2.5, waited_s=0.25, num_decoders=2, decoders_busy_s=1.5
    ),
    StageEnded(stage="featurize", seconds=3.0, num_done=3, is_complete=True),
]
SUMS = {
    "onetoken_stage_units": 3,
    "onetoken_stage_seconds": 3,
    "onetoken_unit_seconds": 42,
    "onetoken_units_done": 2,
    "onetoken_units_found": 1,
    "onetoken_items": 5,
    "onetoken_views": 25,
    "onetoken_bytes": 1000,
    "onetoken_rejects": 2,
    "onetoken_unit_retries": 1,
    "onetoken_units_redone": 1,
    "onetoken_units_divided": 1,
    "onetoken_worker_deaths": 2,
    "onetoken_encoder_busy_seconds": 2.5,
    "onetoken_encoder_waited_seconds": 0.25,
    "onetoken_decoders_busy_seconds": 1.5,
}


def read_expressions() -> list[str]:
    """What the panels of the dashboard ask for."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(found) >= len(panels) > 5
    return found


def test_every_kind_of_event_and_every_metric_is_in_this_test():
    assert {type(event) for event in EVENTS} == set(typing.get_args(Event))
    assert {metric.name for metric in METRICS} == SUMS.keys()


def test_events_become_samples():
    sums = Counter()
    for event in EVENTS:
        for sample in list_samples(event):
            assert set(sample.tags) == set(sample.metric.tags)
            sums[sample.metric.name] += sample.value
    assert sums == SUMS


def test_every_panel_names_metrics_that_are_exported():
    exported = {name for metric in METRICS for name in exported_names(metric)}
    for expression in read_expressions():
        named = set(re.findall(r"\bray_\w+", expression))
        assert named, expression
        assert named <= exported, expression


def test_every_metric_is_on_the_dashboard():
    asked = " ".join(read_expressions())
    for metric in METRICS:
        assert any(re.search(rf"\b{name}\b", asked) for name in exported_names(metric)), metric.name


def test_panels_have_names_and_places_of_their_own():
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_prometheus_finds_the_nodes_where_ray_names_them():
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]


def test_events_hold_plain_values_only():
    """Numbers, and words that the program chose: nothing in which a secret could travel."""
    words = {"stage", "error", "reason", "code"}
    for kind in typing.get_args(Event):
        for field in dataclasses.fields(kind):
            assert field.type in (int, float, bool, int | None) or field.name in words


@pytest.mark.ray
def test_metrics_appear_at_the_endpoint_of_the_node(monkeypatch):
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    wanted = {name for metric in METRICS for name in exported_names(metric)}
    with ray_cluster(num_cpus=1):
        import ray

        tell = RayMetrics()
        for event in EVENTS:
            tell(event)
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        end_s = time.monotonic() + 60
        found: dict[str, str] = {}
        while not wanted <= found.keys() and time.monotonic() < end_s:
            time.sleep(0.5)
            with urllib.request.urlopen(url, timeout=30) as answer:
                lines = answer.read().decode().splitlines()
            found = {line.partition("{")[0]: line for line in lines if line.startswith("ray_onetoken_")}
    assert found.keys() == wanted
    for metric in METRICS:
        line = found[exported_names(metric)[-1]]
        assert 'stage="featurize"' in line
        if metric.kind != "histogram":  # Ray adds up the middles of buckets
            assert float(line.rpartition(" ")[2]) == SUMS[metric.name]
    assert 'code="damaged_image"' in found["ray_onetoken_rejects_total"]
