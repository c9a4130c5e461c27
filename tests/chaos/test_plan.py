from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chunkwise.chaos.plan import ONCE, Harm, default_plan, parsed, random_plan, read_plan, to_yaml
from chunkwise.contract import ComponentSpec, InterfaceValidationError, RobotSpec

BARE = RobotSpec("bare", [], [ComponentSpec("arm", "arm", 2, ["joint_position"])])


def test_the_default_plan_has_every_fault_once_one_after_another(robot: Any) -> None:
    plan = default_plan(robot.spec, rest_s=0.5)
    assert [item.harm for item in plan] == list(Harm)
    assert all(after.at_s == pytest.approx(before.end_s + 0.5) for before, after in pairwise(plan))
    assert {item.label for item in plan} >= {"dead_camera head", "frozen_state arm", "kill"}


def test_what_a_robot_does_not_have_cannot_fail() -> None:
    assert Harm.DEAD_CAMERA not in {item.harm for item in default_plan(BARE)}
    assert Harm.DEAD_CAMERA not in {item.harm for item in random_plan(300, 0, BARE)}


def test_a_plan_is_the_same_after_a_way_through_a_file(robot: Any, tmp_path: Path) -> None:
    for plan in (default_plan(robot.spec), random_plan(50, 3, robot.spec)):
        path = tmp_path / "plan.yaml"
        path.write_text(to_yaml(plan))
        assert [item.plain() for item in read_plan(path, robot.spec)] == [item.plain() for item in plan]


def test_equal_seeds_give_equal_plans_and_others_other_ones(robot: Any) -> None:
    one, same, other = (
        [item.plain() for item in random_plan(40, seed, robot.spec, longest_s=2.0)] for seed in (5, 5, 6)
    )
    assert one == same != other


def test_random_plans_draw_every_kind_overlap_and_stay_within_their_lengths(robot: Any) -> None:
    plan = random_plan(400, 1, robot.spec, longest_s=2.0, rest_s=1.0)
    assert {item.harm for item in plan} == set(Harm)
    assert any(after.at_s < before.end_s for before, after in pairwise(plan))
    assert all(0 < item.for_s <= 2.0 for item in plan if item.harm not in ONCE)
    assert plan[-1].at_s == pytest.approx(400 * 2.0, rel=0.15)
    assert {item.options["camera"] for item in plan if item.harm is Harm.DEAD_CAMERA} == {"head", "wrist"}


def test_a_plan_is_brought_into_the_order_of_time(robot: Any) -> None:
    plan = parsed([{"fault": "raise", "at_s": 3}, {"fault": "nan", "at_s": 1, "for_s": 0.5}], robot.spec)
    assert [(item.harm, item.at_s, item.for_s) for item in plan] == [(Harm.NAN, 1.0, 0.5), (Harm.RAISE, 3.0, 1.0)]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"fault": "nan"}, "must be a list of faults"),
        ([], "must be a list of faults"),
        (["nan"], r"plan, fault 1 must be a mapping"),
        ([{"fault": "nna", "at_s": 1}], r"no fault 'nna' \(did you mean 'nan'\?\); there are: stall"),
        ([{"fault": "nan"}], "fault 1: at_s is missing"),
        ([{"fault": "nan", "at_s": "soon"}], "at_s must be a number, got 'soon'"),
        ([{"fault": "nan", "at_s": True}], "at_s must be a number"),
        ([{"fault": "nan", "at_s": float("nan")}], "at_s must be a number"),
        ([{"fault": "nan", "at_s": -1}], "at_s must be 0 to"),
        ([{"fault": "nan", "at_s": 1, "fro_s": 1}], r"nan has no key 'fro_s' \(did you mean 'for_s'\?\)"),
        ([{"fault": "kill", "at_s": 1, "for_s": 1}], "kill happens once and has no for_s"),
        ([{"fault": "nan", "at_s": 1, "camera": "head"}], "nan has no key 'camera'"),
        ([{"fault": "dead_camera", "at_s": 1}], "which camera.*has: head, wrist"),
        ([{"fault": "dead_camera", "at_s": 1, "camera": "haed"}], r"no camera 'haed' \(did you mean 'head'\?\)"),
        ([{"fault": "frozen_state", "at_s": 1, "state": "leg"}], "no state 'leg'.*has: arm, gripper"),
        ([{"fault": "cpu_hog", "at_s": 1, "processes": 1.5}], "processes must be a whole number"),
        ([{"fault": "cpu_hog", "at_s": 1, "processes": 10_000}], "processes must be 1 to 256"),
        ([{"fault": "busy", "at_s": 1, "hold_s": -1}], "hold_s must be 0 to 10"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_with_its_cure(robot: Any, tree: object, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        parsed(tree, robot.spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[", "is no YAML"), ("\x00", "is no YAML"), ("[" * 600, "is no YAML"), ("- {}\n", "fault 1")],
)
def test_a_file_that_holds_something_else_is_refused(robot: Any, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InterfaceValidationError, match=words):
        read_plan(path, robot.spec)


def test_a_file_that_is_not_there_or_too_large_is_refused(robot: Any, tmp_path: Path) -> None:
    with pytest.raises(InterfaceValidationError, match="cannot read plan"):
        read_plan(tmp_path / "none.yaml", robot.spec)
    path = tmp_path / "plan.yaml"
    path.write_bytes(b" " * (1 << 20) + b"[]")
    with pytest.raises(InterfaceValidationError, match="larger than"):
        read_plan(path, robot.spec)


def test_numbers_of_a_random_plan_that_make_no_sense_are_refused(robot: Any) -> None:
    for count, longest_s in ((0, 1.0), (1, 0.0), (10**9, 1.0)):
        with pytest.raises(InterfaceValidationError, match="count must be 1 to"):
            random_plan(count, 0, robot.spec, longest_s=longest_s)
    with pytest.raises(InterfaceValidationError, match="no kind of fault"):
        random_plan(1, 0, BARE, [Harm.DEAD_CAMERA])
