"""One policy and many clients: readiness, sessions, the queue, and what each client is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ActionChunk, ImageRule, PolicyOutputSpec, PolicySpec, RobotSpec
from chunkwise.server import Settings
from chunkwise.testing.world import SimulatedClock
from chunkwise.wires import Failed, Readiness, Trouble, Welcome

Play = Callable[..., Any]


# Readiness ----------------------------------------------------------------------------------------------------


def test_it_warms_up_before_it_is_ready_and_says_meanwhile_that_it_loads(play: Play, held: Any) -> None:
    begun, go, order = threading.Event(), threading.Event(), []

    def make() -> Any:
        begun.set()
        order.append(("made", go.wait(10)))
        held.warmup = lambda: order.append(("warmed up", True))
        return held

    async def story(bench: Any) -> None:
        assert await asyncio.get_running_loop().run_in_executor(None, begun.wait, 10)
        line = bench.greeted()
        (welcome,) = line.events
        assert isinstance(welcome, Welcome)
        assert welcome.offer.readiness is Readiness.LOADING and "loading for 0." in welcome.offer.detail
        assert (welcome.offer.policy, welcome.offer.version, line.closed) == (None, "v 1", False)
        line.ask(1)
        assert (await line.problem(1))[0] is Trouble.LOADING
        assert not order
        go.set()
        assert await bench.service.loaded is Readiness.READY
        assert order == [("made", True), ("warmed up", True)]
        line.hello()
        assert line.events[-1].offer.readiness is Readiness.READY
        assert line.events[-1].offer.policy == held.spec
        line.ask(2, 5.0)
        assert await line.rows(2) == [5.0, 5.0]

    play(make, story, load=False, version="v 1")


def test_a_policy_that_does_not_load_is_told_to_everybody(play: Play) -> None:
    def broken() -> Any:
        raise OSError("no such checkpoint")

    async def story(bench: Any) -> None:
        assert bench.service.readiness is Readiness.FAILED
        line = bench.greeted()
        offer = line.events[0].offer
        assert offer.readiness is Readiness.FAILED and offer.detail == "OSError: no such checkpoint"
        line.ask(1)
        assert "no such checkpoint" in (await line.problem(1))[1]

    bench = play(broken, story)
    assert [name for name, _ in bench.said if name.startswith("policy")] == ["policy_failed_to_load"]


def test_an_inference_without_an_end_makes_the_server_stalled(play: Play, held: Any) -> None:
    clock = SimulatedClock(100.0)

    async def story(bench: Any) -> None:
        line = bench.greeted()
        held.go.clear()
        line.ask(1)
        await bench.entered()
        assert bench.service.readiness is Readiness.READY
        clock.sleep(11.0)
        line.tell(line.half.status(2))
        assert line.events[-1].offer.readiness is Readiness.STALLED
        assert "runs for 11.0 s" in line.events[-1].offer.detail
        held.go.set()
        await line.rows(1)
        assert bench.service.readiness is Readiness.READY

    play(held, story, clock=clock)


# Sessions -----------------------------------------------------------------------------------------------------


class Sums:
    """Adds up what each of its sessions saw."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.log: list[str] = [] if log is None else log
        self.total = 0.0
        outputs = [PolicyOutputSpec("arm", "joint_position", 2)]
        self.spec = PolicySpec("sums", [], ["arm"], outputs=outputs)

    def session(self) -> Sums:
        return Sums(self.log)

    def infer(self, frame: Any, request: Any) -> Any:
        self.total += frame.state["arm"][0]
        return np.full((2, 2), self.total)

    def reset(self) -> None:
        self.log.append("reset")
        self.total = 0.0

    def close(self) -> None:
        self.log.append("close")


def test_two_sessions_are_never_mixed(play: Play) -> None:
    async def story(bench: Any) -> None:
        one, two = bench.greeted(), bench.greeted()
        assert one.half.session != two.half.session
        totals = [0.0, 0.0]
        for id in range(1, 20):
            for number, line in enumerate((one, two)):
                value = float(id if number == 0 else -100 * id)
                totals[number] += value
                line.ask(id, value)
            assert await one.rows(id) == [totals[0]] * 2
            assert await two.rows(id) == [totals[1]] * 2
        one.tell(one.half.reset(50))
        await one.answer(50)
        for line in (one, two):
            line.ask(51, 1.0)
        assert await one.rows(51) == [1.0, 1.0]
        assert await two.rows(51) == [totals[1] + 1.0] * 2

    play(Sums(), story)


