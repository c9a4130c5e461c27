"""Slow sine waves around where the robot stands: moves any robot without a checkpoint."""

from __future__ import annotations

import copy
import math

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec
from chunkwise.contract.values import Array

__all__ = ["Wave"]


class Wave:
    """Each joint swings around its place at the start; grippers stay as they are.

    To see a robot, its limits and its rate work before a learned policy drives it.

    Args:
        amplitude: of the swing, rad or m.
        period_s: of one swing.
        rows: rows in a chunk (``H``).
        control_hz: the rate of the rows.
        components: what to move, with the number of joints: ``right_arm:7,left_arm:7``.
    """

    def __init__(
        self,
        *,
        amplitude: float = 0.05,
        period_s: float = 4.0,
        rows: int = 50,
        control_hz: float = 50.0,
        components: str = "right_arm:7,left_arm:7",
    ) -> None:
        self._amplitude, self._rows = amplitude, rows
        self._omega = 2 * math.pi / (period_s * control_hz)
        outputs = []
        for part in components.split(","):
            name, _, dim = part.partition(":")
            outputs.append(PolicyOutputSpec(name.strip(), "joint_position", int(dim or 7)))
        keys = [output.target for output in outputs]
        self.spec = PolicySpec("wave", [], keys, outputs=outputs, action_horizon=rows, control_hz=control_hz)
        self._centre: Array | None = None

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        if self._centre is None:
            self._centre = np.concatenate([frame.state[key] for key in self.spec.required_state_keys])
        steps = np.arange(request.request_step, request.request_step + self._rows)[:, None]
        return ActionChunk(self._centre + self._amplitude * np.sin(self._omega * steps))

    def reset(self) -> None:
        """The next observation becomes the centre."""
        self._centre = None

    def session(self) -> Wave:
        """Another one that swings alike, around a centre of its own."""
        other = copy.copy(self)
        other.reset()
        return other
