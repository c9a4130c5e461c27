"""A world in lock step: time that only tests advance, and a network with any latency, loss and reordering.

Nothing here sleeps.  The policy counts, so that where a number belongs can be read off the number: row ``i`` of
a chunk asked for at step ``s`` has the value ``s + i``.  Whoever sends another value than ``k`` at step ``k`` has
put a row where it does not belong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from chunkwise.chunking import Answer, Decision, Scheduler, Tick
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    Layout,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    robot_layout,
)
from chunkwise.workers import Infer, attempt

Delay = int | Callable[[int], int | None]
"""Control steps from a request to its answer: one number, or one per request number; None loses the answer."""


class SimulatedClock:
    """Seconds that pass when somebody sleeps; for a Pacer that runs as fast as the machine does.

    Args:
        start_s: what it shows at first.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self.now_s = start_s

    def __call__(self) -> float:
        """The time, s."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        self.now_s += max(seconds, 0.0)


class StepWorker:
    """A worker whose answers arrive a given number of control steps after their request.

    Args:
        infer: the bound policy; it runs inside :meth:`submit`.
        now: the control step that it is.
        delay: steps on the way.  0 has the answer ready at once; different numbers reorder answers.
    """

    in_line = True

    def __init__(self, infer: Infer, now: Callable[[], int], delay: Delay = 0) -> None:
        self._infer, self._now, self._delay = infer, now, delay
        self._under_way: list[tuple[int, Answer]] = []

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        delay = self._delay(request.id) if callable(self._delay) else self._delay
        answer = attempt(self._infer, frame, request)
        if delay is not None:
            self._under_way.append((self._now() + delay, answer))

    def arrivals(self) -> Sequence[Answer]:
        now = self._now()
        there = sorted((item for item in self._under_way if item[0] <= now), key=lambda item: item[0])
        self._under_way = [item for item in self._under_way if item[0] > now]
        return [answer for _, answer in there]

    def wait(self, timeout_s: float | None = None) -> bool:
        return any(due <= self._now() for due, _ in self._under_way)

    def restart(self) -> None:
        self._under_way = []

    def close(self) -> None:
        self._under_way = []


class CountingPolicy:
    """Row ``i`` of the answer to a request of step ``s`` has the value ``s + i`` in every column.

    Args:
        layout: of the robot it commands.
        rows: rows in a chunk (``H``).
        ahead: steps by which an answer starts later than its request, as after rolling the state forward.
    """

    def __init__(self, layout: Layout, rows: int = 16, *, ahead: int = 0) -> None:
        self._rows, self._ahead = rows, ahead
        outputs = [PolicyOutputSpec(slot.component, slot.command, slot.dim) for slot in layout.slots]
        self.spec = PolicySpec("counting", [], [], outputs=outputs, action_horizon=rows)

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        first = request.request_step + self._ahead
        counted = np.arange(first, first + self._rows, dtype=np.float64)
        rows = np.repeat(counted[:, None], self.spec.action_dim, axis=1)
        rows.flags.writeable = False
        return ActionChunk(rows, first if self._ahead else None)


def arm_robot() -> RobotSpec:
    """Two joints that take positions and a gripper: all of it holds by repeating."""
    return RobotSpec(
        "arm",
        [],
        [
            ComponentSpec("arm", "arm", 2, ["joint_position"]),
            ComponentSpec("gripper", "gripper", 1, ["gripper_position"], unit="m"),
        ],
    )


def rover_robot() -> RobotSpec:
    """A base that takes velocities, an arm that takes changes and a lift that takes positions: most of it
    holds at zero."""
    return RobotSpec(
        "rover",
        [],
        [
            ComponentSpec("base", "base", 2, ["joint_velocity"]),
            ComponentSpec("arm", "arm", 1, ["joint_position_delta"]),
            ComponentSpec("lift", "arm", 1, ["joint_position"], unit="m"),
        ],
    )


@dataclass
class World:
    """A scheduler, what answers it, and what was decided.

    Attributes:
        scheduler: the thing under test.
        infer: answers a request with a chunk in the robot's column order; a counting policy by default.
        delay: steps on the way.
        decisions: one per step taken.
    """

    scheduler: Scheduler
    infer: Infer
    delay: Delay = 0
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.step = 0
        self.worker = StepWorker(self.infer, lambda: self.step, self.delay)

    def turn(self, step: int) -> Decision:
        """One control period, as the control loop takes it: tick, submit, and tick again if the answer came
        at once."""
        self.step = step
        decision = self.scheduler.tick(Tick(step, self.worker.arrivals()))
        if decision.request is not None:
            request, faults = decision.request, decision.faults
            self.worker.submit(Frame(), request)
            at_once = self.worker.arrivals()
            if at_once:
                decision = self.scheduler.tick(Tick(step, at_once))
                decision = decision._replace(request=request, faults=faults + decision.faults)
        self.decisions.append(decision)
        return decision

    def run(self, steps: Iterable[int]) -> list[Decision]:
        """A turn for each of these rising steps; the decisions of this run."""
        return [self.turn(step) for step in steps]


def counting_world(scheduler: Scheduler, rows: int = 16, delay: Delay = 0) -> World:
    """A world around `scheduler` whose policy counts."""
    return World(scheduler, CountingPolicy(scheduler.layout, rows).infer, delay)


def arm_layout() -> Layout:
    """The rows of :func:`arm_robot`: two joints, then the gripper."""
    return robot_layout(arm_robot())


def rover_layout() -> Layout:
    """The rows of :func:`rover_robot`: two velocities, a change, a position."""
    return robot_layout(rover_robot())
