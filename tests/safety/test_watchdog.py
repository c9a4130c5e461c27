from __future__ import annotations

import pytest

from chunkwise.safety import Watchdog


def test_it_is_not_armed_before_the_first_beat() -> None:
    watchdog = Watchdog(1.0)
    assert not watchdog.trip(1e9)
    assert watchdog.trips == 0


def test_a_silence_trips_once() -> None:
    watchdog = Watchdog(1.0)
    watchdog.beat(10.0)
    assert not watchdog.trip(11.0)
    assert watchdog.trip(11.1)
    assert not watchdog.trip(12.0)
    assert watchdog.trips == 1


def test_a_beat_arms_it_again() -> None:
    watchdog = Watchdog(1.0)
    watchdog.beat(10.0)
    assert watchdog.trip(12.0)
    watchdog.beat(12.5)
    assert not watchdog.trip(13.0)
    assert watchdog.trip(14.0)
    assert watchdog.trips == 2


def test_no_patience_is_refused() -> None:
    for timeout_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout_s"):
            Watchdog(timeout_s)
