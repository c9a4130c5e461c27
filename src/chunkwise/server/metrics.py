"""Counters for Prometheus; nothing is counted where its client library is not installed."""

from __future__ import annotations

from typing import Any

from chunkwise import plugins
from chunkwise.wires import Problem, Result

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


class _Nothing:
    """Counts nothing."""

    def labels(self, *names: str) -> _Nothing:
        return self

    def inc(self, amount: float = 1) -> None: ...
    def dec(self, amount: float = 1) -> None: ...
    def observe(self, amount: float) -> None: ...
    def set_function(self, function: Any) -> None: ...


class Metrics:
    """What is counted, each in a registry of its own server.

    Attributes:
        connections: open now, by wire.
        refused: connections ended because they spoke no protocol, by wire.
        answers: by wire and result: ``ok``, or the kind of problem.
        seconds: from a call's arrival to its answer, by wire.
        waiting, sessions: set to functions by the server.
        answered: how many answers there were, counted without the library, too.
    """

    def __init__(self) -> None:
        self._registry: Any = None
        nothing: Any = _Nothing()
        self.connections = self.refused = self.answers = self.seconds = self.waiting = self.sessions = nothing
        self.ready = nothing
        self.answered = 0
        try:
            client = plugins.require("prometheus_client", extra="serve")
        except plugins.MissingExtra:
            return
        self._client = client
        self._registry = registry = client.CollectorRegistry()
        self.connections = client.Gauge("chunkwise_connections", "Open connections", ["wire"], registry=registry)
        self.refused = client.Counter(
            "chunkwise_refused", "Connections that spoke no protocol", ["wire"], registry=registry
        )
        self.answers = client.Counter("chunkwise_answers", "Answers", ["wire", "result"], registry=registry)
        self.seconds = client.Histogram(
            "chunkwise_seconds", "Arrival of a call to its answer", ["wire"], buckets=SECONDS, registry=registry
        )
        self.waiting = client.Gauge("chunkwise_waiting", "Requests that wait", registry=registry)
        self.sessions = client.Gauge("chunkwise_sessions", "Sessions", registry=registry)
        self.ready = client.Gauge("chunkwise_ready", "1 where requests are answered", registry=registry)

    def count(self, wire: str, result: Result) -> None:
        """One answer."""
        self.answered += 1
        self.answers.labels(wire, result.kind if isinstance(result, Problem) else "ok").inc()

    def served(self, wire: str, seconds: float, result: Result) -> None:
        """One answer that was worked for."""
        self.count(wire, result)
        self.seconds.labels(wire).observe(seconds)

    def text(self) -> bytes:
        """What Prometheus reads; empty where its library is not installed."""
        return b"" if self._registry is None else bytes(self._client.generate_latest(self._registry))
