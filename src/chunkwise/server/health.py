"""``/healthz``, ``/readyz`` and ``/metrics``, on every HTTP and websocket address beside what is spoken there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from chunkwise.server.metrics import Metrics
from chunkwise.server.service import Service
from chunkwise.transports import Connection, Peer
from chunkwise.wires import HttpRequest, HttpResponse, Readiness

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ALIVE = {
    "http": HttpResponse(200, b'{"status": "ok"}'),
    "websocket": HttpResponse(200, b"OK\n", "text/plain"),  # as probes of policy servers over websockets know it
}
"""What is said at ``/healthz``, by transport; these are the transports that carry requests."""


class HealthConnection:
    """Answers the health endpoints, and hands everything else on.

    Args:
        service: whose health it is.
        metrics: what is counted.
        peer: the other end.
        inner: makes the connection for everything else; None for nothing.
        alive: the answer at ``/healthz``.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        peer: Peer,
        inner: Callable[[Peer], Connection] | None,
        alive: HttpResponse = ALIVE["http"],
    ) -> None:
        self._service, self._metrics, self._peer, self._make = service, metrics, peer, inner
        self._alive = alive
        self._inner: Connection | None = None

    def opened(self) -> None: ...

    def received(self, data: Any) -> None:
        if self._inner is not None:  # what follows the request, where a transport carries more than it
            self._inner.received(data)
            return
        response = self._respond(data)
        if response is not None:
            self._peer.send(response)
            return
        assert self._make is not None
        self._inner = self._make(self._peer)
        self._inner.opened()
        self._inner.received(data)

    def lost(self, why: str) -> None:
        if self._inner is not None:
            self._inner.lost(why)

    def _respond(self, request: HttpRequest) -> HttpResponse | None:
        if request.path == "/healthz":  # the event loop turns: that is what it says
            return self._alive
        if request.path == "/readyz":
            offer = self._service.offer()
            detail = offer.detail if self._peer.local else ""  # it may name paths of this machine
            body = json.dumps({"status": offer.readiness, "detail": detail}).encode()
            return HttpResponse(200 if offer.readiness is Readiness.READY else 503, body)
        if request.path == "/metrics":
            text = self._metrics.text()
            if not text:
                return HttpResponse(501, b"pip install 'chunkwise[serve]'", "text/plain")
            return HttpResponse(200, text, METRICS_TYPE)
        if self._make is None:
            return HttpResponse(404, b'{"detail": "Not Found"}')
        return None
