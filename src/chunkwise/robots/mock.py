"""A robot of numbers: follows its commands at once, or as slowly as asked; for tests and first steps."""

from __future__ import annotations

import numpy as np

from chunkwise.contract import Action, ComponentSpec, Frame, RobotSpec
from chunkwise.contract.values import Array

__all__ = ["Mock"]


class Mock:
    """One or two arms with a gripper each, whose state is what they were told.

    Args:
        arms: 1 or 2; two are ``right_arm, right_gripper, left_arm, left_gripper``, one is ``arm, gripper``.
        dof: joints of an arm.
        follow: the share of the way to a commanded target that is covered in one step, in (0, 1].
        cameras: names of its cameras, which see grey.
        control_hz: the rate its commands are meant for.
    """

    def __init__(
        self,
        *,
        arms: int = 2,
        dof: int = 7,
        follow: float = 1.0,
        cameras: tuple[str, ...] = (),
        control_hz: float = 50.0,
    ) -> None:
        if arms not in (1, 2) or dof < 1 or not 0 < follow <= 1:
            raise ValueError(
                f"Mock needs arms 1 or 2, dof >= 1 and 0 < follow <= 1, got {arms=}, {dof=}, {follow=}"
            )
        sides = ("right_", "left_") if arms == 2 else ("",)
        components = []
        for side in sides:
            components += [
                ComponentSpec(
                    f"{side}arm",
                    "arm",
                    dof,
                    ["joint_position", "joint_position_delta", "joint_velocity"],
                    joint_names=[f"{side}joint{index + 1}" for index in range(dof)],
                    lower=[-3.1] * dof,
                    upper=[3.1] * dof,
                    max_rate=[10.0] * dof,
                ),
                ComponentSpec(
                    f"{side}gripper",
                    "gripper",
                    1,
                    ["gripper_position"],
                    joint_names=[f"{side}finger"],
                    unit="m",
                    lower=[0.0],
                    upper=[0.1],
                    max_rate=[1.0],
                ),
            ]
        self.spec = RobotSpec("mock", list(cameras), components, control_hz=control_hz)
        self._follow, self._period_s = follow, 1 / control_hz
        self._images = {name: np.full((48, 64, 3), 128, dtype=np.uint8) for name in cameras}
        self._state: dict[str, Array] = {item.name: np.zeros(item.dof) for item in components}
        self._steps = 0

    def connect(self) -> None:
        """Nothing to do."""

    def observe(self) -> Frame:
        return Frame(images=dict(self._images), state=dict(self._state), sequence_id=self._steps)

    def act(self, action: Action) -> Action:
        for name, command in action.commands.items():
            now = self._state[name]
            if command.command.endswith("_delta"):
                target = now + command.value
            elif command.command.endswith("_velocity"):
                target = now + command.value * self._period_s
            else:
                target = command.value
            # a new array every time: the old one may be in a frame that somebody keeps
            self._state[name] = now + self._follow * (target - now)
        self._steps += 1
        return action

    def close(self) -> None:
        """Nothing to do."""
