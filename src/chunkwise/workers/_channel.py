"""Messages between a program and its inference process: small ones through a socket, large ones in shared memory.

A message is a packed tree (`chunkwise.contract.packing`) behind one byte that says where it is: in the same
packet, or in memory whose descriptor came with it.  The socket is a pair of ``SOCK_SEQPACKET``: a packet arrives
whole or not at all, waiting ends when one is there, and the end of the other process is the end of the stream.
"""

from __future__ import annotations

import array
import math
import os
import select
import socket
from typing import Any

from chunkwise.contract.packing import Packed, Unpacker
from chunkwise.memory import Memory

MAX_PACKET_BYTES = 64 << 10
"""Larger messages go through shared memory; a socket takes a few of this size before anybody reads."""
MAX_MESSAGE_BYTES = 256 << 20
HERE, IN_MEMORY, OTHER = b"\0", b"\1", b"\2"
_INT = array.array("i").itemsize
_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Gone(ConnectionError):
    """The other process has ended, or its end of the socket was closed."""


class Channel:
    """One end of a conversation.

    Args:
        end: of a pair of sockets; this object's from now on.
        waits: whether `send` waits for room; else a full socket means that nobody reads any more.
    """

    def __init__(self, end: socket.socket, *, waits: bool = True) -> None:
        self._socket, self._flags = end, 0 if waits else socket.MSG_DONTWAIT
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._buffer = bytearray(MAX_PACKET_BYTES + 1)
        self._view = memoryview(self._buffer)
        self._unpack = Unpacker()

    def fileno(self) -> int:
        """Its descriptor, for polling; -1 once it is closed."""
        return self._socket.fileno()

    def send(self, tree: dict[str, Any], memory: Memory | None = None) -> None:
        """Send a message.

        Args:
            tree: plain values and arrays.
            memory: that the other process is given with it; the message is a small one then.

        Raises:
            Gone: nobody is there, or nobody reads.
            PackingError: the tree is too large.
            OSError: there is no memory for a large one.
        """
        packed = Packed(tree, copy=False)
        buffers = packed.buffers
        size = sum(len(piece) for piece in buffers)
        if size <= MAX_PACKET_BYTES:
            self._send([HERE, *buffers], memory)
            return
        assert memory is None, "a message with memory is a small one"
        large = Memory.new(size, "chunkwise-message")
        try:
            at = 0
            for piece in buffers:
                large.buffer[at : at + len(piece)] = piece
                at += len(piece)
            self._send([IN_MEMORY], large)
        finally:
            large.close()

    def send_bytes(self, data: bytes, memory: Memory | None = None) -> None:
        """Send what is no tree; it is received under the key ``bytes``.

        Raises:
            Gone: as :meth:`send`.
        """
        self._send([OTHER, data], memory)

    def _send(self, buffers: list[Any], memory: Memory | None) -> None:
        control = []
        if memory is not None:
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory.fd])))
        try:
            self._socket.sendmsg(buffers, control, self._flags)
        except BlockingIOError:
            raise Gone("it has not read its messages for long") from None
        except OSError as error:
            raise Gone(error.strerror or str(error)) from error

    def ready(self, timeout_s: float | None = 0.0) -> bool:
        """Whether there is a message, or the end; waits at most so long for it, for ever with None."""
        if self._socket.fileno() < 0:  # its number may be another file's by now
            return True
        return bool(self._poll.poll(None if timeout_s is None else math.ceil(max(timeout_s, 0.0) * 1e3)))

    def receive(self, timeout_s: float | None = 0.0) -> tuple[dict[str, Any], int | None] | None:
        """The next message and the descriptor that came with it, which is the caller's; None for none in time.

        Raises:
            Gone: the other process has ended.
            PackingError, ValueError: what came is no message.
        """
        if not self.ready(timeout_s):
            return None
        try:
            size, control, flags, _ = self._socket.recvmsg_into([self._buffer], socket.CMSG_LEN(_INT), _FLAGS)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Gone(error.strerror or str(error)) from error
        fd = _descriptor(control)
        if not size:
            raise Gone("it has ended")
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError(
                    f"a packet of more than {MAX_PACKET_BYTES} bytes, or with more than one descriptor"
                )
            if self._view[:1] == HERE:
                return self._unpack(self._view[1:size]), fd
            if self._view[:1] == OTHER:
                return {"bytes": bytes(self._view[1:size])}, fd
            if fd is None:
                raise ValueError("a message in memory that did not come")
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise
        memory = Memory.received(fd, most=MAX_MESSAGE_BYTES, writable=False)
        try:
            return self._unpack(memory.buffer), None
        finally:
            memory.close()

    def shut(self) -> None:
        """End the conversation, for both; whoever waits on it goes on."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            return

    def close(self) -> None:
        """Let the socket go.  Twice is fine."""
        self._socket.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _descriptor(control: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= _INT:
            return int(array.array("i", data[:_INT])[0])
    return None
