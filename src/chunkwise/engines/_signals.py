"""The stack on which a thread's signals are handled, kept from libraries that lend theirs and take it back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Whatever stack signals were handled on before, they are afterwards.

    OpenVINO gives the thread that compiles a model another one where the processor has AMX, and frees it with the
    model while it is in use (seen with 2026.4.1): the next signal, be it Ctrl-C, then ends the process.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    change = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    change(None, ctypes.byref(before))
    try:
        yield
    finally:
        change(ctypes.byref(before), None)
