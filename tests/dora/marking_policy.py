"""A policy without a spec, for any robot: stay where you are, and a mark more that says whose answer it is."""

from __future__ import annotations

from chunkwise.contract import Action, ChunkRequest, Command, Frame

MARKS = {"first": 0.001, "second": 0.002, "ark": 0.003}
"""What is added to every joint, by the task's prompt [rad]."""
ROWS = 20


class Marks:
    """It remembers nothing, and knows no robot."""

    def infer(self, frame: Frame, request: ChunkRequest) -> list[Action]:
        mark = MARKS.get(frame.task.get("prompt") or "", 0.0)
        commands = {
            name: Command("gripper_position" if name.endswith("gripper") else "joint_position", value + mark)
            for name, value in frame.state.items()
            if name.endswith(("arm", "gripper"))
        }
        return [Action(commands)] * ROWS
