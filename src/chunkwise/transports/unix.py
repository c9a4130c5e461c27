"""A socket in the file system: for two programs of one machine."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from contextlib import suppress
from typing import ClassVar

from chunkwise.transports import Accept, Address, Limits, Link, Listener
from chunkwise.transports._stream import StreamDialer, StreamLink, StreamListener

__all__ = ["Unix"]


class Unix:
    """A stream over a UNIX socket; who may open the file may connect."""

    scheme: ClassVar[str] = "unix"

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen; a socket that a program left behind when it died is replaced, a living one is not.

        Only this user may connect: the socket's mode is 0600, from the moment it is there.

        Raises:
            OSError: the path cannot be had.
        """
        path = address.path
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            sock.bind(path)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen on {path}: {error.strerror}") from error
        finally:
            os.umask(before)
        mine = os.stat(path).st_ino

        def cleanup() -> None:
            with suppress(OSError):
                if os.stat(path).st_ino == mine:  # else another server has taken its place
                    os.unlink(path)

        listener = StreamListener(address, accept, limits, cleanup)
        await listener.start(sock, None)
        return listener

    async def dial(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Connect to whoever listens there, as soon as somebody does, and again when the connection ends."""
        return StreamDialer(address, accept, limits)

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
        return StreamLink(sock, local=True)


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, f"{path} is there and is no socket; nothing was removed")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, f"another program listens on {path}")
