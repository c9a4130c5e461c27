"""The expert of the task "two belts": plans with a model of the drives and what only a simulator knows."""

from __future__ import annotations

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.contract.values import Array
from chunkwise.tasks.lanes import joints_to_lanes, lanes_to_joints
from chunkwise.tasks.two_belts import ARMS, CONTROL_S, policy_spec
from chunkwise.tasks.two_belts_expert import Expert

__all__ = ["Scripted"]

ROWS = 50


class Scripted:
    """Chunks of 50 rows at 50 Hz that keep to the side they chose for each post.

    It reads the hands' true velocities from ``frame.meta["privileged"]["lane_velocity"]`` (2,) [m/s]; where a
    robot cannot tell them, it takes the difference to the frame it saw last.

    Args:
        seed: of the coins.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.spec = policy_spec("scripted", ROWS, supports_prefix=False)
        self._seed = seed
        self._last: tuple[int, Array] | None = None
        self.reset()

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """Rows (50, 16) [rad] from the request's step on, in the order of the spec."""
        hands = joints_to_lanes(np.concatenate([frame.state[arm] for arm in ARMS]))
        privileged = frame.meta.get("privileged", {})
        velocity = privileged.get("lane_velocity")
        if velocity is None:
            velocity = self._difference(hands, request.request_step)
        plan = self._expert.plan(hands[None], np.asarray(velocity)[None], frame.state["belts"][None], ROWS)
        return ActionChunk(lanes_to_joints(plan[0]))

    def _difference(self, hands: Array, step: int) -> Array:
        """Velocities (2,) [m/s] since the frame seen last; zero for the first one."""
        last, self._last = self._last, (step, hands)
        if last is None or last[0] >= step:
            return np.zeros(2)
        velocity: Array = (hands - last[1]) / ((step - last[0]) * CONTROL_S)
        return velocity

    def reset(self, seed: int | None = None) -> None:
        """Forget the sides and toss the same coins again, or with a new seed others."""
        self._seed = self._seed if seed is None else seed
        self._expert = Expert(1, np.random.default_rng(self._seed))
        self._last = None

    def session(self) -> Scripted:
        """Another one with the same coins, and a memory of its own."""
        return Scripted(seed=self._seed)
