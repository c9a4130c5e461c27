"""A recording as a policy: every command at its own step, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chunkwise import InferenceRuntime, plugins, run_step
from chunkwise.contract import Action, ChunkRequest, Command, Frame, connect
from chunkwise.policies.replay import ReplayPolicy
from chunkwise.recording import EpisodeReader, EpisodeWriter, RecordedRobot, RecordingError
from chunkwise.runtime.session import Session


def arm(value: float, kind: str = "joint_position", ref_frame: str | None = None) -> Action:
    return Action({"arm": Command(kind, np.full(7, value), ref_frame)})


def recorded(path: Path, *commands: tuple[int | None, Action], **header: object) -> str:
    with EpisodeWriter(path, **header) as writer:  # type: ignore[arg-type]
        for step, action in commands:
            writer.action(action, step=step)
    return str(path)


def rows(policy: ReplayPolicy, step: int) -> list[float]:
    chunk = policy.infer(Frame(), ChunkRequest(step))
    assert chunk.first_step == step
    return chunk.rows[:, 0].tolist()


def test_row_i_is_the_command_of_step_i(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", *((k, arm(k / 3)) for k in range(10)))
    policy = ReplayPolicy(path=path, rows=4)
    assert rows(policy, 0) == [0, 1 / 3, 2 / 3, 1]
    assert rows(policy, 5) == [5 / 3, 2, 7 / 3, 8 / 3]


def test_gaps_and_the_end_hold(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", (2, arm(2)), (3, arm(3)), (6, arm(6)))
    assert rows(ReplayPolicy(path=path, rows=9), 0) == [2, 2, 2, 3, 3, 3, 6, 6, 6]
    deltas = recorded(tmp_path / "b.mcap", *((k, arm(k, "joint_position_delta")) for k in (2, 3, 6)))
    assert rows(ReplayPolicy(path=deltas, rows=9), 0) == [0, 0, 2, 3, 0, 0, 6, 0, 0]


def test_commands_without_a_step_follow_each_other_and_the_later_of_two_counts(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", (None, arm(0)), (None, arm(1)), (5, arm(5)), (None, arm(6)), (6, arm(7)))
    assert rows(ReplayPolicy(path=path, rows=7), 0) == [0, 1, 1, 1, 1, 5, 7]


def test_as_actions_it_keeps_reference_frames_and_metadata(tmp_path: Path) -> None:
    kind = "cartesian_twist"
    told = Action({"arm": Command(kind, np.arange(6.0), "tool", {"a": 1})}, {"b": 2})
    policy = ReplayPolicy(path=recorded(tmp_path / "a.mcap", (0, told)), rows=2)
    same, held = policy.actions(Frame(), ChunkRequest(0))
    assert same.meta == {"b": 2} and same.commands["arm"].meta == {"a": 1}
    assert same.commands["arm"].ref_frame == held.commands["arm"].ref_frame == "tool"
    assert same.commands["arm"].value.tolist() == [0, 1, 2, 3, 4, 5] and not held.commands["arm"].value.any()
    same.commands["arm"].value[:] = 9
    assert policy.actions(Frame(), ChunkRequest(0))[0].commands["arm"].value[1] == 1


def test_its_spec_comes_from_the_recording_and_fits_the_robot(tmp_path: Path) -> None:
    robot = plugins.load("robots", "mock")(arms=1, control_hz=20.0)
    path = recorded(tmp_path / "a.mcap", (0, arm(1)), robot=robot.spec)
    policy = ReplayPolicy(path=path)
    assert policy.spec.control_hz == 20.0 and policy.spec.action_horizon == 50
    assert connect(robot.spec, policy.spec).layout.components == ["arm"]


def test_a_kind_that_nobody_knows_how_to_hold_repeats(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", (0, arm(1, "custom:wave")))
    assert rows(ReplayPolicy(path=path, rows=2), 3) == [1, 1]


def test_what_cannot_be_replayed_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no commands"):
        ReplayPolicy(path=recorded(tmp_path / "a.mcap"))
    path = recorded(tmp_path / "b.mcap", (0, arm(1)), (1, arm(1, "joint_velocity")))
    with pytest.raises(RecordingError, match="step 1 is not like the first"):
        ReplayPolicy(path=path)
    with pytest.raises(ValueError, match="rows"):
        ReplayPolicy(path=path, rows=0)
    with pytest.raises(FileNotFoundError):
        ReplayPolicy(path=str(tmp_path / "none.mcap"))


class Clock:
    """A clock that only sleeping moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_session_that_replays_a_session_sends_the_same_commands(tmp_path: Path) -> None:
    def drive(policy: object, path: Path) -> dict[int, bytes]:
        clock = Clock()
        with EpisodeWriter(path) as writer:
            robot = RecordedRobot(plugins.load("robots", "mock")(follow=0.3), writer, step=lambda: step())
            session = Session(robot, policy, "switch", worker="inline", clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]

            def step() -> int:
                return session.pacer.steps + session.pacer.missed - 1 if hasattr(session, "pacer") else 0

            with session:
                writer.follow(session.events.reader())
                session.run(seconds=2.0)
        reader = EpisodeReader(path)
        sent = {turn.step: turn.sent.tobytes() for turn in reader.turns() if turn.sent is not None}
        told = {record.step: record.commanded for record in reader.actions()}
        assert told.keys() == sent.keys()
        layout = session.binding.layout
        assert all(layout.row(action).tobytes() == sent[step] for step, action in told.items() if step is not None)
        return sent

    first = drive(plugins.load("policies", "wave")(amplitude=0.3, rows=16), tmp_path / "a.mcap")
    again = drive(ReplayPolicy(path=str(tmp_path / "a.mcap"), rows=7), tmp_path / "b.mcap")
    assert len(first) == 100 and again == first


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_run_step_replays_exactly(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    told = [Action({"arm": Command("joint_position", rng.normal(size=7))}) for _ in range(40)]
    policy = ReplayPolicy(path=recorded(tmp_path / "a.mcap", *enumerate(told)), rows=9)
    sent: list[bytes] = []
    with InferenceRuntime(mode, worker="inline", steps_before_request=0) as runtime:
        for _ in told:
            run_step(
                frame=Frame(),
                act_src_fn=policy.actions,
                act_fn=lambda action: sent.append(action.commands["arm"].value.tobytes()),
                runtime=runtime,
            )
    assert sent == [action.commands["arm"].value.tobytes() for action in told]
