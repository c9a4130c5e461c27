"""How a run goes, while it goes: one line in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import itertools
from typing import TextIO

from chunkwise.chunking import FaultKind, SourceKind
from chunkwise.runtime.events import Turn
from chunkwise.safety import Mode

MAX_CHANGES = 20
"""Changes of the run's state that are told as they come; the report has the rest."""
SPARSE_S = 5.0
"""Seconds of the run between two lines where they cannot be written over each other."""


class Progress:
    """Reads the turns as they come; called from the session's monitor, so it never raises and never waits.

    Args:
        out: where it writes.
        seconds: how long the run is to take; None for no end.
        period_s: of the control loop.
    """

    def __init__(self, out: TextIO, seconds: float | None, period_s: float) -> None:
        self._out, self._seconds, self._period_s = out, seconds, period_s
        self._in_place = out.isatty()
        self._step = -1
        self._starved = 0
        self._chunk = -1
        self._chunks = 0
        self._said: set[FaultKind] = set()
        self._changes = 0
        self._next_s = 0.0
        self._width = 0

    def __call__(self, turns: list[Turn]) -> None:
        """Look at the turns that are new."""
        fresh = list(itertools.takewhile(lambda turn: turn.step > self._step, reversed(turns)))
        for turn in reversed(fresh):
            self._step = turn.step
            self._count(turn)
        if not turns or (not self._in_place and turns[-1].step * self._period_s < self._next_s):
            return
        self._next_s += SPARSE_S
        self._line(self._text(turns), end="" if self._in_place else "\n")

    def finish(self, turns: list[Turn]) -> None:
        """The last turns, and the end of the line."""
        self._next_s = 0.0
        self(turns)
        if self._in_place:
            self._write("\n")

    def _count(self, turn: Turn) -> None:
        source = turn.decision.source
        self._starved += source.kind is SourceKind.STARVED
        if source.chunk > self._chunk:
            self._chunk = source.chunk
            self._chunks += 1
        change = turn.change
        if change is not None and change.after is not Mode.RUNNING and turn.step and self._changes < MAX_CHANGES:
            self._changes += 1
            self._line(f"{turn.step * self._period_s:6.1f} s   {change.after}: {change.why}", end="\n")
        for fault in turn.decision.faults:
            if fault.kind not in self._said:  # once each: the report has the counts
                self._said.add(fault.kind)
                self._line(f"warning: {fault.kind}: {fault.detail}", end="\n")

    def _text(self, turns: list[Turn]) -> str:
        first, last = turns[0], turns[-1]
        elapsed = last.time_s - first.time_s
        rate = (len(turns) - 1) / elapsed if elapsed > 0 else 0.0
        end = "" if self._seconds is None else f" of {self._seconds:g}"
        return (
            f"{(last.step + 1) * self._period_s:6.1f}{end} s   {rate:6.2f} Hz   chunks {self._chunks}"
            f"   starved {self._starved}   {last.mode}"
        )

    def _line(self, text: str, end: str) -> None:
        clear = "\r" if self._in_place else ""
        self._write(f"{clear}{text:<{self._width}}{end}")
        self._width = len(text) if self._in_place and not end else 0

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):  # nobody reads any more; the robot's run goes on
            self._write = _nowhere  # type: ignore[method-assign]


def _nowhere(text: str) -> None:
    """Where the text goes when its reader has left."""
