"""What a process does with memory that it has freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

KEPT_BYTES: Final = 64 << 20
"""Freed memory that is kept for the next message."""
LARGEST_BYTES: Final = 32 << 20
"""Pieces up to this are taken from it; the C library allows no more."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Keep freed memory for the next picture, where the C library is glibc; whether it is.

    Without, the memory of each picture of some 100 kB is given back to the kernel and asked for again with the
    next one, page by page: 0.2 ms for three pictures of 224 x 224, 8 ms for two of 640 x 480 scaled to float32.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
    return False
