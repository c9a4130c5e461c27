"""A policy behind a socket: a real server in another thread, and what the robot's side makes of its moods."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
    PolicyTimedOut,
)
from chunkwise.policies.remote import Remote, State
from chunkwise.runtime.session import Session
from chunkwise.server import Listen, Server, Settings
from chunkwise.testing.world import SimulatedClock
from chunkwise.transports import Address
from chunkwise.wires import Trouble

PATIENCE_S = 10.0
Mock: Any = plugins.load("robots", "mock")
Native: Any = plugins.load("wires", "native")
JOINTS = [f"joint{number}" for number in range(1, 8)]


class Named:
    """Puts each joint at a hundredth of its number, with its columns in an order of its own.

    Attributes:
        seen: state and request of every call, in the policy's words.
        entered: one permit for every call that has begun.
        go: cleared to hold every call where it is.
    """

    def __init__(self, order: list[str] | None = None, rows: int = 20) -> None:
        self.order = order or JOINTS[::-1]
        self.spec = PolicySpec(
            "named",
            [],
            ["arm"],
            outputs=[PolicyOutputSpec("arm", "joint_position", 7, names=self.order)],
            state_names={"arm": self.order},
            action_horizon=rows,
            normalisation="sha256:01",
        )
        self.seen: list[tuple[Frame, ChunkRequest]] = []
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.go.set()
        self.resets = 0

    def session(self) -> Named:
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        horizon = self.spec.action_horizon or 1
        self.seen.append((frame, request))
        self.entered.release()
        assert self.go.wait(PATIENCE_S), "the test never let go"
        row = np.array([0.01 * int(name[-1]) for name in self.order])
        return ActionChunk(np.tile(row, (horizon, 1)))

    def reset(self) -> None:
        self.resets += 1


class Behind:
    """A server on a socket, in a thread of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "policy.sock"
        self.url = f"native+unix://{self.path}"
        self._server: Server | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, make: Callable[[], Any], settings: Settings | None = None, *, loaded: bool = True) -> Server:
        """Listen, and wait until the policy is there."""
        listen = Listen("native", Native(), Address("unix", str(self.path)))
        self._server = server = Server(make, [listen], settings)

        async def begin() -> None:
            await server.start()
            if loaded:
                await server.service.loaded

        self.run(begin())
        return server

    def run(self, work: Any) -> Any:
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def kill(self) -> None:
        """End the server, whatever it does."""
        server, self._server = self._server, None
        if server is not None:
            self.run(server.stop(drain_s=0.0))

    def close(self) -> None:
        self.kill()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    made = Behind(tmp_path)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def remote(url: str, **given: Any) -> Iterator[Remote]:
    made = Remote(url=url, **given)
    try:
        yield made
    finally:
        made.close()


def frame(value: float = 0.0) -> Frame:
    """What the policy's own words call its state: seven numbers in its order."""
    return Frame(state={"arm": np.full(7, value)})


# What works ---------------------------------------------------------------------------------------------------


def test_it_has_the_policys_spec_and_gives_its_chunks(behind: Behind) -> None:
    policy = Named()
    behind.start(lambda: policy)
    prefix = np.random.default_rng(0).normal(size=(3, 7))
    with remote(behind.url) as policy_here:
        assert policy_here.spec == policy.spec and policy_here.state is State.STREAMING
        request = ChunkRequest(5, latency_steps=2, inference_delay=2, prefix=prefix, prefix_weights=np.ones(3))
        chunk = policy_here.infer(frame(0.25), request)
        np.testing.assert_array_equal(chunk.rows[0], 0.01 * np.arange(7, 0, -1))
        assert chunk.first_step is None and "reconnected" not in chunk.meta
    (seen, asked) = policy.seen[0]
    np.testing.assert_array_equal(seen.state["arm"], np.full(7, 0.25))
    assert (asked.request_step, asked.inference_delay) == (5, 2)
    np.testing.assert_array_equal(asked.prefix, prefix)  # bit by bit
    assert policy_here.state is State.CLOSED
    with pytest.raises(PolicyFailed, match="closed"):
        policy_here.infer(frame(), ChunkRequest(0))
    policy_here.close()


