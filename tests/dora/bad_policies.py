"""Policies that answer well a few times and then do what no policy may; each holds the arms where they stood."""

from __future__ import annotations

import time

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.tasks.two_belts import ARMS, policy_spec

GOOD_CALLS = 10
"""Calls that are answered well before the trouble begins."""
ROWS = 31


class Stays:
    """Stays where it saw the arms first in its life."""

    def __init__(self) -> None:
        self.spec = policy_spec(type(self).__name__.lower(), ROWS, supports_prefix=False)
        self._calls = 0
        self._joints: np.ndarray | None = None

    def infer(self, frame: Frame, request: ChunkRequest) -> object:
        """Rows (31, 16) [rad], and from the eleventh call on whatever `fail` says."""
        self._calls += 1
        if self._joints is None:
            self._joints = np.concatenate([frame.state[arm] for arm in ARMS])
        rows = np.tile(self._joints, (ROWS, 1))
        return ActionChunk(rows) if self._calls <= GOOD_CALLS else self.fail(rows)

    def fail(self, rows: np.ndarray) -> object:
        """Nothing wrong here."""
        return ActionChunk(rows)


class Slow(Stays):
    """Takes a quarter of a second for every chunk."""

    def infer(self, frame: Frame, request: ChunkRequest) -> object:
        time.sleep(0.25)
        return super().infer(frame, request)


class Raises(Stays):
    """Raises."""

    def fail(self, rows: np.ndarray) -> object:
        raise RuntimeError("the policy broke on purpose")


class NotFinite(Stays):
    """Answers NaN for one joint of one row."""

    def fail(self, rows: np.ndarray) -> object:
        rows[3, 5] = np.nan
        return ActionChunk(rows)


class WrongWidth(Stays):
    """Answers 15 numbers for 16 joints."""

    def fail(self, rows: np.ndarray) -> object:
        return ActionChunk(rows[:, :15])


class Empty(Stays):
    """Answers no row at all."""

    def fail(self, rows: np.ndarray) -> object:
        return []
