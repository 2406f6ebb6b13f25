"""What the service measures of itself, for Prometheus. Each app has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE", "Meter"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Meter:
    """Counters that the gate turns, and gauges that are read when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ("method", "route", "status")
        self.requests = Counter("data_engine_requests", "Requests answered.", names, registry=self.registry)
        self.seconds = Histogram(
            "data_engine_request_seconds", "From a request's head to its answer's last byte.", ("route",),
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "data_engine_refused", "Requests refused at the gate.", ("code",), registry=self.registry
        )
        self.age = Gauge("data_engine_snapshot_age_seconds", "Since the lake was looked at.", registry=self.registry)
        self.look = Gauge("data_engine_snapshot_look_seconds", "The last look took.", registry=self.registry)
        self.held = Gauge("data_engine_rows", "Rows of the snapshot.", ("table",), registry=self.registry)
        self.runs = Gauge("data_engine_runs", "Runs of this process.", ("state",), registry=self.registry)

    def text(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self.registry)