def test_it_says_which_of_the_servers_models_is_meant(behind: Behind) -> None:
    policy = Named()
    policy.spec = replace(policy.spec, required_task_keys=["model", "prompt"])
    behind.start(lambda: policy)
    asked = Frame(state=frame().state, task={"prompt": "sort", "model": "bench"})
    with remote(behind.url, model="kitchen") as there:
        assert there.spec is not None and there.spec.required_task_keys == ["prompt"]
        there.infer(asked, ChunkRequest(0))
    assert policy.seen[-1][0].task == {"prompt": "sort", "model": "kitchen"}
    assert asked.task["model"] == "bench", "the robot's frame is its own"
    with remote(behind.url) as there:
        assert there.spec is not None and there.spec.required_task_keys == ["model", "prompt"]
        there.infer(asked, ChunkRequest(0))
    assert policy.seen[-1][0].task["model"] == "bench"
    with pytest.raises(InterfaceValidationError, match="this wire cannot say which model"):
        Remote(url="ark+http://127.0.0.1:1", model="kitchen")


def test_a_robot_moves_by_the_names_of_its_joints(behind: Behind) -> None:
    policy = Named()
    behind.start(lambda: policy)
    robot, clock = Mock(arms=1), SimulatedClock()
    with remote(behind.url) as there:
        session = Session(robot, there, "switch", worker="inline", clock=clock, sleep=clock.sleep)
        with session:
            session.run(seconds=1.0)
    assert session.report is not None
    np.testing.assert_allclose(robot.observe().state["arm"], 0.01 * np.arange(1, 8))
    assert policy.resets >= 1 and len(policy.seen) > 2


def test_pictures_go_through_shared_memory(behind: Behind) -> None:
    policy = Named()
    policy.spec = replace(policy.spec, required_image_keys=["head"])
    server = behind.start(lambda: policy)
    draw = np.random.default_rng(1)
    with remote(behind.url) as there:
        for step in range(6):
            image = draw.integers(0, 255, (200, 300, 3), dtype=np.uint8)
            there.infer(Frame({"head": image}, frame().state), ChunkRequest(step))
            np.testing.assert_array_equal(policy.seen[-1][0].images["head"], image)
        (session,) = server.service.sessions.values()
        assert session.owners == 1
        assert there._half is not None and there._half._memory is not None  # type: ignore[attr-defined]
    with remote(f"{behind.url}?shared_memory=false") as there:
        there.infer(Frame({"head": image}, frame().state), ChunkRequest(0))
        np.testing.assert_array_equal(policy.seen[-1][0].images["head"], image)
        assert there._half._memory is None  # type: ignore[union-attr]


def test_a_server_that_loads_is_waited_for(behind: Behind) -> None:
    policy, go = Named(), threading.Event()

    def make() -> Any:
        assert go.wait(PATIENCE_S)
        return policy

    server = behind.start(make, loaded=False)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        go.set()

        async def loaded() -> None:
            await server.service.loaded

        behind.run(loaded())

    with remote(behind.url, sleep=sleep) as there:
        assert there.spec == policy.spec
    assert waits == [0.25]


def test_a_reset_reaches_the_policy(behind: Behind) -> None:
    policy = Named()
    behind.start(lambda: policy)
    with remote(behind.url) as there:
        there.reset()
        assert policy.resets == 1
        there.infer(frame(), ChunkRequest(0))
        assert policy.resets == 1


# What goes wrong ----------------------------------------------------------------------------------------------


