"""uvicorn's HTTP protocol, with what it lacks: bounds, and responses that leave in one piece."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chunkwise.transports import Limits

MAX_HEAD_BYTES: Final = 16 << 10
"""Of the URL and all headers."""
MAX_PIPELINED: Final = 16
HEAD_S: Final = 10.0
"""A connection that has not sent a whole head after so long ends."""
UNREAD_S: Final = 30.0
"""A client that does not read its response for so long is dropped."""


class BoundedProtocol(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn is not read by mypy
    """uvicorn's protocol with what it lacks: bounds of connections, heads and time.

    Args:
        limits: what is put up with.
        given: uvicorn's own arguments.
    """

    def __init__(self, limits: Limits, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Abort one connection too many, else wait for its head."""
        if len(self.connections) >= self._limits.connections:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._joined: Any = JoinedWrites(transport, self.loop)
        self._end_unless_within(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has gone; no timer keeps what is left of it."""
        self._in_time()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; a head that does not end is not kept for ever."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()
            elif self._timer is None:
                self._end_unless_within(HEAD_S)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole.

        Raises:
            ValueError: too many of them came before the first was answered; the parser makes it a 400.
        """
        self._in_head = False
        self._in_time()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        self.cycle.transport = self._joined

    def on_body(self, body: bytes) -> None:
        """A piece of a body; the application wants it whole, and has refused it already if it is too long."""
        if self.pipeline or self.cycle.waiting_for_100_continue:
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.body += body

    def pause_writing(self) -> None:
        """It does not read: it has a while for that, too."""
        super().pause_writing()
        self._end_unless_within(UNREAD_S)

    def resume_writing(self) -> None:
        """It reads again."""
        self._in_time()
        super().resume_writing()

    def _end_unless_within(self, seconds: float) -> None:
        self._in_time()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class JoinedWrites:
    """What uvicorn's response needs of a transport; head and body leave together, for half the system calls.

    Args:
        transport: of the connection.
        loop: that it runs on.
    """

    __slots__ = ("_loop", "_pieces", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write at the end of this turn of the loop."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Close once everything is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._transport.write(data)
