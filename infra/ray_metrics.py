"""Metrics at the endpoints that Ray's nodes have for Prometheus; the driver exports, its node serves.

Ray puts `ray_` before each name and `_total` after each counter. It sends every few seconds, and what a
process told is gone with it: dashboards show a run that goes on, the event log keeps what was.
"""

import importlib
from typing import Any, Final

from infra.metrics import METRICS, SECONDS, Metric, list_samples
from schemas.events import Event

_CLASSES: Final = {"counter": "Counter", "gauge": "Gauge", "histogram": "Histogram"}


class RayMetrics:
    """Tells Ray of events; only where this process is connected to a cluster."""

    def __init__(self) -> None:
        library: Any = importlib.import_module("ray.util.metrics")
        self._meters = {metric.name: _open(library, metric) for metric in METRICS}

    def __call__(self, event: Event) -> None:
        """Raise counters, set gauges, fill histograms."""
        for sample in list_samples(event):
            meter = self._meters[sample.metric.name]
            match sample.metric.kind:
                case "counter":
                    meter.inc(sample.value, tags=sample.tags)
                case "gauge":
                    meter.set(sample.value, tags=sample.tags)
                case "histogram":
                    meter.observe(sample.value, tags=sample.tags)


def exported_names(metric: Metric) -> tuple[str, ...]:
    """How Prometheus knows a metric."""
    name = f"ray_{metric.name}"
    match metric.kind:
        case "counter":
            return (f"{name}_total",)
        case "gauge":
            return (name,)
        case "histogram":
            return (f"{name}_bucket", f"{name}_count", f"{name}_sum")


def _open(library: Any, metric: Metric) -> Any:  # noqa: ANN401 - Ray is loaded only when it is used
    make = getattr(library, _CLASSES[metric.kind])
    bounds = {"boundaries": list(SECONDS)} if metric.kind == "histogram" else {}
    return make(metric.name, description=metric.description, tag_keys=metric.tags, **bounds)
