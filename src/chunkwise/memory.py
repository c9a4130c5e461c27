"""Memory that processes share.  It has no name in any folder, so nothing is left behind, however they end.

It comes from ``memfd_create``, and its size is sealed, so that nobody can cut it under a reader.  Others get it by
its descriptor.  The kernel frees it when the last of them has gone.  ``ls -l /proc/PID/fd`` shows it as
``/memfd:NAME``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from typing import Self

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if hasattr(fcntl, "F_SEAL_SEAL") else 0


class Memory:
    """A piece of shared memory, mapped into this process.

    Args:
        fd: its descriptor, which is this object's from now on.
        size: bytes of it.
        writable: whether this process may write to it.

    Attributes:
        fd: its descriptor; -1 once it is closed.
        buffer: ``size`` bytes.

    Raises:
        OSError: it cannot be mapped.
    """

    def __init__(self, fd: int, size: int, *, writable: bool = True) -> None:
        self.fd = fd
        try:
            protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
            self._map = mmap.mmap(fd, size, prot=protection)
        except BaseException:
            os.close(fd)
            raise
        self.buffer = memoryview(self._map)

    @classmethod
    def new(cls, size: int, name: str = "chunkwise", *, reserve: bool = False) -> Self:
        """New memory, all zero.

        Args:
            size: bytes.
            name: that the system shows.
            reserve: have all of it now, so that no later write can fail.

        Raises:
            OSError: there is not that much, or the system has no such memory.
        """
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            if reserve:
                os.posix_fallocate(fd, 0, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size)

    @classmethod
    def received(cls, fd: int, *, most: int, writable: bool = True) -> Self:
        """Somebody else's memory, once it is known that its size stays what it is.

        Args:
            fd: as it came; this object's from now on.
            most: bytes that are taken at most.
            writable: whether this process writes to it.

        Raises:
            ValueError: its size is not sealed, or beyond `most`.
            OSError: it cannot be mapped.
        """
        try:
            size = os.fstat(fd).st_size
            sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
            if not sealed or not 0 < size <= most:
                raise ValueError(f"shared memory of {size} bytes (at most {most}), sealed: {sealed}")
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size, writable=writable)

    def close(self) -> None:
        """Let it go; views that are still used keep the memory until they are gone too.  Twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        with suppress(BufferError):  # somebody still looks at it, and the last who does lets it go
            self.buffer.release()
            self._map.close()
