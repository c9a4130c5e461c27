"""Between a policy's Actions and the scheduler's rows, both ways, for a robot that nobody has declared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chunkwise.chunking import Decision
from chunkwise.chunking.plan import Plan, mix
from chunkwise.contract import (
    MAX_ROWS,
    Action,
    ActionChunk,
    ComponentSpec,
    Hold,
    InterfaceValidationError,
    Layout,
    Slot,
    get_command_kind_spec,
    validate_action,
)
from chunkwise.contract.layout import slot_of
from chunkwise.contract.values import Array


class _Running(NamedTuple):
    """The chunk that joined the plan last.

    Attributes:
        request: whose answer it is.
        step: the control step of its row 0.
        number: of its first action; actions are counted without the in-between ones.
        actions: as the policy made them.
        rows: the same with in-between rows.
        fine: control steps per action.
    """

    request: int
    step: int
    number: int
    actions: list[Action]
    rows: Array
    fine: int

    def following(self, step: int) -> int:
        """Which of the actions is the first that begins at control step `step` or later."""
        return -((self.step - step) // self.fine)


class ActionRows:
    """The rows behind a policy's Actions; the layout is read off the first one.

    An action that runs as it was predicted is handed back as the very object the policy made, unless somebody has
    written to it since: what runs are the numbers that were checked.

    Args:
        between: in-between rows after every action but the last, of chunks to come.
    """

    def __init__(self, between: int = 0) -> None:
        self.between = between
        self.length = 0
        self._layout: Layout | None = None
        self._silent: set[str] = set()  # components of which nobody has said what holding still means
        self._running: _Running | None = None
        self._last: Action | None = None

    @property
    def layout(self) -> Layout:
        """Of the rows; known after the first chunk."""
        assert self._layout is not None
        return self._layout

    @property
    def running(self) -> int:
        """The request whose answer joined the plan last; -1 before there is one."""
        return -1 if self._running is None else self._running.request

    def chunk(self, actions: list[Action]) -> ActionChunk:
        """Actions as a chunk of rows, in-between ones included.

        Raises:
            InterfaceValidationError: one is no valid action, they do not all command the same components in the
                same kinds, or there are too many.
        """
        if self._layout is None:
            validate_action(actions[0])
            self._layout, self.length = self._read(actions[0]), len(actions)
        fine = self.between + 1
        if len(actions) * fine > MAX_ROWS:
            raise InterfaceValidationError(f"{len(actions)} actions of {fine} steps are over {MAX_ROWS} steps")
        rows = np.empty((len(actions), self._layout.width))
        for index, action in enumerate(actions):
            try:
                rows[index] = self._layout.row(action)
            except InterfaceValidationError as error:
                raise InterfaceValidationError(f"chunk[{index}]: {error}") from error
        rows = spread(self._layout, rows, fine - 1)  # `between` may be set meanwhile
        rows.flags.writeable = False
        return ActionChunk(rows, None, {"actions": actions, "fine": fine})

    def join(self, chunk: ActionChunk, request: int, step: int, number: int) -> None:
        """A chunk joined the plan: its row 0 belongs to control step `step` and is action `number`."""
        meta = chunk.meta
        self._running = _Running(request, step, number, meta["actions"], chunk.rows, meta["fine"])

    def begins(self, step: int) -> bool:
        """Whether one of the policy's own actions begins at `step`, and not an in-between one."""
        running = self._running
        return running is None or running.fine == 1 or (step - running.step) % running.fine == 0

    def number(self, step: int) -> int:
        """The number of the policy's own action that begins at `step` or next."""
        assert self._running is not None
        return self._running.number + self._running.following(step)

    def left(self, plan: Plan, step: int) -> int:
        """How many of the policy's own actions the plan has from `step` on."""
        return len(self._own_rows(plan, step))

    def ahead(self, plan: Plan, step: int, most: int) -> list[Action]:
        """The first of them, as they are planned; their values cannot be written to."""
        running = self._running
        assert running is not None
        rows = self._own_rows(plan, step)[:most]
        if running.fine > 1 and self.layout.zero_hold is not None:
            rows = np.where(self.layout.zero_hold, rows * running.fine, rows)
            rows.flags.writeable = False
        first, last = running.following(step), len(running.actions) - 1
        return [_dressed(self.layout, row, running.actions[min(first + i, last)]) for i, row in enumerate(rows)]

    def action(self, decision: Decision) -> Action:
        """The action of a decision that runs a row."""
        running, row = self._running, decision.row
        assert running is not None and row is not None
        index = decision.step - running.step
        number, rest = divmod(index, running.fine)
        like = running.actions[min(number, len(running.actions) - 1)]
        whole = not rest and (running.fine == 1 or self.layout.zero_hold is None)
        # A row of an array that owns its numbers has that array as its base.
        planned = whole and (row.base is running.rows or np.array_equal(row, running.rows[index]))
        if planned and _holds(self.layout, row, like):
            self._last = like
        else:
            self._last = _dressed(self.layout, row.copy(), like)  # the driver may write to it
        return self._last

    def hold(self, row: Array) -> Action:
        """The action that holds; components of which nobody has said how get no command."""
        assert self._last is not None
        action = _dressed(self.layout, row.copy(), self._last)
        for name in self._silent:
            del action.commands[name]
        return action

    def _own_rows(self, plan: Plan, step: int) -> Array:
        running = self._running
        assert running is not None
        return plan.since(step)[(running.step - step) % running.fine :: running.fine]

    def _read(self, action: Action) -> Layout:
        slots: list[Slot] = []
        for target, command in action.commands.items():
            dim, kind = command.value.size, str(command.command)
            hold = None
            if get_command_kind_spec(kind).hold is None or _turns_unsaid(kind, dim):
                self._silent.add(target)
                hold = Hold.REPEAT
            component = ComponentSpec(target, "custom", dim, [kind], hold=hold)
            slots.append(slot_of(component, kind, dim, slots[-1].stop if slots else 0))
        return Layout(slots)


