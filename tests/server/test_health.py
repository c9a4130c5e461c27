"""The health endpoints, and what is handed on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from chunkwise.server.health import HealthConnection
from chunkwise.wires import HttpRequest, HttpResponse

Play = Callable[..., Any]


class Caller:
    """The other end of one HTTP request."""

    name, local = "caller", True

    def __init__(self, bench: Any, inner: Any = None) -> None:
        self.answers: list[HttpResponse] = []
        self.connection = HealthConnection(bench.service, bench.metrics, self, inner)
        self.connection.opened()

    def send(self, data: HttpResponse) -> None:
        self.answers.append(data)

    def close(self) -> None:
        pass

    def get(self, path: str) -> HttpResponse:
        """The answer, which is there at once."""
        self.connection.received(HttpRequest("GET", path))
        return self.answers.pop()


def test_health_is_answered_while_the_policy_runs(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        held.go.clear()
        line.ask(1)
        await bench.entered()
        assert Caller(bench).get("/healthz") == HttpResponse(200, b'{"status": "ok"}')
        ready = Caller(bench).get("/readyz")
        assert (ready.status, json.loads(ready.body)["status"]) == (200, "ready")
        assert not line.about(1)

    play(held, story)


def test_ready_is_said_when_it_is_and_not_before(play: Play, held: Any) -> None:
    go = threading.Event()

    def make() -> Any:
        go.wait(10)
        return held

    async def story(bench: Any) -> None:
        early = Caller(bench).get("/readyz")
        assert early.status == 503 and json.loads(early.body)["status"] == "loading"
        assert Caller(bench).get("/healthz").status == 200
        go.set()
        await bench.service.loaded
        assert Caller(bench).get("/readyz").status == 200
        bench.service.drain()
        late = Caller(bench).get("/readyz")
        assert late.status == 503 and json.loads(late.body)["status"] == "draining"

    play(make, story, load=False)


def test_metrics_are_text_for_prometheus(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        line.ask(1)
        await line.rows(1)
        answer = Caller(bench).get("/metrics")
        assert answer.status == 200 and answer.content_type.startswith("text/plain; version=0.0.4")
        assert b'chunkwise_answers_total{result="ok",wire="native"} 1.0' in answer.body

    play(held, story)


def test_everything_else_goes_to_the_wire_or_is_not_found(play: Play, held: Any) -> None:
    class Inner:
        def __init__(self, peer: Any) -> None:
            self.peer, self.lost_why = peer, ""

        def opened(self) -> None: ...

        def received(self, data: HttpRequest) -> None:
            self.peer.send(HttpResponse(200, data.path.encode()))

        def lost(self, why: str) -> None:
            self.lost_why = why

    async def story(bench: Any) -> None:
        inner: list[Inner] = []

        def make(peer: Any) -> Inner:
            inner.append(Inner(peer))
            return inner[-1]

        caller = Caller(bench, make)
        assert caller.get("/predict").body == b"/predict"
        caller.connection.lost("gone")
        assert inner[0].lost_why == "gone"
        assert Caller(bench, make).get("/healthz").status == 200 and len(inner) == 1
        assert Caller(bench).get("/predict").status == 404

    play(held, story)
