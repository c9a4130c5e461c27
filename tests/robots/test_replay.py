"""A recording as a robot: shows what was seen, in order and in time, and keeps what it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import Action, Command, Frame
from chunkwise.recording import EpisodeWriter, RecordingError
from chunkwise.robots.replay import ReplayRobot


def told(k: float) -> Action:
    return Action({"arm": Command("joint_position", np.full(2, k / 3))})


def recorded(path: Path, *, times: tuple[int, ...] = (100, 120, 150, 400), **header: object) -> str:
    """Frames at these times [ms] and a command after each."""
    with EpisodeWriter(path, **header) as writer:  # type: ignore[arg-type]
        for k, time_ms in enumerate(times):
            state = {"arm": np.full(2, float(k)), "touch": np.array([k])}
            image = {"head": np.full((2, 2, 3), k, dtype=np.uint8)} if k != 2 else {}
            writer.frame(Frame(image, state, timestamp_ns=time_ms * 10**6, sequence_id=k), step=k)
            writer.action(told(k), step=k)
    return str(path)


class Clock:
    now = 7.0

    def __call__(self) -> float:
        return self.now


def test_fast_shows_one_after_the_other_and_stays_at_the_last(tmp_path: Path) -> None:
    robot = ReplayRobot(path=recorded(tmp_path / "a.mcap"), pace="fast")
    for _ in range(2):
        robot.connect()
        seen = []
        while not robot.finished:
            seen.append(robot.observe().sequence_id)
        assert seen == [0, 1, 2, 3]
        assert robot.observe().sequence_id == 3


def test_recorded_shows_the_newest_whose_time_has_come(tmp_path: Path) -> None:
    clock = Clock()
    robot = ReplayRobot(path=recorded(tmp_path / "a.mcap"), clock=clock)
    robot.connect()
    seen = []
    for now in (0.0, 0.019, 0.02, 0.06, 0.299, 0.31, 5.0):
        clock.now = 7.0 + now
        seen.append(robot.observe().sequence_id)
    assert seen == [0, 0, 1, 2, 2, 3, 3] and robot.finished


def test_a_camera_whose_image_was_dropped_shows_the_one_before(tmp_path: Path) -> None:
    robot = ReplayRobot(path=recorded(tmp_path / "a.mcap"), pace="fast")
    robot.connect()
    assert [int(robot.observe().images["head"][0, 0, 0]) for _ in range(4)] == [0, 1, 1, 3]


def test_it_keeps_and_compares_what_it_is_told(tmp_path: Path) -> None:
    robot = ReplayRobot(path=recorded(tmp_path / "a.mcap"), pace="fast")
    robot.connect()
    for k in (0, 1, 2.5, 3, 4):
        action = told(k)
        assert robot.act(action) is action
        action.commands["arm"].value[:] = 99
    assert [action.commands["arm"].value[0] for action in robot.sent] == [0, 1 / 3, 2.5 / 3, 1, 4 / 3]
    assert robot.differences() == [2, 4]
    robot.connect()
    assert not robot.sent and not robot.differences()


def test_its_spec_is_the_recorded_one_or_what_was_seen(tmp_path: Path) -> None:
    mock = plugins.load("robots", "mock")()
    assert ReplayRobot(path=recorded(tmp_path / "a.mcap", robot=mock.spec)).spec == mock.spec
    spec = ReplayRobot(path=recorded(tmp_path / "b.mcap")).spec
    assert spec.image_keys == ["head"] and spec.state_keys == ["touch"]
    assert [(part.name, part.dof, part.command) for part in spec.components] == [("arm", 2, ["joint_position"])]


def test_what_cannot_be_replayed_says_so(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", times=())
    with pytest.raises(RecordingError, match="no observations"):
        ReplayRobot(path=path)
    whole = recorded(tmp_path / "b.mcap")
    with pytest.raises(ValueError, match="pace"):
        ReplayRobot(path=whole, pace="slow")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="connect"):
        ReplayRobot(path=whole).observe()
