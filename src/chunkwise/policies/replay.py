"""The commands of a recording, each at its own control step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    Hold,
    InterfaceValidationError,
    Layout,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    Slot,
    get_command_kind_spec,
)
from chunkwise.contract.layout import slot_of
from chunkwise.contract.values import Array
from chunkwise.recording import ActionRecord, EpisodeReader, RecordingError

__all__ = ["ReplayPolicy"]


class ReplayPolicy:
    """Answers with what the robot was told in the recording, whatever it sees now.

    Row ``i`` of an answer is the command of step ``request_step + i``, to the last bit.  Steps for which nothing
    was recorded, and those after the end, hold: targets repeat, deltas and velocities are zero.  Commands that
    were recorded without a step count from the one before.

    Args:
        path: of the recording.
        rows: rows in a chunk (``H``).

    Raises:
        RecordingError: the file is no recording, has no commands, or commands that change their components.
    """

    def __init__(self, *, path: str, rows: int = 50) -> None:
        if rows < 1:
            raise ValueError(f"rows must be >= 1, got {rows}")
        reader = EpisodeReader(path)
        actions = list(reader.actions())
        if not actions:
            raise RecordingError(f"{path}: no commands were recorded")
        layout = _layout(actions[0].commanded, reader.header.robot)
        outputs = [PolicyOutputSpec(slot.component, slot.command, slot.dim) for slot in layout.slots]
        self.spec = PolicySpec(
            "replay", [], [], outputs=outputs, action_horizon=rows, control_hz=reader.header.control_hz
        )
        self._layout, self._horizon = layout, rows
        self._actions = _by_step(actions)
        self._steps = np.array(list(self._actions))
        self._rows = np.stack([_row(layout, step, action) for step, action in self._actions.items()])

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        steps, at = self._at(request)
        rows = self._rows[at]
        for index in np.flatnonzero(self._steps[at] != steps):
            rows[index] = self._layout.hold(rows[index])
        # The step is said, so that the first chunk does not count as one for a robot that stands and waits.
        return ActionChunk(rows, first_step=request.request_step)

    def actions(self, frame: Frame, request: ChunkRequest) -> list[Action]:
        """The same answer as Actions, with reference frames and metadata as recorded: `run_step`'s ``act_src_fn``.

        Without a runtime every request is for step 0; with one, requests go on in step.
        """
        steps, at = self._at(request)
        return [self._action(int(self._steps[index]), index, step) for step, index in zip(steps, at, strict=True)]

    def _at(self, request: ChunkRequest) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The steps that a request asks for, and for each the last command at or before it.

        Before the first command it is that one: there is nothing else to hold.
        """
        steps = request.request_step + np.arange(self._horizon)
        return steps, np.maximum(np.searchsorted(self._steps, steps, side="right") - 1, 0)

    def _action(self, recorded: int, index: int, step: int) -> Action:
        """A copy of the command of step `recorded`, or what holds after it when it is another `step`."""
        like = self._actions[recorded]
        if recorded == step:
            return Action.from_commands(like.commands, meta=dict(like.meta), copy=True)
        held = self._layout.action(self._layout.hold(self._rows[index].copy()))
        for name, command in held.commands.items():
            command.ref_frame = like.commands[name].ref_frame
        return held


def _layout(first: Action, robot: RobotSpec | None) -> Layout:
    """The columns of the commands; what neither its kind nor a spec knows how to hold repeats."""
    slots: list[Slot] = []
    for name, command in first.commands.items():
        component = robot.get_component(name) if robot is not None else None
        if component is None:
            hold = None if get_command_kind_spec(command.command).hold else Hold.REPEAT
            component = ComponentSpec(name, "custom", command.value.size, [command.command], hold=hold)
        slots.append(slot_of(component, command.command, command.value.size, slots[-1].stop if slots else 0))
    return Layout(slots)


def _by_step(records: list[ActionRecord]) -> dict[int, Action]:
    """The commands by step, in order; of two for one step the later one counts."""
    found: dict[int, Action] = {}
    step = -1
    for record in records:
        step = step + 1 if record.step is None else record.step
        found[step] = record.commanded
    return dict(sorted(found.items()))


def _row(layout: Layout, step: int, action: Action) -> Array:
    try:
        return layout.row(action)
    except InterfaceValidationError as error:
        raise RecordingError(f"the command of step {step} is not like the first one: {error}") from error
