"""What a run was like: counts and measures from its turns."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from chunkwise.chunking import FaultKind, SourceKind
from chunkwise.contract import Layout, Motion
from chunkwise.contract.values import Array
from chunkwise.runtime.events import Turn
from chunkwise.runtime.pacing import Histogram, Pacer
from chunkwise.safety import Change, Gate, Mode

MAX_CHANGES = 256
MAX_TURNS = 60_000
"""Newest turns that are kept, for seams and jerk; at 50 Hz twenty minutes.  Counts are of the whole run."""


@dataclass(slots=True)
class Report:
    """A run in numbers; :meth:`to_dict` is what ``--json`` writes.

    Attributes:
        control_hz, control_hz_achieved: commands per second, as asked and as measured.
        steps: turns of the loop.
        missed_periods: periods that passed without a turn.
        late_periods: turns begun more than half a period after their deadline, after missed ones included.
        lateness_s: quantiles of how long after its deadline a turn began.
        busy_s: quantiles of how long a turn took.
        starved_steps: steps that held because the plan ran dry.
        waiting_steps: steps that held by design: before the first chunk, or while ``sync`` waits.
        faults: what went wrong outside, in total and by kind; `fault_details` has the first of each kind.
        requests, chunks: inferences asked for, and chunks that joined the plan.
        delay_steps: measured inference delays of the chunks that joined: least, median, most; the first is
            left out.
        seam_jump: mean over hand-overs of the largest change of a joint's command speed across the seam,
            rad (or m) per step.
        jerk: root mean square of the commands' third difference, rad/s^3, over joint targets.
        gate: rules broken, by component.
        motion_steps: steps of ramps and brakes, which are not counted among `steps`.
        modes: steps in each state of the run.
        changes: the newest changes of the state: step, time_s, before, after, why.
        score: the robot's own account of its task, where it keeps one.
        interrupted: the run was stopped from the keyboard.
        stopped: why the run ended itself; empty when it did not.
        failure: what the robot raised, which ended the run; empty when nothing did.
    """

    control_hz: float
    control_hz_achieved: float
    steps: int
    missed_periods: int
    late_periods: int
    lateness_s: dict[str, float]
    busy_s: dict[str, float]
    starved_steps: int
    waiting_steps: int
    faults: int
    faults_by_kind: dict[str, int]
    fault_details: dict[str, str]
    requests: int
    chunks: int
    delay_steps: dict[str, float]
    seam_jump: float
    jerk: float
    gate: dict[str, int]
    watchdog_trips: int = 0
    events_lost: int = 0
    motion_steps: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    score: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    stopped: str = ""
    failure: str = ""
    setup: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class Tally:
    """Counts of a run of any length, turn by turn."""

    def __init__(self) -> None:
        self.steps = self.requests = self.chunks = self.motion_steps = 0
        self.modes: Counter[Mode] = Counter()
        self.changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self.sources: Counter[SourceKind] = Counter()
        self.faults: Counter[FaultKind] = Counter()
        self.details: dict[str, str] = {}
        self.delays: deque[int] = deque(maxlen=MAX_TURNS)
        self._asked: dict[int, int] = {}
        self._newest = -1

    def add(self, turns: Iterable[Turn]) -> None:
        """Count further turns, in order."""
        for turn in turns:
            decision = turn.decision
            if turn.change is not None:
                self.changes.append(turn.change)
            if decision.source.kind is SourceKind.MOTION:
                self.motion_steps += 1
                continue
            self.steps += 1
            self.modes[turn.mode] += 1
            self.sources[decision.source.kind] += 1
            for fault in decision.faults:
                self.faults[fault.kind] += 1
                self.details.setdefault(str(fault.kind), fault.detail)
            if decision.request is not None:
                self.requests += 1
                self._asked[decision.request.id] = decision.request.request_step
            if decision.source.chunk > self._newest:
                self._join(decision.source.chunk, turn.step)

    def _join(self, chunk: int, step: int) -> None:
        """A chunk's first row runs; the delay of the first chunk is a start and no measurement."""
        self.chunks += 1
        if self._newest >= 0 and chunk in self._asked:
            self.delays.append(step - self._asked[chunk])
        self._newest = chunk
        self._asked = {request: asked for request, asked in self._asked.items() if request > chunk}