def test_a_server_that_dies_and_comes_back(behind: Behind) -> None:
    policy, clock, told = Named(), SimulatedClock(50.0), []
    behind.start(lambda: policy)
    with remote(behind.url, clock=clock, on_state=lambda old, new, why: told.append((old, new))) as there:
        there.infer(frame(), ChunkRequest(0))
        behind.kill()
        with pytest.raises(PolicyFailed, match=r"closed the connection|reset|Broken pipe"):
            there.infer(frame(), ChunkRequest(1))
        assert there.state is State.RECONNECTING
        with pytest.raises(PolicyFailed, match="nobody listens there: the socket does not exist"):
            there.infer(frame(), ChunkRequest(2))  # the first try comes at once
        with pytest.raises(PolicyFailed, match=r"the next try is in 0\.05 s"):
            there.infer(frame(), ChunkRequest(3))
        clock.sleep(0.051)
        with pytest.raises(PolicyFailed, match="nobody listens"):
            there.infer(frame(), ChunkRequest(4))
        behind.start(lambda: policy)
        with pytest.raises(PolicyFailed, match=r"the next try is in 0\.1 s"):
            there.infer(frame(), ChunkRequest(5))
        clock.sleep(0.11)
        back = there.infer(frame(), ChunkRequest(6))
        assert back.meta["reconnected"] is True and there.state is State.STREAMING
        assert "reconnected" not in there.infer(frame(), ChunkRequest(7)).meta
        assert [request.request_step for _, request in policy.seen] == [0, 6, 7]
        states = [state for _, state, _ in there.transitions]
    assert states == [State.STREAMING, State.RECONNECTING, State.STREAMING]
    assert told[:3] == [
        (State.CONNECTING, State.STREAMING),
        (State.STREAMING, State.RECONNECTING),
        (State.RECONNECTING, State.STREAMING),
    ]
    assert all(time_s >= 50.0 and why for time_s, state, why in there.transitions if state is not State.STREAMING)


def test_the_tries_become_rarer_and_begin_again_after_a_success(behind: Behind) -> None:
    policy, clock = Named(), SimulatedClock()
    behind.start(lambda: policy)

    def pause(there: Remote) -> float:
        with pytest.raises(PolicyFailed):
            there.infer(frame(), ChunkRequest(0))
        return there._next_try_s - clock()

    with remote(behind.url, clock=clock) as there:
        for _ in range(2):
            behind.kill()
            pauses = []
            for _ in range(9):
                pauses.append(pause(there))
                clock.sleep(pauses[-1] + 1e-6)
            assert pauses == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0])
            behind.start(lambda: policy)
            assert there.infer(frame(), ChunkRequest(0)).meta["reconnected"]


def test_a_server_that_comes_back_with_another_policy_is_refused(behind: Behind) -> None:
    clock = SimulatedClock()
    behind.start(Named)
    with remote(behind.url, clock=clock) as there:
        there.infer(frame(), ChunkRequest(0))
        before = there.spec
        behind.kill()
        with pytest.raises(PolicyFailed):
            there.infer(frame(), ChunkRequest(1))
        other = Named(JOINTS)
        other.spec = replace(other.spec, normalisation="sha256:02")
        behind.start(lambda: other)
        with pytest.raises(PolicyFailed, match=r"another policy than expected: .*sha256:01.*names differ"):
            there.infer(frame(), ChunkRequest(2))
        assert there.state is State.RECONNECTING and there.spec == before and not other.seen
        behind.kill()
        behind.start(Named)
        clock.sleep(10.0)
        assert there.infer(frame(), ChunkRequest(3)).meta["reconnected"]


def test_an_answer_that_takes_too_long_is_given_up_and_never_taken(behind: Behind) -> None:
    policy = Named()
    server = behind.start(lambda: policy)
    with remote(behind.url, timeout_s=0.1) as there:
        policy.go.clear()
        with pytest.raises(PolicyTimedOut, match=r"(no answer|not answered) within 0\.1 s"):
            there.infer(frame(), ChunkRequest(11))
        assert there.state is State.STALLED
        assert policy.entered.acquire(timeout=PATIENCE_S)
        given_up = ('{result="cancelled",wire="native"} 1.0', '{result="deadline",wire="native"} 1.0')

        async def told() -> None:
            while not any(count in server.metrics.text().decode() for count in given_up):
                await asyncio.sleep(0)

        behind.run(told())
        policy.go.set()
        policy.spec = replace(policy.spec, action_horizon=None)
        there._timeout_s = PATIENCE_S
        late = there.infer(frame(), ChunkRequest(12))
        assert there.state is State.STREAMING and len(late.rows) == 1  # the answer to this one, of one row
        assert "reconnected" not in late.meta


