"""Memory that a server shares with a client of the same user on the same host; it has no name, so nothing leaks.

The server makes it (``memfd_create``), seals its size so that nobody can cut it under a reader, and tells where
its descriptor is to be found; the kernel frees it when the last of the two has gone, however they went.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import secrets
from contextlib import suppress

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
        self._fd = os.memfd_create("chunkwise", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, size + NONCE_BYTES)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._map = mmap.mmap(self._fd, size + NONCE_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self._map[size:] = self.nonce
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self.buffer = memoryview(self._map)[:size]

    def close(self) -> None:
        """Let it go; views that are still used keep the memory until they are gone too.  Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(BufferError):  # somebody still looks at it, and the last who does lets it go
            self.buffer.release()
            self._map.close()


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