def test_a_session_without_a_name_is_forgotten_with_its_connection(play: Play) -> None:
    policy = Sums()

    async def story(bench: Any) -> None:
        lines = [bench.greeted() for _ in range(3)]
        assert len(bench.service.sessions) == 3
        for line in lines:
            line.connection.lost("")
            line.connection.lost("twice")
        assert not bench.service.sessions
        other = bench.greeted()
        other.ask(1, 2.0)
        assert await other.rows(1) == [2.0, 2.0]
        assert policy.log.count("close") == 3  # each of them, and not the policy itself

    play(policy, story)


def test_a_session_with_a_name_is_found_again_and_forgotten_after_a_while(play: Play) -> None:
    clock = SimulatedClock(10.0)

    async def story(bench: Any) -> None:
        line = bench.greeted(session="bench 3")
        line.ask(1, 4.0)
        assert await line.rows(1) == [4.0, 4.0]
        line.connection.lost("")
        clock.sleep(30.0)
        bench.service.sweep()
        again = bench.greeted(session="bench 3")
        again.ask(1, 4.0)
        assert await again.rows(1) == [8.0, 8.0]
        again.connection.lost("")
        clock.sleep(61.0)
        bench.service.sweep()
        assert not bench.service.sessions

    play(Sums(), story, clock=clock)