def _dressed(layout: Layout, row: Array, like: Action) -> Action:
    """A row with the frames and metadata of an action like it."""
    action = layout.action(row)
    action.meta = dict(like.meta)
    for name, command in action.commands.items():
        model = like.commands[name]
        command.command, command.ref_frame, command.meta = model.command, model.ref_frame, dict(model.meta)
    return action


def _holds(layout: Layout, row: Array, action: Action) -> bool:
    """Whether an action has exactly the numbers of a row."""
    commands = action.commands
    return all(commands[slot.component].value.tobytes() == row[slot.columns].tobytes() for slot in layout.slots)


def _turns_unsaid(kind: str, dim: int) -> bool:
    """Whether a change of pose has a rotation that is not three angles, so that zeros are not "no turn"."""
    return kind == "cartesian_pose_delta" and dim not in (3, 6)


def spread(layout: Layout, rows: Array, between: int) -> Array:
    """Rows with `between` further ones after each, so that a chunk takes longer by that factor.

    Targets go on to the next row in equal parts (rotations turn), switches and what does not blend stay until it.
    Deltas and velocities are divided, so that the distance travelled is the same.  After the last row there is
    nothing to go on to: it stands alone, unless a delta or velocity needs the steps to travel its distance.

    Args:
        layout: of the rows.
        rows: ``(n, width)``.
        between: rows after each.

    Returns:
        ``(n + (n - 1) * between, width)``, or ``(n * (between + 1), width)`` with deltas or velocities; an array
        of its own.

    Raises:
        InterfaceValidationError: a change of pose cannot be divided, because its rotation is not three angles.
    """
    if not between:
        return rows
    fine = between + 1
    made = np.repeat(rows, fine, axis=0)
    following = np.repeat(np.concatenate([rows[1:], rows[-1:]]), fine, axis=0)
    mixed = mix(layout, made, following, np.tile(np.arange(fine) / fine, len(rows)))
    for slot in layout.slots:
        if slot.hold is Hold.ZERO or slot.command == "cartesian_pose_delta":
            if _turns_unsaid(slot.command, slot.dim):
                raise InterfaceValidationError(
                    f"interpolation_steps: {slot.component!r} changes its pose by {slot.dim} numbers, which "
                    "cannot be divided; three lengths and three angles can"
                )
            made[:, slot.columns] /= fine
        elif slot.blends:
            made[:, slot.columns] = mixed[:, slot.columns]
    return made if layout.zero_hold is not None else made[: len(rows) + (len(rows) - 1) * between].copy()
