"""How long a message may be, over every transport, where nobody says anything else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.transports import Address, Limits, _http_server, _websocket_server, grpc, websocket, zmq
from chunkwise.wires import HttpRequest, HttpResponse
from chunkwise.wires._grpc import request

PATIENCE_S = 10.0
MOST = 1000
PUBLISHED = {
    "http": (_http_server, "MAX_BODY_BYTES", 16 << 20),
    "websocket": (websocket, "MAX_MESSAGE_BYTES", 64 << 20),
    "grpc": (grpc, "MAX_MESSAGE_BYTES", 64 << 20),
    "zmq": (zmq, "MAX_MESSAGE_BYTES", 64 << 20),
}
"""Where a transport has its limit, and what docs/serving.md says of it."""


class Echo:
    """Answers everything with its length."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer

    def opened(self) -> None: ...

    def received(self, data: Any) -> None:
        if isinstance(data, HttpRequest):
            if "upgrade" not in data.headers:
                self._peer.send(HttpResponse(200, data.body, "application/grpc"))
        else:
            self._peer.send(b"%d" % len(data))

    def lost(self, why: str) -> None: ...


@contextmanager
def linked(scheme: str, limits: Limits) -> Iterator[Any]:
    """A client's end of a connection to a server of such limits."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, loop).result(PATIENCE_S)

    transport = plugins.load("transports", scheme)()
    listener = run(transport.serve(Address(scheme, host="127.0.0.1"), Echo, limits))
    link = transport.connect(listener.address, timeout_s=PATIENCE_S)
    try:
        yield link
    finally:
        link.close()
        run(listener.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def message(scheme: str, size: int) -> Any:
    """One of so many bytes."""
    if scheme == "http":
        return HttpRequest("POST", "/x", body=bytes(size))
    return request("/a.B/C", [bytes(size)]) if scheme == "grpc" else bytes(size)


def is_taken(scheme: str, limits: Limits, size: int) -> bool:
    """Whether a message of so many bytes is answered."""
    with linked(scheme, limits) as link:
        try:
            link.send(message(scheme, size), PATIENCE_S)
            answer = link.receive(PATIENCE_S)
        except OSError:
            return False
    assert answer is not None
    return not isinstance(answer, HttpResponse) or bool(answer.body and answer.status == 200)


@pytest.mark.parametrize("scheme", PUBLISHED)
def test_without_limits_a_transport_has_its_own(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, published = PUBLISHED[scheme]
    assert getattr(module, name) == published
    for place in (module, _websocket_server):
        if hasattr(place, name) and (place is module or scheme == "websocket"):
            monkeypatch.setattr(place, name, MOST)
    assert is_taken(scheme, Limits(), MOST) and not is_taken(scheme, Limits(), MOST + 1)


@pytest.mark.parametrize("scheme", PUBLISHED)
def test_limits_go_before_a_transports_own(scheme: str) -> None:
    limits = Limits(message_bytes=MOST)
    assert is_taken(scheme, limits, MOST) and not is_taken(scheme, limits, MOST + 1)
