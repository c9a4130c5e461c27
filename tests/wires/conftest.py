"""A policy server on loopback, in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address

PATIENCE_S = 10.0


class Served:
    """A started server.

    Attributes:
        said: names and details of what was logged.
        ports: of the wires, by name.
    """

    def __init__(self, make: Callable[[], Any], listens: list[Listen], settings: Settings, loaded: bool) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = Server(
            make,
            listens,
            settings,
            version="chunkwise test",
            on_event=lambda name, **details: self.said.append((name, details)),
        )

        async def begin() -> None:
            await self.server.start()
            if loaded:
                await self.server.service.loaded

        self.run(begin())
        addresses = self.server.addresses
        self.ports = {listen.name: address.port for listen, address in zip(listens, addresses, strict=True)}

    def run(self, doing: Any) -> Any:
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(PATIENCE_S)

    def get(self, wire: str, path: str) -> tuple[int, bytes]:
        """Status and body of a plain request."""
        plain = http.client.HTTPConnection("127.0.0.1", self.ports[wire], timeout=PATIENCE_S)
        try:
            plain.request("GET", path)
            answer = plain.getresponse()
            return answer.status, answer.read()
        finally:
            plain.close()

    def close(self) -> None:
        """End the server."""
        self.run(self.server.stop(drain_s=0.0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts a server: ``serve(policy, "openpi", "native=tcp", settings=..., options={...})``; the wire's usual
    transport where none is named."""
    with ExitStack() as stack:

        def start(
            policy: Any,
            *wires: str,
            settings: Settings | None = None,
            loaded: bool = True,
            options: dict[str, Any] | None = None,
            listens: Sequence[Listen] = (),
        ) -> Served:
            listens = list(listens)
            for text in wires:
                name, _, transport = text.partition("=")
                maker = plugins.load("wires", name)
                address = Address(transport or maker.transports[0], host="127.0.0.1")
                listens.append(Listen(name, maker(**(options or {}).get(name, {})), address))
            make = policy if callable(policy) else lambda: policy
            made = Served(make, listens, settings or Settings(), loaded)
            stack.callback(made.close)
            return made

        yield start
