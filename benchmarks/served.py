"""Policies that cost nothing, for servers whose cost is measured: `chunkwise serve --policy benchmarks/served.py:...`"""

from __future__ import annotations

import time

import numpy as np

from chunkwise.contract import Action, ActionChunk, ChunkRequest, Command, Frame, PolicyOutputSpec, PolicySpec

ROWS = 50


class Fourteen:
    """Three cameras and 14 numbers in, 50 x 14 out."""

    def __init__(self) -> None:
        outputs = [PolicyOutputSpec("arms", "joint_position", 14)]
        cameras = ["high", "left", "right"]
        self.spec = PolicySpec(
            "fourteen", cameras, ["arms"], outputs=outputs, action_horizon=ROWS, control_hz=50.0
        )
        self._chunk = np.zeros((ROWS, 14))

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        return ActionChunk(self._chunk)


class Arms:
    """Two arms and two grippers stay where they were seen; every image is looked at."""

    def __init__(self, *, arm: int = 7, cameras: str = "", control_hz: float = 50.0) -> None:
        sizes = {"right_arm": arm, "right_gripper": 1, "left_arm": arm, "left_gripper": 1}
        outputs = [
            PolicyOutputSpec(name, "joint_position" if size > 1 else "gripper_position", size)
            for name, size in sizes.items()
        ]
        self._keys = list(sizes)
        self.spec = PolicySpec(
            "arms",
            [name for name in cameras.split(",") if name],
            self._keys,
            outputs=outputs,
            action_horizon=ROWS,
            control_hz=control_hz,
        )

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        for name in self.spec.required_image_keys:
            assert frame.images[name].shape[2] == 3
        row = np.concatenate([frame.state[key] for key in self._keys])
        return ActionChunk(np.tile(row, (ROWS, 1)))

    def session(self) -> Arms:
        """Itself: it remembers nothing."""
        return self


class Busy(Fourteen):
    """An inference that takes two seconds: asleep, as one that waits for a GPU, or computing in pure Python."""

    def __init__(self, *, seconds: float = 2.0, spin: bool = False) -> None:
        super().__init__()
        self._seconds, self._spin = seconds, spin

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        until_s = time.monotonic() + self._seconds
        while self._spin and time.monotonic() < until_s:
            pass
        time.sleep(max(until_s - time.monotonic(), 0.0))
        return super().infer(frame, request)


class Anything:
    """Holds whatever robot asks, without a spec: its answer says by name what it commands."""

    def __init__(self, *, seconds: float = 0.004) -> None:
        self._seconds = seconds

    def infer(self, frame: Frame, request: ChunkRequest) -> list[Action]:
        time.sleep(self._seconds)
        commands = {
            name: Command("gripper_position" if "gripper" in name else "joint_position", value)
            for name, value in frame.state.items()
            if name.endswith(("arm", "gripper"))
        }
        return [Action(commands)] * ROWS