def test_a_problem_of_the_policy_is_said_and_the_connection_stays(behind: Behind) -> None:
    policy = Named()
    behind.start(lambda: policy)
    good = policy.infer

    def fails(frame: Frame, request: ChunkRequest) -> ActionChunk:
        raise RuntimeError("out of memory")

    with remote(behind.url) as there:
        policy.infer = fails  # type: ignore[method-assign]
        with pytest.raises(PolicyFailed, match=f"{Trouble.POLICY_FAILED}: RuntimeError: out of memory"):
            there.infer(frame(), ChunkRequest(0))
        assert there.state is State.DEGRADED
        policy.infer = good  # type: ignore[method-assign]
        there.infer(frame(), ChunkRequest(1))
        assert [state for _, state, _ in there.transitions] == [State.STREAMING, State.DEGRADED, State.STREAMING]


def test_a_robot_that_the_server_cannot_drive_is_refused_by_name(behind: Behind) -> None:
    behind.start(Named)
    robot = Mock(arms=1, dof=6)
    with remote(behind.url) as there, pytest.raises(PolicyFailed, match=r"(?s)mismatch: .*joint7"):
        there.meet(robot.spec)


def test_a_server_that_is_gone_when_the_robot_is_met_is_said(behind: Behind) -> None:
    behind.start(Named)
    with remote(behind.url) as there:
        behind.kill()
        with pytest.raises(PolicyFailed, match="native"):
            there.meet(Mock(arms=1).spec)
        assert there.state is State.RECONNECTING


def test_a_policy_that_does_not_load_is_said_at_once(behind: Behind) -> None:
    def make() -> Any:
        raise OSError("no such checkpoint")

    behind.start(make)
    with pytest.raises(PolicyFailed, match="did not load: OSError: no such checkpoint"):
        Remote(url=behind.url)


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("native+unix:///no/such/socket", PolicyFailed, "nobody listens there: the socket does not exist"),
        ("native://127.0.0.1:1", PolicyFailed, "nobody listens there"),
        ("nativ://127.0.0.1:1", plugins.UnknownAdapter, "did you mean 'native'"),
        ("native+http://127.0.0.1:1", InterfaceValidationError, "native is carried by tcp, unix"),
        ("native", InterfaceValidationError, "names no host, as in tcp://"),
        ("native+unix://relative.sock", InterfaceValidationError, "a socket's path is absolute"),
        ("native://127.0.0.1:1?imagse=raw", ValueError, "no option 'imagse' .did you mean 'images'"),
        ("native://127.0.0.1:1?images=png", ValueError, "images must be auto, raw or jpeg"),
        ("native://127.0.0.1:99999", InterfaceValidationError, "is no address"),
    ],
)
def test_a_url_that_leads_nowhere_says_what_would(url: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as failed:
        Remote(url=url)
    assert "\n" not in str(failed.value)


def test_a_loop_goes_on_while_the_server_is_away(behind: Behind) -> None:
    policy = Named(rows=10)
    behind.start(lambda: policy)
    robot, clock = Mock(arms=1), SimulatedClock()
    kinds: list[str] = []
    with remote(behind.url, clock=clock) as there:
        session = Session(robot, there, "switch", worker="inline", clock=clock, sleep=clock.sleep)
        with session:
            session.run(seconds=0.5)
            behind.kill()
            session.run(seconds=0.5)
            kinds += [fault.kind for turn in session.turns for fault in turn.decision.faults]
            asked = len(policy.seen)
            behind.start(lambda: policy)
            clock.sleep(3.0)
            session.run(seconds=0.5)
    assert set(kinds) == {"policy_failed"}
    assert len(policy.seen) > asked
    np.testing.assert_allclose(robot.observe().state["arm"], 0.01 * np.arange(1, 8))
