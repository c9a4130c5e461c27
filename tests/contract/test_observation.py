"""An observation against the robot's spec, and the session that will not start on a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import Frame, RobotFailed, observation_problems
from chunkwise.runtime.session import Session


def test_what_the_mock_observes_is_what_it_declares() -> None:
    robot = plugins.load("robots", "mock")(cameras=("head",))
    assert observation_problems(robot.spec, robot.observe()) == []


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"right_arm": np.zeros(6)}, "state 'right_arm' has shape (6,), it has 7 joints"),
        ({"right_arm": np.full(7, np.nan)}, "frame.state['right_arm'] holds a number that is not finite"),
    ],
)
def test_a_session_does_not_start_on_what_the_robot_does_not_declare(
    state: dict[str, np.ndarray], problem: str
) -> None:
    robot = plugins.load("robots", "mock")()
    seen = robot.observe()
    robot.observe = lambda: Frame(state={**seen.state, **state})
    with pytest.raises(RobotFailed) as refused, Session(robot, plugins.load("policies", "wave")()):
        pass
    assert problem in str(refused.value)


def test_a_missing_camera_is_named_with_the_nearest() -> None:
    robot = plugins.load("robots", "mock")(cameras=("head",))
    frame = Frame(images={"haed": np.zeros((2, 2, 3), np.uint8)}, state=robot.observe().state)
    (problem,) = observation_problems(robot.spec, frame)
    assert problem == "the robot declares camera 'head', the frame does not have it (did you mean 'haed'?)"


def test_a_component_that_cannot_measure_itself_can_be_driven() -> None:
    spec = plugins.load("robots", "mock")().spec
    assert observation_problems(spec, Frame(), every_component=False) == []
    assert len(observation_problems(spec, Frame())) == 4