def test_sessions_are_limited(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        bench.greeted(), bench.greeted()
        third = bench.greeted()
        assert isinstance(third.events[0], Failed) and third.events[0].problem.kind is Trouble.BUSY
        assert "2 at once" in third.events[0].problem.text

    play(held, story, Settings(max_sessions=2))


def test_a_policy_that_remembers_and_has_no_sessions_serves_one_client_at_a_time(play: Play) -> None:
    class Remembers(Sums):
        session = None  # type: ignore[assignment]

    policy, clock = Remembers(), SimulatedClock(5.0)

    async def story(bench: Any) -> None:
        one = bench.greeted()
        one.ask(1, 3.0)
        assert await one.rows(1) == [3.0, 3.0]
        two = bench.greeted()
        assert two.events[0].problem.kind is Trouble.BUSY
        assert "no session()" in two.events[0].problem.text and not two.closed
        one.connection.lost("")
        two.hello()
        two.ask(1, 3.0)
        assert await two.rows(1) == [3.0, 3.0]  # it was reset in between
        assert "close" not in policy.log

    play(policy, story, clock=clock)


# The queue ----------------------------------------------------------------------------------------------------


def test_whoever_asks_often_does_not_get_more_than_its_turn(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        greedy, modest = bench.greeted(), bench.greeted()
        held.go.clear()
        greedy.ask(1, 1.0)
        await bench.entered()
        for id in range(2, 30):
            greedy.ask(id, 1.0, step=id)
        modest.ask(1, 2.0)
        greedy.ask(30, 1.0, step=30)
        held.go.set()
        await bench.entered()
        greedy.ask(31, 1.0, step=31)
        await modest.rows(1)
        await greedy.rows(31)
        assert held.seen == [(1.0, 0), (1.0, 30), (2.0, 0), (1.0, 31)]

    play(held, story)


def test_a_newer_request_takes_the_place_of_the_one_that_waits_and_that_is_told(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        held.go.clear()
        line.ask(1)
        await bench.entered()
        line.ask(2)
        line.ask(3, 9.0)
        assert (await line.problem(2))[0] is Trouble.SUPERSEDED
        assert not line.about(1) and not line.about(3)
        held.go.set()
        assert await line.rows(3) == [9.0, 9.0]
        assert await line.rows(1) == [0.0, 0.0]
        assert len(held.seen) == 2

    play(held, story)


def test_a_deadline_is_told_while_the_policy_runs_and_what_it_answers_later_is_dropped(
    play: Play, held: Any
) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        held.go.clear()
        line.ask(1, 1.0, deadline_s=0.01)
        await bench.entered()
        kind, text = await line.problem(1)
        assert kind is Trouble.DEADLINE and "0.01 s" in text
        line.ask(2, 2.0)
        held.go.set()
        assert await line.rows(2) == [2.0, 2.0]
        assert len(line.about(1)) == 1 and not bench.service.busy

    play(held, story)


def test_no_deadline_is_longer_than_the_servers(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        held.go.clear()
        line.ask(1, deadline_s=1000.0)
        assert (await line.problem(1))[0] is Trouble.DEADLINE

    play(held, story, Settings(inference_timeout_s=0.01))


@pytest.mark.parametrize("runs", [True, False])
def test_a_request_can_be_cancelled(play: Play, held: Any, runs: bool) -> None:
    async def story(bench: Any) -> None:
        line, other = bench.greeted(), bench.greeted()
        held.go.clear()
        (line if runs else other).ask(1, 1.0)
        await bench.entered()
        if not runs:
            line.ask(1, 2.0)
        line.tell(line.half.cancel(1))
        line.tell(line.half.cancel(77))  # of no request: nothing
        assert (await line.problem(1))[0] is Trouble.CANCELLED
        held.go.set()
        line.ask(2, 3.0)
        assert await line.rows(2) == [3.0, 3.0]
        assert [value for value, _ in held.seen] == [1.0, 3.0]
        assert len(line.about(1)) == 1

    play(held, story)


def test_what_a_client_that_has_gone_asked_for_is_not_computed(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line, other = bench.greeted(), bench.greeted()
        held.go.clear()
        other.ask(1, 1.0)
        await bench.entered()
        line.ask(1, 2.0)
        line.connection.lost("gone")
        held.go.set()
        other.ask(2, 3.0)
        await other.rows(2)
        assert [value for value, _ in held.seen] == [1.0, 3.0]
        assert not line.events[1:]

    play(held, story)


def test_a_number_that_is_used_twice_is_cancelled_like_any_other(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line, other = bench.greeted(), bench.greeted()
        held.go.clear()
        other.ask(1, 1.0)
        await bench.entered()
        line.ask(1, 2.0)
        line.ask(1, 3.0)
        assert (await line.problem(1))[0] is Trouble.SUPERSEDED
        line.tell(line.half.cancel(1))
        await line.until(lambda: len(line.about(1)) == 2)
        assert line.about(1)[1].problem.kind is Trouble.CANCELLED

    play(held, story)


def test_a_second_client_is_greeted_while_the_policy_runs(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        held.go.clear()
        line.ask(1)
        await bench.entered()
        other = bench.greeted()
        assert isinstance(other.events[0], Welcome) and other.events[0].offer.readiness is Readiness.READY
        other.tell(other.half.probe(5, 100))
        assert other.about(5) and not line.about(1)

    play(held, story)


def test_more_requests_than_are_served_are_told_so(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        for id in range(1, 1003):
            line.ask(id)
        assert (await line.problem(1001))[0] is Trouble.BUSY
        assert "1000 requests per second" in (await line.problem(1002))[1]
        assert not line.closed
        bench.service.clock.sleep(0.0025)
        line.ask(2000, 4.0)
        assert await line.rows(2000) == [4.0, 4.0]

    play(held, story, clock=SimulatedClock())


# Answers that are none ----------------------------------------------------------------------------------------


def raises(frame: Any, request: Any) -> Any:
    raise RuntimeError("CUDA out of memory")


def leaves(frame: Any, request: Any) -> Any:
    raise SystemExit(3)


def nan(frame: Any, request: Any) -> Any:
    rows = np.zeros((4, 2))
    rows[2, 1] = np.nan
    return ActionChunk(rows)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (raises, "RuntimeError: CUDA out of memory"),
        (leaves, "SystemExit: 3"),
        (nan, "nan for b in row 2"),
        (lambda frame, request: ActionChunk(np.zeros((4, 3))), "3 columns"),
        (lambda frame, request: np.zeros((0, 2)), "action_horizon"),
        (lambda frame, request: None, "None"),
        (lambda frame, request: "rows", "must hold numbers"),
    ],
)
def test_an_answer_that_is_none_is_told_and_the_server_lives(
    play: Play, held: Any, says: Callable[..., Any], words: str
) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        good, held.says = held.says, says
        line.ask(1)
        kind, text = await line.problem(1)
        assert kind is Trouble.POLICY_FAILED and words in text
        held.says = good
        line.ask(2, 6.0)
        assert await line.rows(2) == [6.0, 6.0]

    play(held, story)


def test_a_frame_that_lacks_something_names_it(play: Play, held: Any) -> None:
    held.spec = replace(held.spec, required_state_keys=["arm", "force"], required_image_keys=["head"])

    async def story(bench: Any) -> None:
        line = bench.greeted()
        line.ask(1)
        kind, text = await line.problem(1)
        assert kind is Trouble.MALFORMED
        assert "camera 'head' is missing" in text and "state 'force' is missing" in text

    play(held, story)
    assert not held.seen


# Robot and policy ---------------------------------------------------------------------------------------------


def test_a_robot_that_does_not_fit_is_told_what_it_lacks(play: Play, held: Any, make_robot: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted(robot=make_robot("a", "c"))
        problem = line.events[0].problem
        assert problem.kind is Trouble.MISMATCH and "b" in problem.text and line.closed
        fits = bench.greeted(robot=make_robot("b", "a"))
        assert isinstance(fits.events[0], Welcome)

    play(held, story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalisation": "sha256:11"}, "normalisation: 'sha256:11' here, None there"),
        ({"control_hz": 30.0}, "control_hz: 30.0 here, None there"),
        ({"action_horizon": 8}, "action_horizon: 8 here, 4 there"),
        ({"state_names": {"arm": ["b", "a"]}}, "state_names['arm']: another order"),
        (
            {"outputs": [PolicyOutputSpec("arm", "joint_position", 2, names=["b", "a"])]},
            "output 'arm': names differ",
        ),
        ({"images": {"head": ImageRule(pad="top_left")}}, "images['head'].pad: top_left here, centre there"),
        ({"required_image_keys": ["head", "wrist"]}, "cameras: ['head', 'wrist'] here, ['head'] there"),
    ],
)
def test_another_policy_than_expected_is_refused_by_name(
    play: Play, held: Any, change: dict[str, Any], words: str
) -> None:
    held.spec = replace(held.spec, required_image_keys=["head"], images={"head": ImageRule()})

    async def story(bench: Any) -> None:
        line = bench.greeted(expects=replace(held.spec, **change))
        problem = line.events[0].problem
        assert problem.kind is Trouble.MISMATCH and words in problem.text and line.closed
        assert not bench.service.sessions
        assert isinstance(bench.greeted(expects=held.spec).events[0], Welcome)

    play(held, story)


def test_another_policy_is_refused_where_it_has_a_spec_only_once_it_met_its_robot(
    play: Play, held: Any, make_robot: Any
) -> None:
    spec = replace(held.spec, normalisation="sha256:01")
    held.spec = None

    class OfThatRobot:
        def __init__(self) -> None:
            self.spec: PolicySpec | None = None
            self.infer = held.infer

        def meet(self, robot: RobotSpec) -> None:
            self.spec = spec

    held.session = OfThatRobot

    async def story(bench: Any) -> None:
        robot = make_robot("a", "b")
        line = bench.greeted(robot=robot, expects=replace(spec, normalisation="sha256:02"))
        problem = line.events[0].problem
        assert problem.kind is Trouble.MISMATCH and "'sha256:02' here, 'sha256:01' there" in problem.text
        assert not bench.service.sessions
        assert isinstance(bench.greeted(robot=robot, expects=spec).events[0], Welcome)

    play(held, story)


def test_a_policy_without_a_spec_is_bound_to_the_robot_of_the_greeting(
    play: Play, held: Any, make_robot: Any
) -> None:
    held.spec = None
    robot: RobotSpec = make_robot("left", "right")
    robot.components[0].lower = np.array([-9.0, -9.0])  # type: ignore[assignment]

    async def story(bench: Any) -> None:
        nameless = bench.greeted()
        nameless.ask(1, 3.0)
        kind, text = await nameless.problem(1)
        assert kind == Trouble.MISMATCH and "has not said what robot" in text
        line = bench.greeted(robot=robot)
        assert line.events[0].offer.policy is None
        line.ask(1, 3.0)
        assert await line.rows(1) == [3.0, 3.0]
        line.hello(robot=robot)
        assert line.events[-1].offer.policy is None  # else both ends would bind it
        line.ask(2, 4.0)
        assert await line.rows(2) == [4.0, 4.0]

    play(held, story)


# Who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "another", "s3cret ", "s3cre"])
def test_without_the_token_there_is_nothing(play: Play, held: Any, token: str) -> None:
    async def story(bench: Any) -> None:
        line = bench.line(guarded=True)
        line.hello(token=token)
        (refused,) = line.events
        assert refused.problem.kind is Trouble.UNAUTHORISED and line.closed
        assert "s3cret" not in refused.problem.text
        silent = bench.line(guarded=True)
        silent.ask(1)
        assert (await silent.problem(1))[0] is Trouble.UNAUTHORISED
        silent.tell(silent.half.status(2))
        assert silent.about(2)[0].problem.kind is Trouble.UNAUTHORISED
        assert not bench.service.sessions and not held.seen

    play(held, story, Settings(token="s3cret"))


def test_with_the_token_there_is_everything(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.line(guarded=True).hello(token="s3cret")
        line.ask(1, 2.0)
        assert await line.rows(1) == [2.0, 2.0]
        local = bench.line(guarded=False)  # of a UNIX socket: who may open it may ask
        local.ask(1, 3.0)
        assert await local.rows(1) == [3.0, 3.0]

    play(held, story, Settings(token="s3cret"))


def test_a_client_that_speaks_no_protocol_is_left_alone_and_counted(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line, other = bench.line(), bench.greeted()
        line.connection.received(b"GET / HTTP/1.1\r\n\r\n")
        assert line.closed and not line.events and not other.closed

    bench = play(held, story)
    (details,) = [details for name, details in bench.said if name == "refused"]
    assert "b'GE'" in details["error"]
    assert b'chunkwise_refused_total{wire="native"} 1.0' in bench.metrics.text()


def test_shared_memory_is_for_one_host_and_once(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.line()
        line.tell(line.half.ask_for_memory(1, 4096))
        assert line.about(1)[0].problem.kind is Trouble.MISMATCH  # before HELLO
        line.hello()
        line.tell(line.half.ask_for_memory(2, 4096))
        offered = line.events[-1]
        assert (offered.size, len(offered.nonce)) == (4096, 16)
        line.tell(line.half.ask_for_memory(3, 4096))
        assert line.about(3)[0].problem.kind is Trouble.BUSY
        far = bench.line()
        far.local = False
        far.hello()
        far.tell(far.half.ask_for_memory(4, 4096))
        assert far.about(4)[0].problem.kind is Trouble.MISMATCH

    play(held, story)


# The end ------------------------------------------------------------------------------------------------------


def test_draining_answers_what_is_under_way_and_takes_nothing_new(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        runs, waits, late = bench.greeted(), bench.greeted(), bench.greeted()
        held.go.clear()
        runs.ask(1, 1.0)
        await bench.entered()
        waits.ask(1, 2.0)
        bench.service.drain()
        late.ask(1, 3.0)
        assert (await late.problem(1))[0] is Trouble.DRAINING
        newcomer = bench.greeted()
        assert newcomer.events[0].problem.kind is Trouble.DRAINING
        assert bench.service.busy and bench.service.readiness is Readiness.DRAINING
        held.go.set()
        assert await runs.rows(1) == [1.0, 1.0] and await waits.rows(1) == [2.0, 2.0]
        assert not bench.service.busy and len(held.seen) == 2

    play(held, story)


def test_it_is_busy_until_the_answer_was_handed_out(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        for id in range(1, 200):
            line = bench.greeted()
            line.ask(id)
            while bench.service.busy:
                await asyncio.sleep(0)
            assert line.about(id)

    play(held, story)


def test_counts_and_log_say_what_happened(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted(session="bench 1")
        line.ask(1)
        await line.rows(1)
        held.says = raises
        line.ask(2)
        await line.problem(2)
        text = bench.metrics.text().decode()
        for count in (
            'chunkwise_connections{wire="native"} 1.0',
            'chunkwise_answers_total{result="ok",wire="native"} 1.0',
            'chunkwise_answers_total{result="policy_failed",wire="native"} 1.0',
            'chunkwise_seconds_count{wire="native"} 2.0',
        ):
            assert count in text
        line.connection.lost("")
        assert 'chunkwise_connections{wire="native"} 0.0' in bench.metrics.text().decode()

    bench = play(held, story)
    assert [name for name, _ in bench.said] == ["policy_loaded", "connected", "answered", "problem", "left"]
    (_, problem) = bench.said[3]
    assert problem["request"].startswith("bench 1/") and problem["request"].endswith("/2")
    assert problem["kind"] == "policy_failed" and "CUDA" in problem["error"]
