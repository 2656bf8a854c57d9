"""What a server counts, for Prometheus."""

from __future__ import annotations

from ...common.extras import needs

with needs("serve", "serving"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
USERS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Everything that one server counts, in a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        mine = {"registry": self.registry}
        self.requests = Counter("gram_requests", "Requests by path and status.", ("path", "status"), **mine)
        self.seconds = Histogram(
            "gram_request_seconds", "Seconds from request to answer.", ("path",), buckets=SECONDS, **mine
        )
        self.in_flight = Gauge("gram_requests_in_flight", "Requests without an answer yet.", **mine)
        self.users = Counter("gram_users", "Users who were recommended to.", **mine)
        self.waiting = Gauge("gram_waiting_users", "Users whose search has not begun.", **mine)
        self.batches = Histogram("gram_batch_users", "Users in one search.", buckets=USERS, **mine)
        self.search_seconds = Histogram("gram_search_seconds", "Seconds of one search.", buckets=SECONDS, **mine)
