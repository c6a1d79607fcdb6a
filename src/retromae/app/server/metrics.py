"""What the server has done, in the text format that Prometheus reads. All calls come from one thread."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts of values below growing bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        below, comma = 0, "," if labels else ""
        for bound, count in zip((*self.bounds, "+Inf"), self.counts):
            below += count
            yield f'{name}_bucket{{{labels}{comma}le="{bound}"}} {below}'
        braces = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{braces} {self.total:.6f}"
        yield f"{name}_count{braces} {below}"


class Metrics:
    """Counters of one server. Routes are those that exist, so their number is bounded."""

    def __init__(self) -> None:
        self.queue: Callable[[], int] = lambda: 0
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._texts = Histogram(_TEXTS)
        self._passes = Histogram(_SECONDS)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests[method, route, status] += 1
        self._seconds.setdefault(route, Histogram(_SECONDS)).observe(seconds)

    def batch(self, texts: int, seconds: float) -> None:
        """One pass of the model."""
        self._texts.observe(texts)
        self._passes.observe(seconds)

    def text(self) -> str:
        lines = [*_head("retromae_requests_total", "counter", "Requests that were answered.")]
        for (method, route, status), count in sorted(self._requests.items()):
            labels = f'method="{method}",route="{route}",status="{status}"'
            lines.append(f"retromae_requests_total{{{labels}}} {count}")
        lines += _head("retromae_request_seconds", "histogram", "From the first byte to the last.")
        for route, histogram in sorted(self._seconds.items()):
            lines += histogram.lines("retromae_request_seconds", f'route="{route}"')
        lines += _head("retromae_batch_texts", "histogram", "Texts that shared one pass of the model.")
        lines += self._texts.lines("retromae_batch_texts")
        lines += _head("retromae_batch_seconds", "histogram", "Time of one pass of the model.")
        lines += self._passes.lines("retromae_batch_seconds")
        lines += _head("retromae_queue_texts", "gauge", "Texts that wait for the model.")
        lines.append(f"retromae_queue_texts {self.queue()}")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
