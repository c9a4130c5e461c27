"""Memory that a server shares with a client of the same user on the same host.

The server makes it and tells where its descriptor is to be found; a nonce in its last bytes shows the client
that it is the same memory.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
from contextlib import suppress

from chunkwise.memory import Memory

NONCE_BYTES = 16


class SharedMemory:
    """The server's piece.

    Args:
        size: bytes that the client may use; the nonce lies behind them.

    Attributes:
        path: where a client on the same host opens it.
        nonce: what lies in the last bytes.
        buffer: ``size`` bytes.
    """

    def __init__(self, size: int) -> None:
        self._memory = Memory.new(size + NONCE_BYTES)
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self._memory.buffer[size:] = self.nonce
        self.path = f"/proc/{os.getpid()}/fd/{self._memory.fd}"
        self.buffer = self._memory.buffer[:size]

    def close(self) -> None:
        """Let it go; views that are still used keep the memory until they are gone too.  Twice is fine."""
        with suppress(BufferError):
            self.buffer.release()
        self._memory.close()


def attach(path: str, size: int, nonce: bytes) -> memoryview | None:
    """The client's view of a server's piece; None where it is not the same memory: another host, or another user.

    Args:
        path, size, nonce: as the server said.
    """
    if re.fullmatch(r"/proc/\d+/fd/\d+", path) is None or len(nonce) != NONCE_BYTES or not 0 < size <= 1 << 32:
        return None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_size != size + NONCE_BYTES:
            return None
        whole = mmap.mmap(fd, size + NONCE_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    if whole[size:] != nonce:
        whole.close()
        return None
    return memoryview(whole)[:size]
