"""Actions to rows and back, and the rows in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Decision, Source, SourceKind
from chunkwise.chunking.plan import Plan
from chunkwise.contract import MAX_ROWS, Action, Command, InterfaceValidationError, Layout
from chunkwise.runtime.actions import ActionRows


def actions(values: list[float], kind: str = "joint_position", dim: int = 2) -> list[Action]:
    return [Action({"arm": Command(kind, np.full(dim, value), "base", {"n": 1})}) for value in values]


def at(step: int, row: np.ndarray) -> Decision:
    return Decision(step, row, Source(SourceKind.CHUNK, 0, step))


def joined(made: list[Action], between: int = 0) -> tuple[ActionRows, Plan]:
    rows = ActionRows(between)
    chunk = rows.chunk(made)
    rows.join(chunk, 0, 0, 0)
    return rows, Plan(0, chunk.rows, 0, 0)


def test_an_action_that_runs_as_predicted_is_the_object_the_policy_made() -> None:
    made = actions([1.0, 2.0])
    rows, plan = joined(made)
    assert [rows.action(at(step, plan.rows[step])) for step in range(2)] == made


def test_a_blended_row_keeps_the_reference_frame_and_the_metadata() -> None:
    rows, _ = joined(actions([1.0, 2.0]))
    command = rows.action(at(1, np.array([1.5, 1.5]))).commands["arm"]
    assert command.value.tolist() == [1.5, 1.5] and command.ref_frame == "base" and command.meta == {"n": 1}


def test_a_hold_keeps_the_reference_frame_too() -> None:
    rows, plan = joined(actions([1.0, 2.0]))
    rows.action(at(0, plan.rows[0]))
    assert rows.hold(plan.rows[0]).commands["arm"].ref_frame == "base"


def test_a_component_whose_kind_does_not_say_how_to_hold_gets_no_command() -> None:
    both = Action({"arm": Command("joint_position", [1.0]), "lamp": Command("custom:lamp", [1.0])})
    rows, plan = joined([both, both])
    rows.action(at(0, plan.rows[0]))
    assert list(rows.hold(plan.rows[0]).commands) == ["arm"]


def test_a_change_of_pose_whose_rotation_nobody_declared_is_not_held_with_zeros() -> None:
    quaternion = Action(
        {"arm": Command("cartesian_pose_delta", np.ones(7)), "jaw": Command("gripper_position", [1])}
    )
    rows, plan = joined([quaternion, quaternion])
    rows.action(at(0, plan.rows[0]))
    assert list(rows.hold(plan.rows[0]).commands) == ["jaw"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Action({"leg": Command("joint_position", [1.0, 1.0])}), r"chunk\[1\].*leg"),
        (Action({"arm": Command("joint_velocity", [1.0, 1.0])}), r"chunk\[1\].*joint_velocity"),
        (Action({"arm": Command("joint_position", [1.0])}), r"chunk\[1\].*1 numbers"),
        (Action({"arm": Command("joint_position", [1.0, np.nan])}), r"chunk\[1\].*nan"),
    ],
)
def test_a_chunk_commands_the_same_components_throughout(wrong: Action, said: str) -> None:
    with pytest.raises(InterfaceValidationError, match=said):
        ActionRows().chunk([actions([1.0])[0], wrong])


def test_the_first_action_is_checked_as_an_action() -> None:
    with pytest.raises(InterfaceValidationError, match="must not be empty"):
        ActionRows().chunk([Action({})])
    with pytest.raises(InterfaceValidationError, match="did you mean 'joint_position'"):
        ActionRows().chunk(actions([1.0], kind="joint_positon"))


def test_a_chunk_has_a_longest_length_in_steps() -> None:
    one = actions([0.0])[0]
    with pytest.raises(InterfaceValidationError, match="1366 actions of 3 steps are over 4096"):
        ActionRows(2).chunk([one] * (MAX_ROWS // 3 + 1))


# ── in-between rows ──────────────────────────────────────────────────────────────────────────────────


def test_targets_are_interpolated_and_the_last_one_stands_alone() -> None:
    rows = ActionRows(2).chunk(actions([0.0, 3.0, 6.0])).rows
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_fifty_actions_with_two_between_are_148_steps() -> None:
    assert len(ActionRows(2).chunk(actions([float(i) for i in range(50)])).rows) == 148


@pytest.mark.parametrize("kind", ["joint_position_delta", "joint_velocity", "cartesian_twist"])
def test_interpolation_does_not_multiply_deltas_and_velocities(kind: str) -> None:
    rows = ActionRows(2).chunk(actions([1.0] * 4, kind, 6)).rows
    assert len(rows) == 12 and np.isclose(rows[:, 0].sum(), 4.0)


@pytest.mark.parametrize("kind", ["gripper_position", "gripper_open_close", "eef_activation", "custom:lamp"])
def test_what_does_not_blend_stays_until_the_next_action(kind: str) -> None:
    assert ActionRows(1).chunk(actions([0.0, 1.0], kind, 1)).rows[:, 0].tolist() == [0, 0, 1]


def test_a_change_of_pose_with_a_quaternion_cannot_be_divided() -> None:
    with pytest.raises(InterfaceValidationError, match="cannot be divided"):
        ActionRows(1).chunk(actions([0.0, 1.0], "cartesian_pose_delta", 7))


def test_only_the_policys_own_actions_are_counted_and_shown() -> None:
    rows, plan = joined(actions([0.0, 3.0, 6.0]), between=2)
    assert [rows.begins(step) for step in range(7)] == [True, False, False, True, False, False, True]
    assert [rows.number(step) for step in range(8)] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [rows.left(plan, step) for step in range(8)] == [3, 2, 2, 2, 1, 1, 1, 0]
    assert [a.commands["arm"].value[0] for a in rows.ahead(plan, 2, 9)] == [3, 6]


def test_shown_deltas_are_the_policys_own_and_not_the_divided_ones() -> None:
    rows, plan = joined(actions([1.0, 2.0], "joint_position_delta"), between=1)
    assert [a.commands["arm"].value[0] for a in rows.ahead(plan, 0, 9)] == [1, 2]


def test_shown_actions_cannot_be_written_to() -> None:
    rows, plan = joined(actions([1.0, 2.0]))
    with pytest.raises(ValueError, match="read-only"):
        rows.ahead(plan, 0, 1)[0].commands["arm"].value[0] = 9


def test_interpolation_that_is_set_while_a_chunk_is_made_is_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, read = ActionRows(0), Layout.row

    def setting(layout: Layout, made: Action) -> Any:
        rows.between = 3
        return read(layout, made)

    monkeypatch.setattr(Layout, "row", setting)
    made = rows.chunk([Action({"arm": Command("joint_position", [float(k)])}) for k in range(4)])
    assert len(made.rows) == 4 and made.meta["fine"] == 1
