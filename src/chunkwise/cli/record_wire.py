"""``chunkwise record-wire``: stand between clients and a server, and keep every byte on a tape."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.cli.parser import Parser
from chunkwise.options import UsageError
from chunkwise.recording.tape import TapeWriter
from chunkwise.transports import Address, Limits, Listener, Peer, Transport

EXAMPLES = """\
  chunkwise record-wire --listen native=tcp://127.0.0.1:7778 --to tcp://127.0.0.1:7777 --tape one.tape
  chunkwise record-wire --listen openarm=unix:/tmp/tap.sock --to unix:/dev/shm/policy-server.socket --tape two.tape

and then, against another server:
  chunkwise replay-wire one.tape --against tcp://127.0.0.1:9999

A server of this project records itself, whatever carries its wires: chunkwise serve --tape DIR.
"""
STREAMS = ("tcp", "unix")
EARLY_BYTES = 64 << 20
"""What a client may say before the server is connected, and what may wait for a server that does not read."""


def main(argv: Sequence[str]) -> int:
    """Record until SIGTERM or Ctrl-C."""
    parser = Parser("record-wire", "Keep every byte between clients and a server on a tape.", EXAMPLES)
    parser.add_argument(
        "--listen", metavar="WIRE=ADDRESS", help="where clients connect: tcp://host:port, unix:/path"
    )
    parser.add_argument("--to", metavar="ADDRESS", help="where the server listens")
    parser.add_argument("--tape", metavar="FILE", help="the tape; must not be there yet")
    parsed = parser.parse(argv)
    for name in ("listen", "to", "tape"):
        if getattr(parsed, name) is None:
            raise UsageError(f"--{name} is missing")
    wire, equals, where = parsed.listen.partition("=")
    if not equals or wire not in plugins.names("wires"):
        there = ", ".join(plugins.names("wires"))
        raise UsageError(
            f"{parsed.listen!r}: write WIRE=ADDRESS, as in native=tcp://127.0.0.1:7778; wires: {there}"
        )
    listen, to = _stream(where), _stream(parsed.to)
    try:
        return asyncio.run(_record(wire, listen, to, Path(parsed.tape)))
    except OSError as error:
        print(f"chunkwise: {error.strerror or error}", file=sys.stderr)
        return 1


def _stream(text: str) -> Address:
    address = Address.parse(text)
    if address.transport not in STREAMS:
        raise UsageError(
            f"{text!r}: only {' and '.join(STREAMS)} are recorded between others; a server of this project "
            "records every transport itself: chunkwise serve --tape DIR"
        )
    return address


async def _record(wire: str, listen: Address, to: Address, path: Path) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    full: list[str] = []

    def on_full(why: str) -> None:
        full.append(why)
        stop.set()

    tape = TapeWriter(path, on_full=on_full)
    try:
        listener = await relay(wire, listen, to, tape)
        print(f"recording {listener.address} -> {to} into {path}; Ctrl-C ends it", file=sys.stderr, flush=True)
        await stop.wait()
        await listener.close()
    finally:
        tape.close()
    for why in full:
        print(f"chunkwise: {why}", file=sys.stderr)
    return 1 if full else 0


async def relay(wire: str, listen: Address, to: Address, tape: TapeWriter) -> Listener:
    """Listen, and hand every connection on to a server, with the tape in between.

    Raises:
        OSError: the address cannot be had.
    """
    transport: Transport = plugins.load("transports", listen.transport)()
    about = {"wire": wire, "transport": listen.transport, "address": str(listen)}
    return await transport.serve(listen, tape.tap(about, lambda peer: Relayed(peer, to)), Limits())


class Relayed:
    """A connection whose other side is a server.

    Args:
        peer: the client.
        to: where the server listens.
    """

    def __init__(self, peer: Peer, to: Address) -> None:
        self._peer, self._to = peer, to
        self._early = bytearray()
        self._server: asyncio.Transport | None = None
        self._dialing: asyncio.Task[None] | None = None

    def opened(self) -> None:
        self._dialing = asyncio.create_task(self._dial())

    def received(self, data: Any) -> None:
        server = self._server
        if server is not None:
            server.write(bytes(data))
            waiting = server.get_write_buffer_size()
        else:
            self._early += data
            waiting = len(self._early)
        if waiting > EARLY_BYTES:
            self._peer.close()

    def lost(self, why: str) -> None:
        if self._dialing is not None:
            self._dialing.cancel()
        if self._server is not None:
            self._server.close()

    async def _dial(self) -> None:
        loop, to = asyncio.get_running_loop(), self._to
        make: Callable[[], _Server] = lambda: _Server(self._peer)  # noqa: E731
        try:
            if to.transport == "unix":
                server, _ = await loop.create_unix_connection(make, to.path)
            else:
                server, _ = await loop.create_connection(make, to.host, to.port)
        except OSError as error:
            print(f"{to}: {error}", file=sys.stderr, flush=True)
            self._peer.close()
            return
        self._server = server
        if self._early:
            server.write(bytes(self._early))
            self._early.clear()


class _Server(asyncio.Protocol):
    """The server's side: what it says goes to the client."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def data_received(self, data: bytes) -> None:
        self._peer.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.close()
