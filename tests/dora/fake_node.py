"""What a Dora node is to our code, without Dora: two arms, a tracker and cameras that obey at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chunkwise.robots.dora.messages import arm_joints, arm_message, jpeg_message, posts_message
from chunkwise.robots.dora.simulation import flat_image
from chunkwise.tasks.lanes import lanes_to_joints


class FakeNode:
    """A node that `drain`s the inputs of `chunkwise.robots.dora.Dora` and follows its outputs.

    Args:
        node_id: as for Dora's own.
        cameras: which of the observer's cameras there are; they see the flat images of the simulation.
        qpos_struct: arms that speak as dora-openarm 1.3 does.
    """

    def __init__(self, node_id: str = "", cameras: Sequence[str] = (), *, qpos_struct: bool = False) -> None:
        self.node_id, self.sent = node_id, list[tuple[str, Any]]()
        self.silent: set[str] = set()
        self.ended = False
        self._qpos_struct = qpos_struct
        right, left = np.split(lanes_to_joints(np.zeros((1, 2)))[0], 2)
        self._joints = {"right": right, "left": left}
        self._posts = np.arange(8.0).reshape(2, 2, 2)
        self._images = {camera: flat_image(camera, (6, 8)) for camera in cameras}

    def drain(self) -> list[dict[str, Any]] | None:
        """Every input once, or None after the end."""
        if self.ended:
            return None
        values = {
            f"arm_{side}": arm_message(joints, qpos_struct=self._qpos_struct)
            for side, joints in self._joints.items()
        }
        values["phase_classifier_result"] = posts_message(self._posts)
        values |= {camera: jpeg_message(image) for camera, image in self._images.items()}
        return [
            {"type": "INPUT", "id": name, "value": value, "metadata": {}}
            for name, value in values.items()
            if name not in self.silent
        ]

    def send_output(self, output_id: str, data: Any, metadata: dict[str, Any] | None = None) -> None:
        """Follow a command at once."""
        self.sent.append((output_id, data))
        self._joints[output_id.removeprefix("move_position_")] = arm_joints(data)
