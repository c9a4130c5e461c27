"""The motor buses behind a LeRobot robot: their units, limits and calibration, and how they are let go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple


class Range(NamedTuple):
    """What LeRobot says of a joint's numbers.

    Attributes:
        unit: ``degrees``, ``range_m100_100`` or ``range_0_100``.
        lower, upper: in that unit; infinite where nothing says.
    """

    unit: str
    lower: float
    upper: float


def arms(robot: Any) -> Iterator[tuple[str, Any]]:
    """The robot itself or its two arms, whichever have a motor bus, with the prefix of their features."""
    parts = (
        ("", robot),
        ("left_", getattr(robot, "left_arm", None)),
        ("right_", getattr(robot, "right_arm", None)),
    )
    for prefix, part in parts:
        if hasattr(getattr(part, "bus", None), "motors"):
            yield prefix, part


def ranges(robot: Any) -> dict[str, Range]:
    """Joint -> its unit and limits, of every motor that a bus knows."""
    return {
        f"{prefix}{name}": _range(arm, name, motor)
        for prefix, arm in arms(robot)
        for name, motor in arm.bus.motors.items()
    }


def uncalibrated(robot: Any) -> list[str]:
    """Calibration files that do not have every motor of their bus, each with the motors that it lacks."""
    found = []
    for _, arm in arms(robot):
        missing = [name for name in arm.bus.motors if name not in arm.calibration]
        if missing:
            found.append(f"{arm.calibration_fpath} has no {', '.join(missing)}")
    return found


@contextmanager
def zeros_kept(robot: Any) -> Iterator[None]:
    """While it lasts no motor is told that where it stands is zero, as LeRobot's OpenArm does when it connects."""
    buses = [arm.bus for _, arm in arms(robot) if hasattr(arm.bus, "set_zero_position")]
    for bus in buses:
        bus.set_zero_position = lambda *_, **__: None
    try:
        yield
    finally:
        for bus in buses:
            del bus.set_zero_position


def let_go(robot: Any, halt: dict[str, float]) -> None:
    """Disconnect a robot, or what is connected of it; torque goes off or stays on as its configuration says.

    LeRobot's own ``disconnect()`` refuses a robot of which one camera or arm is gone, and would leave the rest of
    it as it is: with torque, and with wheels turning.

    Args:
        robot: LeRobot's.
        halt: an action that stops what moves by velocity; empty where nothing does.

    Raises:
        Exception: whatever a part raised; the others are let go all the same.
    """
    with ExitStack() as steps:  # the last one first, each whatever the others raise
        steps.callback(_let_go_of_parts, robot)
        if robot.is_connected:
            steps.callback(robot.disconnect)
            if halt:
                steps.callback(robot.send_action, halt)


def _let_go_of_parts(robot: Any) -> None:
    with ExitStack() as steps:
        for camera in getattr(robot, "cameras", {}).values():
            if camera.is_connected:
                steps.callback(camera.disconnect)
        for _, arm in arms(robot):
            if arm.bus.is_connected:
                steps.callback(arm.bus.disconnect, getattr(arm.config, "disable_torque_on_disconnect", True))
                if hasattr(arm, "stop_base"):
                    steps.callback(arm.stop_base)


def _range(arm: Any, name: str, motor: Any) -> Range:
    unit = str(motor.norm_mode.value)
    own = getattr(arm.config, "joint_limits", None) or {}
    if name in own:
        return Range(unit, *map(float, own[name]))
    if unit != "degrees":
        return Range(unit, -100.0 if unit == "range_m100_100" else 0.0, 100.0)
    calibrated = arm.calibration.get(name)
    ticks = getattr(arm.bus, "model_resolution_table", {}).get(motor.model)
    if calibrated is None or ticks is None:
        return Range(unit, -float("inf"), float("inf"))
    # Degrees are counted from the middle of the calibrated range.
    half = (calibrated.range_max - calibrated.range_min) / 2 * 360 / (ticks - 1)
    return Range(unit, -half, half)