def report(turns: list[Turn], pacer: Pacer, gate: Gate, tally: Tally | None = None) -> Report:
    """Measure a run.

    Args:
        turns: its turns, or the newest of them, in order.
        pacer, gate: as they are after it.
        tally: of all its turns; None counts `turns`.
    """
    if tally is None:
        tally = Tally()
        tally.add(turns)
    commands, seams = sent_rows(turns)
    delays = list(tally.delays)
    return Report(
        control_hz=pacer.control_hz,
        control_hz_achieved=round(pacer.achieved_hz, 4),
        steps=tally.steps,
        missed_periods=pacer.missed,
        late_periods=pacer.late,
        lateness_s=_quantiles(pacer.lateness),
        busy_s=_quantiles(pacer.busy),
        starved_steps=tally.sources[SourceKind.STARVED],
        waiting_steps=tally.sources[SourceKind.WAIT],
        faults=tally.faults.total(),
        faults_by_kind={str(kind): count for kind, count in tally.faults.items()},
        fault_details=tally.details,
        requests=tally.requests,
        chunks=tally.chunks,
        delay_steps={
            "min": float(min(delays, default=0)),
            "median": float(np.median(delays)) if delays else 0.0,
            "max": float(max(delays, default=0)),
        },
        seam_jump=seam_jump(commands, seams),
        jerk=jerk(commands, gate.layout, pacer.control_hz),
        gate={f"{component}.{rule}": count for (component, rule), count in sorted(gate.counts.items())},
        motion_steps=tally.motion_steps,
        modes={str(mode): count for mode, count in tally.modes.items()},
        changes=[_plain(change) for change in tally.changes],
    )


def sent_rows(turns: Iterable[Turn]) -> tuple[Array, list[int]]:
    """The commands as sent, ``(n, width)``, and the indices at which another chunk's rows took over."""
    sent = [turn for turn in turns if turn.sent is not None]
    seams, last = [], -1
    for index, turn in enumerate(sent):
        chunk = turn.decision.source.chunk
        if chunk >= 0 and chunk != last:
            seams.append(index)
            last = chunk
    rows = np.array([turn.sent for turn in sent])
    return (rows if len(rows) else np.zeros((0, 0))), seams


def seam_jump(commands: Array, seams: list[int]) -> float:
    """Mean over hand-overs of the largest second difference of a column across the seam; 0 without one.

    Args:
        commands: float64 ``(n, width)``.
        seams: indices of rows that came from another chunk than the row before.
    """
    jumps = [
        float(np.abs(commands[i] - 2 * commands[i - 1] + commands[i - 2]).max())
        for i in seams
        if 2 <= i < len(commands)
    ]
    return float(np.mean(jumps)) if jumps else 0.0


def jerk(commands: Array, layout: Layout, control_hz: float) -> float:
    """Root mean square of the third derivative of the commanded targets, unit/s^3.

    Args:
        commands: float64 ``(n, width)``.
        layout: of the rows; only columns of targets count.
        control_hz: rows per second.
    """
    targets = [
        column for slot in layout.slots if slot.motion is Motion.TARGET for column in range(slot.start, slot.stop)
    ]
    if len(commands) < 4 or not targets:
        return 0.0
    third = np.diff(commands[:, targets], n=3, axis=0) * control_hz**3
    return float(np.sqrt(np.mean(third**2)))


def _plain(change: Change) -> dict[str, Any]:
    made = change._asdict()
    return made | {"before": str(change.before), "after": str(change.after)}


def _quantiles(durations: Histogram) -> dict[str, float]:
    return {"p50": durations.quantile(0.5), "p99": durations.quantile(0.99), "max": durations.max_s}
