"""One loaded policy, and everybody who asks it: any number of wires at once, each on its own address.

::

    server = Server(make_policy, [Listen("native", Native(), Address.parse("tcp://127.0.0.1:7777"))])
    await server.start()          # listens at once; /readyz and the wires say that it loads
    await server.service.loaded
    ...
    await server.stop()
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.policies import Policy
from chunkwise.server.connection import WireConnection
from chunkwise.server.health import ALIVE, HealthConnection
from chunkwise.server.metrics import Metrics
from chunkwise.server.service import Service, Settings
from chunkwise.transports import Accept, Address, Connection, Limits, Listener, Peer, Transport
from chunkwise.wires import Readiness, Wire

__all__ = ["Listen", "Server", "Service", "Settings"]

SWEEP_S = 5.0
DRAIN_S = 10.0


@dataclass(slots=True, frozen=True)
class Listen:
    """A wire on an address.

    Attributes:
        name: of the wire; ``health`` for the health endpoints alone.
        wire: makes its halves; None for health.
        address: where.
        dial: connect there instead of listening, and again whenever the connection ends.
        anonymous: ask for no token, although others on the network can reach it.
    """

    name: str
    wire: Wire | None
    address: Address
    dial: bool = False
    anonymous: bool = False


class Server:
    """Listeners, and the service behind them.

    Args:
        make: makes the policy, on the inference thread.
        listens: where what is spoken.
        settings: how the policy is served.
        limits: of every listener.
        tls: for all but unix, where it is wanted.
        version: told to clients.
        on_event: told what happened, for logs: a name and details.
        tap: what a listener accepts with, with everything that its connections say and hear on a tape; told the
            wire, the transport and the address; None for no tape.

    Raises:
        InterfaceValidationError: a wire cannot be carried by that transport, or an address that others can reach
            has neither a token nor leave to be anonymous.
    """

    def __init__(
        self,
        make: Callable[[], Policy],
        listens: Sequence[Listen],
        settings: Settings | None = None,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        version: str = "",
        on_event: Callable[..., None] = lambda name, **details: None,
        tap: Callable[[Mapping[str, str], Accept], Accept] | None = None,
    ) -> None:
        self._make, self._listens, self._tap = make, list(listens), tap
        self._settings, self._limits, self._tls = settings or Settings(), limits or Limits(), tls
        self._version, self._say = version, on_event
        self._listeners: list[Listener] = []
        self._sweeper: asyncio.Task[None] | None = None
        self.metrics = Metrics()
        for listen in self._listens:
            _check(listen, self._settings)

    async def start(self) -> None:
        """Listen everywhere, and begin to load the policy; the event ``ready`` tells when both are done.

        Raises:
            OSError: an address cannot be had; nothing listens then.
        """
        self.service = Service(self._make, self._settings, version=self._version, on_event=self._say)
        self.metrics.waiting.set_function(lambda: self.service.inference.waiting)
        self.metrics.sessions.set_function(lambda: len(self.service.sessions))
        self.metrics.ready.set_function(lambda: float(self.service.readiness is Readiness.READY))
        try:
            for listen in self._listens:
                transport: Transport = plugins.load("transports", listen.address.transport)()
                how = getattr(transport, "dial") if listen.dial else transport.serve  # noqa: B009
                tls = None if listen.address.transport == "unix" else self._tls
                listener: Listener = await how(listen.address, self._taped(listen), self._limits, tls)
                self._listeners.append(listener)
                self._say("listening", wire=listen.name, address=str(listener.address), tls=tls is not None)
        except BaseException:
            await self.stop(drain_s=0)
            raise
        self._sweeper = asyncio.create_task(self._sweep())
        self.service.loaded.add_done_callback(self._told_ready)

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, with the ports that were taken, in the order of the listens."""
        return [listener.address for listener in self._listeners]

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no new requests, answer those that there are, and end.  Twice is fine."""
        self.service.drain()
        self._say("draining", waiting=self.service.inference.waiting)
        until_s = self.service.clock() + drain_s
        while self.service.busy and self.service.clock() < until_s:
            await asyncio.sleep(0.01)
        if self._sweeper is not None:
            self._sweeper.cancel()
        listeners, self._listeners = self._listeners, []
        await asyncio.gather(*(listener.close() for listener in listeners))
        self.service.close()
        self._say("stopped")

    def _told_ready(self, loaded: asyncio.Future[Readiness]) -> None:
        if not loaded.cancelled() and loaded.result() is Readiness.READY:
            self._say("ready", addresses=[str(address) for address in self.addresses])

    def _taped(self, listen: Listen) -> Accept:
        about = {"wire": listen.name, "transport": listen.address.transport, "address": str(listen.address)}
        accept = self._accept(listen)
        return accept if self._tap is None else self._tap(about, accept)

    def _accept(self, listen: Listen) -> Callable[[Peer], Connection]:
        guarded = not listen.anonymous and listen.address.transport != "unix"

        def wired(peer: Peer) -> Connection:
            assert listen.wire is not None
            return WireConnection(self.service, listen.name, listen.wire.server(), peer, self.metrics, guarded)

        alive = ALIVE.get(listen.address.transport)
        if alive is not None:
            inner = None if listen.wire is None else wired
            return lambda peer: HealthConnection(self.service, self.metrics, peer, inner, alive)
        return wired

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.service.sweep()


def _check(listen: Listen, settings: Settings) -> None:
    where = f"{listen.name}={listen.address}"
    transport: Any = plugins.load("transports", listen.address.transport)
    carried = ("http",) if listen.wire is None else listen.wire.transports
    if listen.address.transport not in carried:
        raise InterfaceValidationError(f"{where}: {listen.name} is carried by {', '.join(carried)}")
    if listen.dial and not hasattr(transport, "dial"):
        raise InterfaceValidationError(f"{where}: {listen.address.transport} can only listen")
    if not listen.address.local and not settings.token and not listen.anonymous:
        raise InterfaceValidationError(
            f"{where} can be reached from other machines: give a token (--token-file, or CHUNKWISE_TOKEN), "
            "listen on 127.0.0.1, or say ?anonymous=true if everybody there may drive the robot"
        )
