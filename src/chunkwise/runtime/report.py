"""What a run was like: counts and measures from its turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from chunkwise.chunking import SourceKind
from chunkwise.contract import Layout, Motion
from chunkwise.contract.values import Array
from chunkwise.runtime.events import Turn
from chunkwise.runtime.pacing import Histogram, Pacer
from chunkwise.safety import Gate


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
        score: the robot's own account of its task, where it keeps one.
        interrupted: the run was stopped from the keyboard.
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
    score: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    setup: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def report(turns: list[Turn], pacer: Pacer, gate: Gate) -> Report:
    """Measure a run.

    Args:
        turns: all of its turns, in order.
        pacer, gate: as they are after it.
    """
    kinds = Counter(turn.decision.source.kind for turn in turns)
    faults = [fault for turn in turns for fault in turn.decision.faults]
    details: dict[str, str] = {}
    for fault in faults:
        details.setdefault(str(fault.kind), fault.detail)
    delays = _delays(turns)
    commands, seams = sent_rows(turns)
    return Report(
        control_hz=pacer.control_hz,
        control_hz_achieved=round(pacer.achieved_hz, 4),
        steps=len(turns),
        missed_periods=pacer.missed,
        late_periods=pacer.late,
        lateness_s=_quantiles(pacer.lateness),
        busy_s=_quantiles(pacer.busy),
        starved_steps=kinds[SourceKind.STARVED],
        waiting_steps=kinds[SourceKind.WAIT],
        faults=len(faults),
        faults_by_kind={str(kind): count for kind, count in Counter(f.kind for f in faults).items()},
        fault_details=details,
        requests=sum(turn.decision.request is not None for turn in turns),
        chunks=len({turn.decision.source.chunk for turn in turns} - {-1}),
        delay_steps={
            "min": float(min(delays, default=0)),
            "median": float(np.median(delays)) if delays else 0.0,
            "max": float(max(delays, default=0)),
        },
        seam_jump=seam_jump(commands, seams),
        jerk=jerk(commands, gate.layout, pacer.control_hz),
        gate={f"{component}.{rule}": count for (component, rule), count in sorted(gate.counts.items())},
    )


def sent_rows(turns: list[Turn]) -> tuple[Array, list[int]]:
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


def _quantiles(durations: Histogram) -> dict[str, float]:
    return {"p50": durations.quantile(0.5), "p99": durations.quantile(0.99), "max": durations.max_s}


def _delays(turns: list[Turn]) -> list[int]:
    """Steps between the request and the first row of every chunk that ran, but the first."""
    asked: dict[int, int] = {}
    delays: list[int] = []
    newest = -1
    for turn in turns:
        request, chunk = turn.decision.request, turn.decision.source.chunk
        if request is not None:
            asked[request.id] = request.request_step
        if chunk > newest:
            if newest >= 0 and chunk in asked:
                delays.append(turn.step - asked[chunk])
            newest = chunk
    return delays
