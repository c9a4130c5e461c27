"""The only code that knows what a second is: absolute deadlines into control steps."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from numbers import Real

from chunkwise.contract import InterfaceValidationError


class Histogram:
    """Durations in logarithmic buckets (8 per octave, at most an eighth wide), of fixed size and constant cost."""

    _SUB = 8

    def __init__(self) -> None:
        self._counts = [0] * (64 * self._SUB)
        self.count = 0
        self.max_s = 0.0

    def record(self, seconds: float) -> None:
        """One duration; negative ones count as zero."""
        ns = int(seconds * 1e9) if seconds > 0 else 0
        bits = ns.bit_length()
        part = (ns >> (bits - 4)) & 7 if bits >= 4 else 0
        self._counts[min(bits, 63) * self._SUB + part] += 1
        self.count += 1
        if seconds > self.max_s:
            self.max_s = seconds

    def quantile(self, share: float) -> float:
        """The duration, in seconds, that `share` of them do not exceed; 0 when empty."""
        wanted, seen = math.ceil(share * self.count), 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                bits, part = divmod(bucket, self._SUB)
                top = (9 + part) << max(bits - 4, 0) if bits >= 4 else 1 << bits
                return min(top / 1e9, self.max_s)
        return 0.0


class Pacer:
    """Control steps at absolute deadlines: step ``k`` is due at ``start + k / control_hz``.

    Deadlines do not drift.  A missed deadline is skipped and counted, never caught up: the next step is the one
    whose time it is.

    Args:
        control_hz: steps per second.
        clock: monotonic, seconds.
        sleep: waits that many seconds.

    Attributes:
        steps: steps taken.
        missed: steps skipped because their whole period had passed.
        late: steps begun more than half a period after their deadline.
        lateness: how long after its deadline each step began.
        busy: how long the work of each step took, from its beginning to the next :meth:`wait`.
    """

    def __init__(
        self,
        control_hz: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 < control_hz < 1e6:
            raise ValueError(f"control_hz must be above zero, got {control_hz}")
        self.control_hz, self.period_s = control_hz, 1 / control_hz
        self._clock, self._sleep = clock, sleep
        self.lateness, self.busy = Histogram(), Histogram()
        self.reset()

    def reset(self) -> None:
        """Start again at step 0, due at the next :meth:`wait`."""
        self._start: float | None = None
        self._last = -1
        self.steps = self.missed = self.late = 0
        self.late_s = 0.0
        self.first_s = self.last_s = 0.0

    def now(self) -> float:
        """The clock."""
        return self._clock()

    @property
    def started(self) -> bool:
        """Whether there is an origin."""
        return self._start is not None

    def start(self) -> None:
        """Set the origin now and count step 0 as taken: the next one is due in a period."""
        self._start = self.first_s = self.last_s = self._clock()
        self._last = 0
        self.steps = 1

    @property
    def next_deadline_s(self) -> float:
        """When the next step is due; needs an origin."""
        assert self._start is not None
        return self._start + (self._last + 1) / self.control_hz

    def left_s(self) -> float:
        """Seconds until the next deadline, below zero where it has passed; needs an origin."""
        return self.next_deadline_s - self._clock()

    def step_now(self) -> int:
        """The step whose period it is, at least the last one taken.  For work that took long inside a step."""
        assert self._start is not None
        step = int((self._clock() - self._start) * self.control_hz)
        if step > self._last:
            self.missed += step - self._last
            self._last = step
        return self._last

    def wait(self) -> int:
        """Sleep until the next deadline that has not passed its whole period; its step."""
        now = self._clock()
        if self._start is None:
            self._start = self.first_s = now
        else:
            self.busy.record(now - self.last_s)
        due = self._last + 1
        deadline = self._start + due / self.control_hz
        while now < deadline:  # a sleep may end early
            self._sleep(deadline - now)
            now = self._clock()
        # One nanosecond of slack: a simulated clock that lands on a deadline may be a rounding short of it.
        step = max(int((now - self._start) * self.control_hz + 1e-9 * self.control_hz), due)
        self.missed += step - due
        self._last = step
        self.steps += 1
        self.last_s = now
        self.late_s = now - (self._start + step / self.control_hz)
        self.lateness.record(now - deadline)
        if step > due or self.late_s > 0.5 * self.period_s:
            self.late += 1
        return step

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.wait()

    @property
    def achieved_hz(self) -> float:
        """Steps taken per second, from the first to the last; 0 before there are two."""
        elapsed = self.last_s - self.first_s
        return (self.steps - 1) / elapsed if elapsed > 0 else 0.0


class StepClock:
    """Control steps for whoever does not set the pace: a robot that calls when it calls.

    Args:
        control_hz: steps per second.
    """

    def __init__(self, control_hz: float) -> None:
        if not 0 < control_hz < 1e6:
            raise ValueError(f"control_hz must be above zero, got {control_hz}")
        self.control_hz, self.period_s = control_hz, 1 / control_hz
        self._start: float | None = None
        self._last = -1

    _FAR = 0.95
    """Periods; at a whole one, calls at twice the rate or at half of it would be told apart by rounding."""

    def step(self, now_s: float) -> int:
        """The step whose period it is, from 0 at the first call; never before the last one."""
        self._last = max(self._last, int(self._passed(now_s) + 1e-6))
        return self._last

    def next(self, now_s: float) -> int:
        """The step of a call that comes once per step: one on from the last, unless time says otherwise.

        A call that comes a little early or late is still the next one, so that jitter repeats and skips no row.
        One that is a period off is not: calls were lost, or come at another rate.
        """
        passed, due = self._passed(now_s), self._last + 1
        if passed - due > self._FAR:
            due = int(passed + 1e-6)
        elif due - passed > self._FAR:
            due = self._last
        self._last = max(due, 0)
        return self._last

    def resume(self, now_s: float) -> None:
        """The last step begins now: whoever called waited for its answer, and no call was lost meanwhile."""
        self._start = now_s - max(self._last, 0) * self.period_s

    def _passed(self, now_s: float) -> float:
        """Periods since the first call."""
        if self._start is None:
            self._start = now_s
        return (now_s - self._start) * self.control_hz


class RealtimeController:
    """Paces a loop that is the caller's: :meth:`wait` returns when the next control step is due.

    The same deadlines as :class:`Pacer`, under the name and with the arguments of the inferaxis interface.  The
    first wait sets the origin and lasts one period.  A late loop is not slept for; it is warned of once in a
    while, and the steps it missed are skipped and counted.

    Args:
        hz, period_s: the rate or the period; exactly one of them.
        warning_interval_s: least time between two warnings.
        clock: monotonic, seconds.
        sleeper: waits that many seconds.
        warning_emitter: told of a late loop, by default ``warnings.warn`` with a RuntimeWarning.  It never stops
            the loop, not even where warnings are errors.

    Attributes:
        pacer: the deadlines; its `missed`, `late` and `lateness` say how it went.
    """

    def __init__(
        self,
        hz: float | None = None,
        period_s: float | None = None,
        warning_interval_s: float = 5.0,
        clock: Callable[[], float] = time.perf_counter,
        sleeper: Callable[[float], None] = time.sleep,
        warning_emitter: Callable[[str], object] | None = None,
    ) -> None:
        if (hz is None) == (period_s is None):
            raise InterfaceValidationError("RealtimeController takes exactly one of hz and period_s")
        given = hz if hz is not None else period_s
        number = 0.0 if isinstance(given, bool) or not isinstance(given, Real) else float(given)
        rate = number if hz is not None or not number else 1 / number
        if not 0 < rate < 1e6:
            raise InterfaceValidationError(
                f"hz or period_s must be a number that means more than 0 and less than 1e6 Hz, got {given!r}"
            )
        self.pacer = Pacer(rate, clock=clock, sleep=sleeper)
        self.warning_interval_s = warning_interval_s
        self._emit = warning_emitter or (lambda text: warnings.warn(text, RuntimeWarning, stacklevel=4))
        self._warned_s: float | None = None

    @property
    def hz(self) -> float:
        """Steps per second."""
        return self.pacer.control_hz

    @property
    def period_s(self) -> float:
        """Seconds per step."""
        return self.pacer.period_s

    @property
    def missed_ticks(self) -> int:
        """Steps that were skipped because the loop was late."""
        return self.pacer.missed

    def reset(self) -> None:
        """The next wait sets a new origin."""
        self.pacer.reset()

    def wait(self) -> float:
        """Sleep until the next step is due; the seconds that this took, 0 where the loop is late."""
        pacer = self.pacer
        if not pacer.started:
            pacer.start()
        began = pacer.now()
        due_s = pacer.next_deadline_s
        pacer.wait()
        if began < due_s:
            return pacer.last_s - began
        if self._warned_s is None or began - self._warned_s >= self.warning_interval_s:
            self._warned_s = began
            with suppress(Warning):  # where warnings are errors, the robot's loop goes on all the same
                self._emit(
                    f"RealtimeController cannot keep {self.hz:.3f} Hz: behind by {1e3 * (began - due_s):.1f} ms, "
                    f"{pacer.missed} periods missed so far"
                )
        return 0.0
