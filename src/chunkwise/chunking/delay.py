"""How many control steps the next answer will take: a conservative, forgetful estimate."""

from __future__ import annotations

import math
from collections import deque


class DelayEstimate:
    """The largest of the last `window` measured delays, older ones counting a little less.

    Real-time chunking plans with the maximum of a window (Black, Galliker, Levine 2025, arXiv:2506.07339,
    algorithm 1): an under-estimate freezes too few rows of the running plan.  A maximum that never forgets
    makes one hiccup slow the robot for ever, so samples leave after `window` answers, and on the way the part
    of them that exceeds the newest sample shrinks by `decay` per answer.

    Args:
        window: answers that are remembered.
        decay: factor per answer, in (0, 1]; 1 remembers in full until the window has passed.
        initial: the estimate before the first measured answer, in steps.
        fixed: answer this number of steps always, whatever is measured.
    """

    def __init__(
        self, *, window: int = 10, decay: float = 0.95, initial: int = 1, fixed: int | None = None
    ) -> None:
        if window < 1 or not 0 < decay <= 1 or initial < 0 or (fixed is not None and fixed < 0):
            raise ValueError(
                "DelayEstimate needs window >= 1, 0 < decay <= 1, initial >= 0 and fixed >= 0, got "
                f"{window=}, {decay=}, {initial=}, {fixed=}"
            )
        self._samples: deque[int] = deque(maxlen=window)
        self._decay, self._initial, self._fixed = decay, initial, fixed
        self.steps = initial if fixed is None else fixed

    @property
    def measured(self) -> bool:
        """Whether the estimate rests on a measurement, or was fixed by the user."""
        return bool(self._samples) or self._fixed is not None

    def record(self, steps: int) -> None:
        """One measured delay: control steps executed between a request and its answer."""
        self._samples.append(steps)
        if self._fixed is not None:
            return
        weight, most = 1.0, float(steps)
        for sample in reversed(self._samples):
            most = max(most, steps + (sample - steps) * weight)
            weight *= self._decay
        self.steps = math.ceil(most - 1e-9)

    def reset(self) -> None:
        """Forget everything, as after a reconnection to another machine."""
        self._samples.clear()
        self.steps = self._initial if self._fixed is None else self._fixed
