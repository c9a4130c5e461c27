"""The operator's word: Ctrl-C once brings the robot to a standstill, twice leaves at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""From the keyboard, from a service manager, and from a terminal that goes away."""
AGAIN_S = 0.1
"""A signal so soon after the first is the same one, passed on by the program that started this one; s."""


class OperatorStop:
    """Listens for SIGINT, SIGTERM and SIGHUP while it is entered; what was set before comes back afterwards.

    Signals that somebody else listens for, and threads that get none, are left alone.

    Args:
        also: another event that says stop.
        clock: seconds.

    Attributes:
        pressed: whether a signal has come.
    """

    def __init__(self, also: threading.Event | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._also, self._clock = also, clock
        self._pressed_s = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self.pressed = False

    def is_set(self) -> bool:
        """Whether to stop."""
        return self.pressed or (self._also is not None and self._also.is_set())

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if not self.pressed:
            self.pressed, self._pressed_s = True, now
        elif now - self._pressed_s >= AGAIN_S:
            raise KeyboardInterrupt
