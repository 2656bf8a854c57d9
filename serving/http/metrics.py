"""Counters and histograms in the text format of Prometheus. Only the event loop's thread may change them."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
USERS = (1, 2, 4, 8, 16, 32, 64, 128)


class Counter:
    """Sums, one for each set of label values."""

    kind = "counter"

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()):
        self.name, self.description, self.labels = name, description, tuple(labels)
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, *label_values: str, amount: float = 1) -> None:
        """Count up."""
        self.values[label_values] = self.values.get(label_values, 0) + amount

    def lines(self) -> Iterator[str]:
        """Its samples."""
        for label_values, value in self.values.items():
            yield _sample(self.name, dict(zip(self.labels, label_values, strict=True)), value)


class Gauge:
    """A number that is read when it is asked for."""

    kind = "gauge"

    def __init__(self, name: str, description: str, read: Callable[[], float]):
        self.name, self.description, self.read = name, description, read

    def lines(self) -> Iterator[str]:
        """Its sample."""
        yield _sample(self.name, {}, self.read())


class Histogram:
    """Counts of values up to each bound, their number and their sum; one set of these for each label value."""

    kind = "histogram"

    def __init__(self, name: str, description: str, bounds: Sequence[float], label: str | None = None):
        self.name, self.description, self.bounds, self.label = name, description, tuple(bounds), label
        self.counts: dict[str, list[int]] = {}
        self.sums: dict[str, float] = {}
        if label is None:
            self._start("")

    def _start(self, label_value: str) -> None:
        self.counts[label_value], self.sums[label_value] = [0] * (len(self.bounds) + 1), 0.0

    def observe(self, value: float, label_value: str = "") -> None:
        """Count a value."""
        if label_value not in self.counts:
            self._start(label_value)
        self.counts[label_value][bisect_left(self.bounds, value)] += 1
        self.sums[label_value] += value

    def lines(self) -> Iterator[str]:
        """Its samples: cumulative buckets, sum and count."""
        for label_value, counts in self.counts.items():
            labels, below = {} if self.label is None else {self.label: label_value}, 0
            for bound, count in zip((*self.bounds, "+Inf"), counts, strict=True):
                below += count
                yield _sample(f"{self.name}_bucket", {**labels, "le": str(bound)}, below)
            yield _sample(f"{self.name}_sum", labels, self.sums[label_value])
            yield _sample(f"{self.name}_count", labels, below)


class ServerMetrics:
    """Everything that a server counts.

    Attributes:
        requests: answered requests by path and status.
        seconds: from a request's first byte to its answer, by path.
        users: who were searched for.
        batches: users in one search.
        search_seconds: of one search.
        in_flight: requests that have no answer yet.
    """

    def __init__(self):
        self.in_flight = 0
        self.requests = Counter("gram_requests_total", "Requests by path and status.", ("path", "status"))
        self.seconds = Histogram("gram_request_seconds", "Seconds from request to answer.", SECONDS, "path")
        self.users = Counter("gram_users_total", "Users who were recommended to.")
        self.batches = Histogram("gram_batch_users", "Users in one search.", USERS)
        self.search_seconds = Histogram("gram_search_seconds", "Seconds of one search.", SECONDS)
        self._all = [self.requests, self.seconds, self.users, self.batches, self.search_seconds]
        self.add_gauge("gram_requests_in_flight", "Requests without an answer yet.", lambda: self.in_flight)
        if Path("/proc/self/statm").is_file():
            self.add_gauge("process_resident_memory_bytes", "Resident memory.", _resident_bytes)

    def add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Show another number."""
        self._all.append(Gauge(name, description, read))

    def text(self) -> str:
        """All of them, in the text format of Prometheus."""
        lines = []
        for metric in self._all:
            lines += [f"# HELP {metric.name} {metric.description}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in labels.items())  # our own words: nothing to escape
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
