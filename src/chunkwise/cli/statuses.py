"""How a run goes, for the program that started it: lines of JSON on a descriptor of its."""

from __future__ import annotations

import itertools
import json
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from chunkwise.chunking import SourceKind
from chunkwise.options import UsageError
from chunkwise.runtime.events import Turn
from chunkwise.runtime.report import Report

EVERY_S = 0.5
RATE_TURNS = 51
"""The newest turns, whose rate is said."""
LAST_S = 5.0
"""How long the report's reader is waited for."""


class Words:
    """Lines of JSON on a descriptor; one that a slow reader leaves no room for is left out.

    Args:
        fd: the descriptor, a pipe's.

    Raises:
        UsageError: it is not open, or one that everybody writes to.
    """

    def __init__(self, fd: int) -> None:
        try:
            if fd <= 2:
                raise OSError("0, 1 and 2 are for people")
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"--status-fd {fd}: {error}; the number is that of a pipe which the program that starts this one "
                "passes on"
            ) from None
        self._fd, self._rest, self._open = fd, b"", True
        self._lock = threading.Lock()

    def say(self, message: Mapping[str, Any], *, within_s: float = 0.0) -> None:
        """One line.

        Args:
            message: plain values.
            within_s: how long the reader is waited for.
        """
        until_s = time.monotonic() + within_s
        with self._lock:
            if not self._rest or within_s:  # what is half written comes first
                self._rest += json.dumps(message, default=str).encode() + b"\n"
            while self._open and self._rest:
                try:
                    self._rest = self._rest[os.write(self._fd, self._rest) :]
                except BlockingIOError:
                    left_s = until_s - time.monotonic()
                    if left_s <= 0 or not select.select([], [self._fd], [], left_s)[1]:
                        return
                except OSError:  # nobody reads any more; the robot's run goes on
                    self._open = False


class Statuses:
    """Reads the turns as they come, and says what they come to, twice a second and at every change of state.

    A line has ``state``, ``why`` (of the newest change), ``step``, ``steps``, ``starved``, ``chunks``,
    ``requests`` and ``rate_hz``; the last one has ``report``, the whole of it.

    Args:
        fd: where the lines go.
        clock: seconds.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._words, self._clock, self._next_s = Words(fd), clock, 0.0
        self._step = self._chunk = -1
        self._counts = dict.fromkeys(("steps", "starved", "chunks", "requests"), 0)
        self._why = ""

    def __call__(self, turns: list[Turn]) -> None:
        """Look at the turns that are new."""
        fresh = list(itertools.takewhile(lambda turn: turn.step > self._step, reversed(turns)))
        changed = False
        for turn in reversed(fresh):
            changed |= turn.change is not None
            self._count(turn)
        if fresh and (changed or self._clock() >= self._next_s):
            self._next_s = self._clock() + EVERY_S
            self._words.say(self._status(turns))

    def finish(self, report: Report) -> None:
        """The run is over."""
        self._words.say({"report": report.to_dict()}, within_s=LAST_S)

    def _count(self, turn: Turn) -> None:
        self._step = turn.step
        source = turn.decision.source
        self._counts["steps"] += 1
        self._counts["starved"] += source.kind is SourceKind.STARVED
        self._counts["requests"] += turn.decision.request is not None
        if source.chunk > self._chunk:
            self._chunk = source.chunk
            self._counts["chunks"] += 1
        if turn.change is not None:
            self._why = turn.change.why

    def _status(self, turns: list[Turn]) -> dict[str, Any]:
        newest, window = turns[-1], turns[-RATE_TURNS:]
        elapsed_s = newest.time_s - window[0].time_s
        rate = round((len(window) - 1) / elapsed_s, 2) if elapsed_s > 0 else None
        return {
            "state": str(newest.mode),
            "why": self._why,
            "step": newest.step,
            "rate_hz": rate,
            **self._counts,
        }
