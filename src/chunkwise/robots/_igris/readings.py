"""The newest value of everything that the topics say, each with the time of its capture; nothing older is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.robots._igris.rules import MessageError, Value
from chunkwise.robots._igris.topics import PREFIX, Subscription


class Reading(NamedTuple):
    """One value.

    Attributes:
        value: a read-only array, or a text.
        time_ns: when it was captured, on the loop's clock.
    """

    value: Value
    time_ns: int


class Readings:
    """What has arrived.

    A field that is missing, of another shape or not finite is a fault, and the value before it stays, with its old
    time: it is for whoever looks at the times to stop.

    Args:
        columns: key -> how many numbers it must have, where that is known.
        clock: the loop's [s].
        stamp_clock: the one that the publishers' stamps are of [s]; None takes the time of arrival.
    """

    def __init__(
        self,
        columns: Mapping[str, int],
        clock: Callable[[], float],
        stamp_clock: Callable[[], float] | None = None,
    ) -> None:
        self._columns, self._clock, self._stamp_clock = dict(columns), clock, stamp_clock
        self.newest: dict[str, Reading] = {}
        self.faults: dict[str, str] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.newest, self.faults = {}, {}

    def take(self, subscription: Subscription, message: Any) -> None:
        """Read every field of a message that is part of an observation.

        Called from any thread: what a key has is replaced in one piece.
        """
        time_ns = self._captured_ns(message)
        for key, rule in subscription.fields.items():
            if not key.startswith(PREFIX):
                continue
            try:
                value = rule.read(message)
                if isinstance(value, np.ndarray):
                    self._check(key, value)
            except MessageError as error:
                self.faults[key] = f"{subscription.topic}: {error}"
                continue
            before = self.newest.get(key)
            if before is None or time_ns >= before.time_ns:
                self.newest[key] = Reading(value, time_ns)
            self.faults.pop(key, None)

    def _check(self, key: str, value: NDArray[Any]) -> None:
        wanted = self._columns.get(key)
        if wanted is not None and value.shape != (wanted,):
            raise MessageError(f"{key} has shape {value.shape}, not ({wanted},)")
        value.flags.writeable = False

    def _captured_ns(self, message: Any) -> int:
        """The stamp of the header on the loop's clock, where there is one; else now.

        Only the age is taken from the stamp; one of the future, as of a clock that is ahead, counts as now.
        """
        now_ns = round(1e9 * self._clock())
        stamp = getattr(getattr(message, "header", None), "stamp", None)
        if self._stamp_clock is None or stamp is None or not (stamp.sec or stamp.nanosec):
            return now_ns
        captured_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        age_ns = round(1e9 * self._stamp_clock()) - captured_ns
        return max(now_ns - max(age_ns, 0), 0)
