"""A stream over TCP, with TLS where it is asked for."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import ClassVar

from chunkwise.transports import Accept, Address, Limits, Link, Listener
from chunkwise.transports._stream import StreamLink, StreamListener

__all__ = ["Tcp"]


class Tcp:
    """A stream over TCP."""

    scheme: ClassVar[str] = "tcp"

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen; port 0 takes one that is free.

        Raises:
            OSError: the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address.host, address.port))
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error
        listener = StreamListener(replace(address, port=sock.getsockname()[1]), accept, limits)
        await listener.start(sock, tls)
        return listener

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        sock = socket.create_connection((address.host, address.port), timeout_s)
        try:
            local = sock.getpeername()[0] in ("127.0.0.1", "::1") or sock.getpeername()[0] == sock.getsockname()[0]
            if tls is not None:
                sock = tls.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
        return StreamLink(sock, local)
