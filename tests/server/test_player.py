"""What runs now, for robots that only show what they see: the player, on a loop, with a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Strategy
from chunkwise.contract import (
    ActionChunk,
    ComponentSpec,
    Frame,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.server.inference import Refused
from chunkwise.server.player import Player, Rules
from chunkwise.testing.world import SimulatedClock
from chunkwise.wires import Observe, Played, Trouble, WireError

HZ = 10.0
PATIENCE_S = 10.0
Play = Callable[..., Any]
ROBOT = RobotSpec(
    "bench",
    [],
    [
        ComponentSpec(
            "arm",
            "arm",
            2,
            ["joint_position"],
            joint_names=["a", "b"],
            lower=[-5.0, -5.0],
            upper=[5.0, 5.0],
            max_rate=[1000.0, 10.0],
        )
    ],
)


@pytest.fixture
def counted(held: Any) -> Any:
    """A policy of 8 rows for 10 Hz whose row `i` is the step that it is for, divided by 100."""
    outputs = [PolicyOutputSpec("arm", "joint_position", 2, names=["a", "b"])]
    held.spec = PolicySpec("counted", [], ["arm"], outputs=outputs, control_hz=HZ, state_names={"arm": ["a", "b"]})

    def says(frame: Any, request: Any) -> ActionChunk:
        steps = np.arange(request.request_step, request.request_step + 8) / 100.0
        return ActionChunk(np.repeat(steps[:, None], 2, axis=1))

    held.says = says
    return held


class Robot:
    """A robot that observes, and what it was told."""

    def __init__(self, bench: Any, strategy: Strategy | None = None, **rules: Any) -> None:
        self.bench, self.clock = bench, bench.service.clock
        self.session = bench.service.session("test", "robot", ROBOT)
        self.wall_ns = 10**18
        self.player = Player(
            self.session,
            Rules(strategy or Strategy(), **rules),
            asyncio.get_running_loop(),
            self.clock,
            lambda: self.wall_ns,
        )

    def shows(self, at: float = 0.0, **given: Any) -> asyncio.Future[Played]:
        """Show an observation with both joints at `at`; what is played."""
        frame = Frame(state={"arm": np.full(2, at)}, timestamp_ns=given.pop("timestamp_ns", 0))
        call = Observe(**({"robot": ROBOT, "frame": frame, "complete": lambda: frame, "paced": True} | given))
        told: asyncio.Future[Played] = asyncio.get_running_loop().create_future()
        self.player.observe(call, self.clock(), told.set_result)
        return told

    async def plays(self, at: float = 0.0, **given: Any) -> Played:
        """The same, waited for."""
        return await asyncio.wait_for(self.shows(at, **given), PATIENCE_S)

    async def started(self, at: float = 0.0, **given: Any) -> Played:
        """The first observation of an episode, which waits for its chunk."""
        return await self.plays(at, reset=True, patience_s=PATIENCE_S, **given)

    async def idle(self) -> None:
        """Once the policy has answered all that it was asked."""
        async with asyncio.timeout(PATIENCE_S):
            while self.bench.service.busy:
                await asyncio.sleep(0)


def run(play: Play, policy: Any, story: Callable[[Robot], Any], **given: Any) -> None:
    """A story of one robot."""

    async def whole(bench: Any) -> None:
        await story(Robot(bench, **given))

    play(policy, whole, clock=SimulatedClock(100.0))


def test_before_the_first_chunk_the_robot_is_held_where_it_stands(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        counted.go.clear()
        for _ in range(3):
            played = await robot.plays(0.7)
            assert played.holding and played.plan is None and played.rows is None and not played.fresh
            np.testing.assert_array_equal(played.row, [0.7, 0.7])
            robot.clock.sleep(0.1)
        assert len(counted.seen) <= 1  # one request is under way

    run(play, counted, story)


def test_an_observation_may_wait_for_the_chunk_that_it_asks_for(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        first = await robot.started()
        assert first.fresh and first.reset and not first.holding
        assert (first.step, first.control_hz) == (0, HZ)
        np.testing.assert_array_equal(first.row, [0.0, 0.0])
        robot.clock.sleep(0.1)
        second = await robot.plays()
        assert not second.reset and second.step == 1
        np.testing.assert_array_equal(second.row, [0.01, 0.01])

    run(play, counted, story)


def test_patience_ends_with_a_hold(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        counted.go.clear()
        waiting = robot.shows(0.3, patience_s=0.01)
        assert not waiting.done()
        played = await asyncio.wait_for(waiting, PATIENCE_S)
        assert played.holding and played.plan is None
        again = robot.shows(0.3, patience_s=PATIENCE_S)
        assert again.done()  # its request is under way already: there is nothing new to wait for

    run(play, counted, story)


def test_who_asks_again_has_not_waited_for_the_first_answer(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        counted.go.clear()
        first = robot.shows(0.3, patience_s=PATIENCE_S)
        second = robot.shows(0.3)
        assert first.done() and second.done() and first.result().holding

    run(play, counted, story)


def test_paced_calls_are_one_step_each_whatever_their_jitter(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        await robot.started()
        for step, off in enumerate([0.03, -0.02, 0.04, -0.04, 0.0, 0.02], 1):
            robot.clock.now_s = 100.0 + step / HZ + off
            played = await robot.plays()
            assert played.step == step
            np.testing.assert_allclose(played.row, [step / 100] * 2)
            await robot.idle()

    run(play, counted, story)


def test_without_a_pace_the_clock_says_which_step_it_is(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        await robot.started(paced=False)
        for now, step in ((0.05, 0), (0.26, 2), (0.27, 2), (0.58, 5)):
            robot.clock.now_s = 100.0 + now
            played = await robot.plays(paced=False)
            assert played.step == step
            np.testing.assert_allclose(played.row, [step / 100] * 2)
            await robot.idle()

    run(play, counted, story)


def test_it_asks_for_the_next_chunk_while_the_plan_runs(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        fresh = [(await robot.started()).fresh]
        for _ in range(30):
            robot.clock.sleep(1 / HZ)
            played = await robot.plays()
            fresh.append(played.fresh)
            assert not played.holding
            np.testing.assert_allclose(played.row, [played.step / 100] * 2)
            await robot.idle()
        assert sum(fresh) > 3 and len(counted.seen) >= sum(fresh)

    run(play, counted, story)


def test_a_plan_that_runs_dry_holds_its_last_row(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        await robot.started()
        counted.go.clear()
        rows = []
        for _ in range(12):
            robot.clock.sleep(1 / HZ)
            played = await robot.plays()
            rows.append(round(float(played.row[0]) * 100))
        assert rows == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
        assert played.holding

    run(play, counted, story)


def test_a_reset_begins_another_episode_where_the_robot_stands(play: Play, counted: Any) -> None:
    resets: list[bool] = []
    counted.reset = lambda: resets.append(True)

    async def story(robot: Robot) -> None:
        await robot.started()
        counted.go.clear()
        for _ in range(3):
            robot.clock.sleep(1 / HZ)
            await robot.plays()
        await robot.bench.entered(2)  # a request of the first episode hangs in the policy
        again = robot.shows(0.9, reset=True)
        played = again.result()
        assert played.reset and played.holding and played.plan is None
        np.testing.assert_array_equal(played.row, [0.9, 0.9])
        counted.go.set()
        await robot.idle()
        asked = [step for _, step in counted.seen]
        assert asked[-1] == 0 and resets  # steps count from the beginning again, after the policy forgot
        played = await robot.plays(0.0)
        assert played.fresh and not played.reset and played.plan.chunk == 0
        assert len(played.plan.rows) == 8  # of this episode; what the first one asked for is dropped

    run(play, counted, story)


def test_what_goes_wrong_is_told_once_and_the_plan_runs_on(play: Play, counted: Any) -> None:
    good = counted.says

    def fails(frame: Any, request: Any) -> Any:
        raise RuntimeError("out of memory")

    async def story(robot: Robot) -> None:
        await robot.started()
        counted.says = fails
        faults: list[str] = []
        for _ in range(5):
            robot.clock.sleep(1 / HZ)
            played = await robot.plays()
            assert not played.holding
            faults += played.faults
            await robot.idle()
        assert faults and set(faults) == {"policy_failed: RuntimeError: out of memory"}
        counted.says = good
        for _ in range(2):
            robot.clock.sleep(1 / HZ)
            await robot.plays()
            await robot.idle()
        robot.clock.sleep(1 / HZ)
        assert not (await robot.plays()).faults

    run(play, counted, story)


def test_a_picture_that_is_none_is_told_and_costs_no_answer(play: Play, counted: Any) -> None:
    def complete() -> Frame:
        raise WireError("image 'head' is no JPEG")

    async def story(robot: Robot) -> None:
        played = await robot.started(complete=complete)
        assert played.holding and played.faults == ("policy_failed: image 'head' is no JPEG",)

    run(play, counted, story)


def test_rows_pass_the_gate_from_where_the_robot_stands(play: Play, counted: Any) -> None:
    counted.says = lambda frame, request: ActionChunk(np.full((8, 2), 9.0))

    async def story(robot: Robot) -> None:
        played = await robot.started(rows=10)
        # joint a may go anywhere, up to its limit; joint b a unit a step, 10 per second at 10 Hz
        np.testing.assert_allclose(played.rows[:, 0], 5.0)
        np.testing.assert_allclose(played.rows[:, 1], [1, 2, 3, 4, 5, 5, 5, 5, 5, 5])
        np.testing.assert_allclose(played.row, [5.0, 1.0])
        assert {"limit: arm", "slew: arm"} <= set(played.faults)
        np.testing.assert_array_equal(played.plan.rows, np.full((8, 2), 9.0))  # the plan itself has not
        robot.clock.sleep(1 / HZ)
        later = await robot.plays(2.0, rows=3)
        np.testing.assert_allclose(later.rows[:, 1], [3, 4, 5])  # counted from where it is seen now

    run(play, counted, story)


def test_the_rows_that_are_asked_for_begin_when_the_robot_does(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        played = await robot.started(rows=4, lead_s=0.2)
        np.testing.assert_allclose(played.rows[:, 0], [0.02, 0.03, 0.04, 0.05])
        counted.go.clear()
        for _ in range(5):
            robot.clock.sleep(1 / HZ)
            played = await robot.plays(rows=4, lead_s=0.2)
        np.testing.assert_allclose(played.rows[:, 0], [0.07] * 4)  # the last one repeats
        robot.clock.sleep(1 / HZ)
        played = await robot.plays(rows=4, lead_s=0.2)
        assert played.rows is None and not played.holding  # the plan covers now, not then

    run(play, counted, story)


def test_rows_of_a_plan_that_is_too_old_are_refused(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        await robot.started()
        counted.go.clear()
        rows, faults = [], []
        for _ in range(6):
            robot.clock.sleep(1 / HZ)
            played = await robot.plays()
            rows.append(round(float(played.row[0]) * 100))
            faults.append("age: arm" in played.faults)
        assert rows == [1, 2, 3, 3, 3, 3] and faults == [False] * 3 + [True] * 3

    run(play, counted, story, max_plan_age_s=0.35)


def test_an_old_observation_is_not_planned_with(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        stale = robot.wall_ns - 600_000_000
        played = await robot.plays(0.4, timestamp_ns=stale, stale_s=0.5)
        assert played.holding and played.faults == ("stale: the observation is 0.6 s old",)
        await robot.idle()
        assert not counted.seen
        await robot.plays(timestamp_ns=stale, stale_s=0.7)
        await robot.idle()
        assert len(counted.seen) == 1

    run(play, counted, story)


@pytest.mark.parametrize("control_hz", [5.0, 50.0])
def test_another_rate_than_the_policys_is_refused(play: Play, counted: Any, control_hz: float) -> None:
    async def story(robot: Robot) -> None:
        with pytest.raises(Refused) as refused:
            robot.shows(control_hz=control_hz)
        assert refused.value.problem.kind is Trouble.MISMATCH
        assert f"rows for 10 Hz, they would be played at {control_hz:g} Hz" in refused.value.problem.text
        assert (await robot.started(control_hz=HZ)).control_hz == HZ

    run(play, counted, story)


def test_a_robot_that_does_not_fit_is_refused_by_name(play: Play, counted: Any) -> None:
    other = replace(ROBOT, components=[replace(ROBOT.components[0], joint_names=["a", "c"])])

    async def story(robot: Robot) -> None:
        with pytest.raises(Refused, match="b"):
            robot.shows(robot=other)
        assert (await robot.started()).fresh

    run(play, counted, story)


def test_a_robot_that_stops_fitting_is_refused_every_time_and_moved_by_nobody(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        await robot.started()
        await robot.idle()
        asked = len(counted.seen)
        arm = replace(ROBOT.components[0], joint_names=["a", "c"])
        for _ in range(3):
            robot.clock.sleep(0.1)
            with pytest.raises(Refused, match="b"):
                robot.shows(robot=replace(ROBOT, components=[arm]))
        assert len(counted.seen) == asked
        assert not (await robot.plays()).reset  # the one that fits goes on

    run(play, counted, story)


def test_a_first_chunk_that_took_long_loses_none_of_its_rows(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        counted.go.clear()
        waiting = robot.shows(reset=True, patience_s=PATIENCE_S)
        robot.clock.sleep(0.6)
        counted.go.set()
        first = await asyncio.wait_for(waiting, PATIENCE_S)
        robot.clock.sleep(1 / HZ)
        second = await robot.plays()
        assert second.step == first.step + 1

    run(play, counted, story)


def test_a_robot_that_calls_too_often_travels_no_faster(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        first = (await robot.started(at=-5.0)).row
        robot.clock.sleep(1 / HZ)
        rows = [(await robot.plays(at=-5.0)).row for _ in range(5)]  # all within one period
        assert rows[0][1] == pytest.approx(first[1] + 10.0 / HZ)  # as far as it may in one
        for row in rows[1:]:
            np.testing.assert_array_equal(row, rows[0])

    run(play, counted, story)


def test_a_player_that_is_stopped_tells_who_waits(play: Play, counted: Any) -> None:
    async def story(robot: Robot) -> None:
        counted.go.clear()
        waiting = robot.shows(patience_s=PATIENCE_S)
        robot.player.stop()
        counted.go.set()
        await robot.idle()
        assert (await waiting).kind is Trouble.CANCELLED

    run(play, counted, story)


def test_a_policy_without_a_spec_is_played_once_its_first_answer_gives_one(play: Play, counted: Any) -> None:
    counted.spec = None

    async def story(robot: Robot) -> None:
        played = await robot.started(control_hz=HZ)
        assert played.fresh and not played.holding
        for step in range(1, 5):
            robot.clock.sleep(1 / HZ)
            played = await robot.plays(control_hz=HZ)
            np.testing.assert_allclose(played.row, [step / 100] * 2)
            await robot.idle()

    run(play, counted, story)
