"""Notices when the control loop itself stands still."""

from __future__ import annotations


class Watchdog:
    """A dead man's switch: the loop beats, another thread looks.

    Time is an argument, so it is tested without a clock.

    Args:
        timeout_s: the longest silence that is healthy.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be above zero, got {timeout_s}")
        self.timeout_s = timeout_s
        self.trips = 0
        self._beat_s: float | None = None
        self._tripped = False

    def beat(self, now_s: float) -> None:
        """The loop is alive at `now_s`."""
        self._beat_s = now_s
        self._tripped = False

    def trip(self, now_s: float) -> bool:
        """Whether the silence has just become too long; true once per silence.  Not armed before a beat."""
        if self._beat_s is None or self._tripped or now_s - self._beat_s <= self.timeout_s:
            return False
        self._tripped = True
        self.trips += 1
        return True
