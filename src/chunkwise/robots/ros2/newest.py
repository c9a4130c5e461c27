"""The newest value of everything that the topics say, each with the time of its capture; nothing older is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.robots.ros2.body import Observation

MAX_TEXT: Final = 1000
"""Of what is said of a message; names and encodings in it may be as long as they like."""


class Reading(NamedTuple):
    """One value.

    Attributes:
        value: a read-only array.
        time_ns: when it was captured, on the loop's clock.
    """

    value: NDArray[Any]
    time_ns: int


class Newest:
    """What has arrived.

    What cannot be read is a fault, and the value before it stays, with its old time.

    Args:
        ages_s: key -> the oldest that a value may be, where there is a limit.
        wall: the clock of the headers' stamps [s].
        clock: the loop's [s].
    """

    def __init__(self, ages_s: Mapping[str, float], wall: Callable[[], float], clock: Callable[[], float]) -> None:
        self._ages_s, self._wall, self._clock = dict(ages_s), wall, clock
        self._readings: dict[str, Reading] = {}
        self._faults: dict[str, str] = {}
        self.strangers: dict[str, str] = {}

    def take(self, topic: str, wanted: Sequence[Observation], message: Any) -> None:
        """Read every value of a message.  From any thread: what a key has is replaced in one piece."""
        now_ns = round(1e9 * self._clock())
        captured_ns = self._captured_ns(message, now_ns)
        self._faults.pop(topic, None)
        for item in wanted:
            try:
                value = item.read(message)
            except InterfaceValidationError as error:
                self._faults[item.key] = f"{topic}: {error}"[:MAX_TEXT]
                continue
            if value is None:
                self.strangers[item.key] = f"the joints there are {', '.join(message.name)}"[:MAX_TEXT]
                continue
            if value.flags.writeable:
                value.flags.writeable = False
            time_ns = captured_ns if item.align.stamp == "header" else now_ns
            before = self._readings.get(item.key)
            if before is None or time_ns >= before.time_ns:
                self._readings[item.key] = Reading(value, time_ns)
            self._faults.pop(item.key, None)

    def fault(self, topic: str, error: Exception) -> None:
        """What came at a topic was no message."""
        self._faults[topic] = str(error)[:MAX_TEXT]

    def now(self) -> tuple[dict[str, Reading], dict[str, str], set[str]]:
        """The readings, what is wrong, and which readings are older than they may be."""
        readings, faults = dict(self._readings), dict(self._faults)
        now_ns = round(1e9 * self._clock())
        old = set()
        for key, limit_s in self._ages_s.items():
            if key in readings and (age_s := (now_ns - readings[key].time_ns) / 1e9) > limit_s:
                old.add(key)
                faults.setdefault(key, f"{age_s:.3f} s old, and may be {limit_s:g} s")
        return readings, faults, old

    def _captured_ns(self, message: Any, now_ns: int) -> int:
        """The header's stamp on the loop's clock; now, where there is none, or one of the future.

        Only the age is taken from the stamp: ROS's time is the wall's, which may be set, the loop's is not.
        """
        stamp = getattr(getattr(message, "header", None), "stamp", None)
        if stamp is None or not (stamp.sec or stamp.nanosec):
            return now_ns
        age_ns = round(1e9 * self._wall()) - (int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec))
        return now_ns - max(age_ns, 0)


def joined(readings: Mapping[str, Reading], keys: Sequence[str]) -> Reading:
    """Several values one after the other, as old as the oldest of them."""
    found = [readings[key] for key in keys]
    if len(found) == 1:
        return found[0]
    value = np.concatenate([item.value for item in found])
    value.flags.writeable = False
    return Reading(value, min(item.time_ns for item in found))
