"""The simulated OpenArm: names, motion, time, posts and pictures."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import ArrayLike

from chunkwise.contract import Action, Command, InterfaceValidationError, validate_frame, validate_robot_spec
from chunkwise.plugins import MissingExtra
from chunkwise.robots import Robot
from chunkwise.robots.openarm_sim import CATCH_UP_S, OpenArmSim
from chunkwise.robots.openarm_sim import cameras as cameras_module
from chunkwise.robots.openarm_sim.cameras import CameraThread, Painter
from chunkwise.robots.openarm_sim.physics import POST_HEIGHT, ArmPhysics
from chunkwise.robots.openarm_sim.scene import actuator_names, bare_model, openarm, picture_model
from chunkwise.tasks.lanes import JOINT_NAMES, LANE_CENTRES, lanes_to_joints
from chunkwise.tasks.two_belts import CONTACT

PARTS = {
    "right_arm": ("joint_position", slice(0, 7)),
    "right_gripper": ("gripper_position", slice(7, 8)),
    "left_arm": ("joint_position", slice(8, 15)),
    "left_gripper": ("gripper_position", slice(15, 16)),
}


def action(lanes: ArrayLike) -> Action:
    """An action of all components that sends the hands to lane coordinates."""
    joints = lanes_to_joints(lanes)
    return Action({name: Command(kind, joints[columns]) for name, (kind, columns) in PARTS.items()})


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def robot() -> Iterator[OpenArmSim]:
    robot = OpenArmSim(lockstep=True)
    robot.connect()
    yield robot
    robot.close()


@pytest.fixture
def drawing() -> None:
    try:
        Painter().close()
    except RuntimeError as error:
        pytest.skip(str(error))


# --- the spec -----------------------------------------------------------------------------------------------


def test_the_spec_is_known_without_a_connection() -> None:
    robot = OpenArmSim(cameras=("ceiling",))
    validate_robot_spec(robot.spec)
    assert isinstance(robot, Robot)
    assert [component.name for component in robot.spec.components] == list(PARTS)
    assert [name for part in robot.spec.components for name in part.joint_names] == list(JOINT_NAMES)
    assert robot.spec.image_keys == ["ceiling"] and robot.spec.state_keys == ["belts"]


def test_the_specs_limits_are_the_models() -> None:
    model = bare_model()
    ranges = np.array([model.actuator(name).ctrlrange for name in actuator_names()])
    components = OpenArmSim().spec.components
    np.testing.assert_allclose(np.concatenate([part.lower for part in components]), ranges[:, 0], atol=1e-6)
    np.testing.assert_allclose(np.concatenate([part.upper for part in components]), ranges[:, 1], atol=1e-6)


def test_the_pictures_model_has_the_positions_of_the_bare_one() -> None:
    bare, picture = bare_model(), picture_model()
    assert [bare.joint(i).name for i in range(bare.njnt)] == [picture.joint(i).name for i in range(picture.njnt)]
    assert bare.nq == picture.nq


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'ceiling'"):
        OpenArmSim(cameras=("cieling",))
    with pytest.raises(ValueError, match="divide 500"):
        OpenArmSim(control_hz=60.0, lockstep=True)


# --- the motion ---------------------------------------------------------------------------------------------


def test_the_same_targets_give_the_same_motion_in_any_batch() -> None:
    targets = lanes_to_joints(np.random.default_rng(1).uniform(-0.1, 0.1, (5, 3, 2)))
    alone, batch = ArmPhysics(1), ArmPhysics(3)
    for row in targets:
        batch.step(row)
        alone.step(row[1:2])
        np.testing.assert_array_equal(batch.joints[1], alone.joints[0])
        np.testing.assert_array_equal(batch.rods[1], alone.rods[0])
    alone.reset([[0.0, 0.0]])
    for row in targets:
        alone.step(row[1:2])
    np.testing.assert_array_equal(batch.joints[1], alone.joints[0])


def test_hands_reach_their_lanes_and_rods_stay_upright() -> None:
    physics = ArmPhysics(1)
    wanted = np.array([0.08, -0.05])
    for _ in range(75):
        physics.step(lanes_to_joints([wanted]))
    np.testing.assert_allclose(physics.lanes[0], wanted, atol=0.002)
    np.testing.assert_allclose(physics.rods[0, -1, :, 1], LANE_CENTRES + wanted, atol=0.002)
    np.testing.assert_allclose(physics.rods[0, -1, :, 2], POST_HEIGHT, atol=1e-9)
    np.testing.assert_allclose(physics.lane_velocities, 0.0, atol=0.01)


def test_advancing_in_pieces_samples_the_rods_at_the_same_times() -> None:
    whole, pieces = ArmPhysics(1), ArmPhysics(1)
    target = lanes_to_joints([[0.1, -0.1]])
    whole.advance(target, 30)
    samples = []
    for substeps in (1, 3, 2, 7, 4, 13):
        pieces.advance(target, substeps)
        samples.append(pieces.rods)
    assert whole.rods.shape == (1, 6, 2, 3)
    np.testing.assert_allclose(np.concatenate(samples, axis=1), whole.rods, atol=1e-9)


def test_joints_are_bound_by_name_not_by_place() -> None:
    permuted = ET.fromstring(_bare_xml())
    for order in (permuted.find("actuator"), permuted.find("worldbody")):
        assert order is not None
        order[:] = list(reversed(order))  # right arm first, its last joint first
    model = mujoco.MjModel.from_xml_string(ET.tostring(permuted, encoding="unicode"))
    assert model.joint(0).name != bare_model().joint(0).name
    straight, turned = ArmPhysics(1), ArmPhysics(1, model=model)
    for _ in range(10):
        straight.step(lanes_to_joints([[0.1, -0.05]]))
        turned.step(lanes_to_joints([[0.1, -0.05]]))
    np.testing.assert_allclose(turned.joints, straight.joints, atol=1e-9)
    np.testing.assert_allclose(turned.rods, straight.rods, atol=1e-9)


def _bare_xml() -> str:
    """The bare model as XML, with its sensors."""
    spec = openarm()
    for part in (*spec.geoms, *spec.meshes):
        spec.delete(part)
    for side in ("right", "left"):
        for point in ("grip", "rod"):
            spec.add_sensor(
                type=mujoco.mjtSensor.mjSENS_FRAMEPOS, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=f"{side}_{point}"
            )
    spec.compile()
    return str(spec.to_xml())


def test_a_command_moves_its_own_arm(robot: OpenArmSim) -> None:
    before = robot.observe().state
    moved = action([0.1, 0.1]).commands["right_arm"]
    for _ in range(25):
        robot.act(Action({"right_arm": moved}))
    after = robot.observe().state
    assert np.abs(after["right_arm"] - before["right_arm"]).max() > 0.1
    np.testing.assert_allclose(after["left_arm"], before["left_arm"], atol=1e-3)


# --- the port -----------------------------------------------------------------------------------------------


def test_a_frame_holds_what_the_spec_says(robot: OpenArmSim) -> None:
    frame = robot.observe()
    validate_frame(frame)
    assert list(frame.state) == robot.spec.all_state_keys()
    assert {name: value.shape for name, value in frame.state.items()} == {
        "right_arm": (7,),
        "right_gripper": (1,),
        "left_arm": (7,),
        "left_gripper": (1,),
        "belts": (2, 2, 2),
    }
    assert frame.meta["privileged"]["lane_velocity"].shape == (2,)
    kept = frame.state["right_arm"].copy()
    robot.act(action([0.1, 0.1]))
    np.testing.assert_array_equal(frame.state["right_arm"], kept)  # never written again


def test_act_answers_what_was_applied(robot: OpenArmSim) -> None:
    wild = Action({"right_arm": Command("joint_position", np.full(7, 9.0))})
    applied = robot.act(wild).commands["right_arm"].value
    np.testing.assert_array_equal(applied, robot.spec.components[0].upper)


@pytest.mark.parametrize(
    ("name", "command", "value", "complaint"),
    [
        ("rihgt_arm", "joint_position", np.zeros(7), "did you mean 'right_arm'"),
        ("right_arm", "joint_velocity", np.zeros(7), "as joint_position, not joint_velocity"),
        ("right_arm", "joint_position", np.zeros(6), "takes 7 numbers"),
        ("right_arm", "joint_position", np.full(7, np.nan), "not finite"),
    ],
)
def test_a_wrong_action_is_refused(robot: OpenArmSim, name: str, command: str, value: Any, complaint: str) -> None:
    with pytest.raises(InterfaceValidationError, match=complaint):
        robot.act(Action({name: Command(command, value)}))


def test_closing_twice_is_fine_and_a_closed_robot_says_so() -> None:
    robot = OpenArmSim()
    robot.close()
    robot.connect()
    robot.close()
    robot.close()
    with pytest.raises(RuntimeError, match="connect"):
        robot.observe()


def test_missing_mujoco_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtra, match=r"pip install 'chunkwise\[openarm-sim\]'"):
        OpenArmSim().connect()


# --- time ---------------------------------------------------------------------------------------------------


def run(robot: OpenArmSim, clock: Clock | None, steps: int = 60) -> list[Any]:
    seen = []
    for step in range(steps):
        seen.append(np.concatenate([value.reshape(-1) for value in robot.observe().state.values()]))
        robot.act(action([0.05 * np.sin(step / 9), 0.05 * np.cos(step / 7)]))
        if clock is not None:
            clock.now_s += 0.02
    return seen


def test_lockstep_is_deterministic(robot: OpenArmSim) -> None:
    first = run(robot, None)
    score = robot.score()
    robot.reset(0)
    np.testing.assert_array_equal(run(robot, None), first)
    assert robot.score() == score
    robot.reset(1)
    assert not np.array_equal(run(robot, None), first)


def test_by_the_clock_the_same_moves_happen(robot: OpenArmSim) -> None:
    clock = Clock()
    running = OpenArmSim(clock=clock)
    running.connect()
    np.testing.assert_array_equal(run(running, clock), run(robot, None))
    running.close()


def test_time_passes_without_commands_but_a_long_gap_is_lost() -> None:
    clock = Clock()
    robot = OpenArmSim(clock=clock)
    robot.connect()
    clock.now_s += 0.1
    robot.observe()
    assert robot.score()["seconds"] == pytest.approx(0.1)
    clock.now_s += 3.0
    frame = robot.observe()
    assert robot.score()["seconds"] == pytest.approx(0.1 + CATCH_UP_S)
    assert frame.timestamp_ns == pytest.approx(clock.now_s * 1e9, abs=2.1e6)
    robot.observe()
    assert robot.score()["seconds"] == pytest.approx(0.1 + CATCH_UP_S)
    robot.close()


# --- posts --------------------------------------------------------------------------------------------------


def pass_posts(robot: OpenArmSim, beside_m: float, steps: int = 160) -> None:
    """Keep both hands beside the next post of their lane."""
    for _ in range(steps):
        next_y = robot.observe().state["belts"][:, 0, 1]
        robot.act(action(next_y - LANE_CENTRES + beside_m))


def test_rods_that_stay_clear_pass_and_rods_in_the_way_hit(robot: OpenArmSim) -> None:
    pass_posts(robot, CONTACT + 0.03)
    assert robot.score()["hits"] == 0 and robot.score()["passed"] >= 2 and not robot.score()["failed"]
    assert not robot.snapshot()["hit"].any()
    robot.reset()
    pass_posts(robot, 0.0)
    assert robot.score()["hits"] >= 2 and robot.score()["passed"] == 0 and robot.score()["failed"]
    hit = robot.snapshot()["hit"]
    posts = robot.snapshot()["posts"]
    assert hit.any(axis=1).all()
    assert posts[..., 0][hit].max() < posts[..., 0][~hit].max()  # those that have arrived, not those to come


# --- pictures -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawing")
def test_cameras_see_something_and_stepped_images_repeat() -> None:
    cameras = ("ceiling", "head", "wrist_right", "wrist_left")

    def images() -> dict[str, Any]:
        robot = OpenArmSim(lockstep=True, cameras=cameras, camera_size=(60, 80), camera_hz=25.0)
        robot.connect()
        first = robot.observe().images
        assert list(first) == robot.spec.image_keys
        for _ in range(4):
            robot.act(action([0.1, -0.1]))
        frame = robot.observe()
        robot.close()
        assert not np.array_equal(first["ceiling"], frame.images["ceiling"])
        assert frame.meta["images_time_s"] == pytest.approx(0.08)
        return frame.images

    once, again = images(), images()
    for name in cameras:
        assert once[name].shape == (60, 80, 3) and once[name].dtype == np.uint8
        assert once[name].std() > 10
        np.testing.assert_array_equal(once[name], again[name])


@pytest.mark.usefixtures("drawing")
def test_a_snapshot_is_drawn_after_the_run(robot: OpenArmSim) -> None:
    robot.reset(0)
    before = robot.snapshot()
    pass_posts(robot, 0.0, steps=100)
    after = robot.snapshot()
    robot.reset(1)
    pictures = [robot.render(snapshot, size=(120, 160)) for snapshot in (before, after)]
    assert all(picture.shape == (120, 160, 3) and picture.std() > 10 for picture in pictures)

    def red(picture: Any) -> int:
        return int(((picture[..., 0] > 150) & (picture[..., 1] < 80) & (picture[..., 2] < 80)).sum())

    assert red(pictures[0]) == 0 and red(pictures[1]) > 20  # the posts that were hit


def test_missing_opengl_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nowhere")
    with pytest.raises(RuntimeError, match="apt-get install libegl1"):
        OpenArmSim(cameras=("ceiling",)).connect()


def test_cameras_that_fail_are_not_taken_for_a_world_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def draw(self, snapshot: dict[str, Any], camera: str, size: tuple[int, int]) -> np.ndarray[Any, Any]:
            if snapshot["time_s"] > 0:
                raise RuntimeError("the context is lost")
            return np.zeros((2, 2, 3), dtype=np.uint8)

        def close(self) -> None: ...

    monkeypatch.setattr(cameras_module, "Painter", Failing)
    thread = CameraThread(["head"], 10.0, (2, 2))
    thread.draw({"time_s": 0.0})
    thread.offer(0.2, lambda: {"time_s": 0.2})
    for call in (thread.wait, lambda: thread.offer(0.4, lambda: {"time_s": 0.4}), thread.wait):
        with pytest.raises(RuntimeError, match="the context is lost"):
            call()
    thread.close()
