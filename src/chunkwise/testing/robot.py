"""What every robot keeps, as checks: inherit, say how yours is made, and run them with pytest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from chunkwise.contract import (
    Action,
    Command,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    Layout,
    RobotSpec,
    get_command_kind_spec,
    robot_layout,
    validate_action,
    validate_frame,
    validate_robot_spec,
)
from chunkwise.contract.values import Array
from chunkwise.robots import Robot

SLACK = 1e-2
"""How far, in the component's unit, a robot at rest may read beyond its limits: sensors have an offset."""


class RobotConformance:
    """What every robot keeps: simulated, recorded, or of metal.

    ::

        class TestMine(RobotConformance):
            def make_robot(self) -> Robot:
                return Mine()

    Every check makes its own robot and closes it.  The commands sent are those that hold it where it is; on
    real hardware read :meth:`still` before you trust that.
    """

    def make_robot(self) -> Robot:
        """The robot under test, not yet connected; override this."""
        raise NotImplementedError("override make_robot()")

    def test_spec_is_valid_before_connect_and_never_changes(self) -> None:
        robot = self.make_robot()
        try:
            assert isinstance(robot, Robot), "a robot has spec, connect, observe, act and close"
            _passes(validate_robot_spec, robot.spec, "the spec is valid before connect()")
            before = _text(robot.spec)
            robot.connect()
            robot.act(self.still(robot, robot.observe()))
            assert _text(robot.spec) == before, "the spec that was read before connect() stays true"
        finally:
            robot.close()
        assert _text(robot.spec) == before, "the spec can still be read after close()"

    def test_limits_are_sane(self) -> None:
        with self._connected() as (robot, frame):
            for slot in robot_layout(robot.spec).slots:
                assert (slot.lower < slot.upper).all(), f"{slot.component}: the limits leave no room to move"
                assert (slot.max_rate > 0).all(), f"{slot.component}: max_rate leaves it no speed"
            measured = robot_layout(robot.spec).measured(frame)
            if measured is None:
                return
            for slot in robot_layout(robot.spec).slots:
                value = measured[slot.columns]
                assert (value >= slot.lower - SLACK).all() and (value <= slot.upper + SLACK).all(), (
                    f"{slot.component} starts at {value}, beyond its own limits"
                )

    def test_observation_has_what_the_spec_declares(self) -> None:
        with self._connected() as (robot, frame):
            _passes(validate_frame, frame, "observe() returns a valid Frame")
            spec = robot.spec
            missing = [key for key in spec.all_state_keys() if key not in frame.state]
            assert not missing, f"the spec declares state that observe() does not return: {missing}"
            for component in spec.components:
                value = frame.state[component.name]
                assert value.ndim == 1 and value.size in _sizes(component), (
                    f"state {component.name!r} has shape {value.shape}, the component {component.dof} joints"
                )
            missing = [key for key in spec.image_keys if key not in frame.images]
            assert not missing, f"the spec declares cameras that observe() does not return: {missing}"
            for key in spec.image_keys:
                assert frame.images[key].ndim in (2, 3), f"image {key!r} has rows and columns"

    def test_observations_do_not_go_back_in_time(self) -> None:
        with self._connected() as (robot, frame):
            for _ in range(3):
                robot.act(self.still(robot, frame))
                later = robot.observe()
                assert later.timestamp_ns >= frame.timestamp_ns, "an observation is older than the one before"
                if frame.sequence_id is not None and later.sequence_id is not None:
                    assert later.sequence_id >= frame.sequence_id, "an observation has an older number"
                frame = later

    def test_acts_by_name_and_says_what_was_applied(self) -> None:
        with self._connected() as (robot, frame):
            action = self.still(robot, frame)
            values = {name: command.value.copy() for name, command in action.commands.items()}
            turned = Action(dict(reversed(action.commands.items())))
            for order in (action, turned):
                applied = robot.act(order)
                _passes(validate_action, applied, "act() returns a valid Action")
                assert set(applied.commands) == set(action.commands), (
                    f"act() was told about {sorted(action.commands)} and returned {sorted(applied.commands)}"
                )
                for name, command in applied.commands.items():
                    sent = action.commands[name]
                    assert command.command == sent.command, (
                        f"{name} was sent {sent.command}, not {command.command}"
                    )
                    assert command.value.shape == sent.value.shape, f"{name} was sent {sent.value.size} numbers"
                    assert np.allclose(command.value, values[name], atol=SLACK), (
                        f"{name} was told {values[name]} and sent {command.value}: by name, not by place"
                    )
            for name, value in values.items():
                assert np.array_equal(action.commands[name].value, value), "act() leaves its action as it was"

    def test_arrays_handed_out_are_not_written_again(self) -> None:
        with self._connected() as (robot, frame):
            arrays = {**frame.state, **frame.images}
            before = {key: value.copy() for key, value in arrays.items()}
            action = self.still(robot, frame)
            layout = robot_layout(robot.spec)
            for nudge in (0.01, 0.02, 0.03):
                robot.act(_nudged(layout, action, nudge))
                robot.observe()
            for key, value in arrays.items():
                assert np.array_equal(value, before[key]), f"{key!r} was written after observe() had handed it out"

    def test_close_may_be_repeated(self) -> None:
        robot = self.make_robot()
        robot.connect()
        robot.close()
        try:
            robot.close()
        except Exception as error:
            raise AssertionError("closing twice is fine") from error

    def test_a_robot_that_never_connected_closes(self) -> None:
        try:
            self.make_robot().close()
        except Exception as error:
            raise AssertionError("closing a robot that was never connected is fine") from error

    def test_measured_row_holds_it(self) -> None:
        with self._connected() as (robot, frame):
            layout = robot_layout(robot.spec)
            row = layout.measured(frame)
            if row is None:
                return
            assert row.shape == (layout.width,) and np.isfinite(row).all(), "where it stands is a row of numbers"
            robot.act(layout.action(row))
            after = layout.measured(robot.observe())
            assert after is not None, "a robot that said where it stands says so again"

    def still(self, robot: Robot, frame: Frame) -> Action:
        """The action that holds `robot` where `frame` saw it; zeros where its state does not tell."""
        layout = robot_layout(robot.spec)
        row = layout.measured(frame)
        if row is None:
            row = np.concatenate([np.clip(np.zeros(slot.dim), slot.lower, slot.upper) for slot in layout.slots])
        return layout.action(row)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Robot, Frame]]:
        robot = self.make_robot()
        try:
            robot.connect()
            yield robot, robot.observe()
        finally:
            robot.close()


def _sizes(component: ComponentSpec) -> set[int]:
    """Lengths that the component's state may have: its joints, or the number that a command of it takes."""
    return {component.dof} | {
        get_command_kind_spec(kind).default_dim or component.dof for kind in component.command
    }


def _nudged(layout: Layout, action: Action, by: float) -> Action:
    """The action a little further on, within the limits."""
    commands = {}
    for slot in layout.slots:
        command = action.commands[slot.component]
        value: Array = np.clip(command.value + by, slot.lower, slot.upper)
        commands[slot.component] = Command(command.command, value, command.ref_frame)
    return Action(commands)


def _passes(check: object, value: object, rule: str) -> None:
    assert callable(check)
    try:
        check(value)
    except InterfaceValidationError as error:
        raise AssertionError(f"{rule}: {error}") from error


def _text(spec: RobotSpec) -> str:
    """The spec in full, arrays and all; equal texts are equal specs."""
    with np.printoptions(threshold=sys.maxsize, precision=17):
        return repr(spec)
