"""The openpi wire on a real server: loading, health, tokens, episodes, and many clients of two wires at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.server import Settings
from chunkwise.transports import Address, Link
from chunkwise.wires import HttpRequest, HttpResponse
from chunkwise.wires.openpi import VLLM_PATH
from chunkwise.wires.openpi.arrays import pack, unpack

PATIENCE_S = 10.0
Remote: Any = plugins.load("policies", "remote")
Websocket: Any = plugins.load("transports", "websocket")
Serve = Callable[..., Any]


class Counts:
    """Answers with the state and with how many calls of this episode there were before.

    Attributes:
        go: cleared to hold every call where it is.
        entered: one permit for every call that has begun.
        made: every conversation that there is.
    """

    def __init__(self, first: Counts | None = None) -> None:
        arm = PolicyOutputSpec("arm", "joint_position", 2, names=["a", "b"])
        names = {"arm": ["a", "b"]}
        self.spec = PolicySpec("counts", [], ["arm"], outputs=[arm], state_names=names, action_horizon=3)
        self.calls = 0
        self.go = first.go if first else threading.Event()
        self.entered = first.entered if first else threading.Semaphore(0)
        self.made: list[Counts] = first.made if first else []
        self.go.set()

    def session(self) -> Counts:
        self.made.append(Counts(self))
        return self.made[-1]

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        self.entered.release()
        assert self.go.wait(PATIENCE_S), "the test never let go"
        if frame.state["arm"][0] < 0:
            raise ZeroDivisionError("on purpose")
        self.calls += 1
        return ActionChunk(np.tile([frame.state["arm"][0], self.calls], (3, 1)))

    def reset(self) -> None:
        self.calls = 0


def frame(value: float) -> Frame:
    return Frame(state={"arm": np.array([value, 0.0])})


@contextmanager
def remote(url: str, **given: Any) -> Iterator[Any]:
    made = Remote(url=url, **given)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def stock(port: int, path: str = "") -> Iterator[tuple[Link, Any]]:
    """A bare websocket, and what the server said first."""
    link = Websocket().connect(Address("websocket", path, "127.0.0.1", port), timeout_s=PATIENCE_S)
    try:
        link.send(HttpRequest("GET", ""), PATIENCE_S)
        yield link, unpack(heard(link), 1 << 20)
    finally:
        link.close()


def heard(link: Link) -> Any:
    data = link.receive(PATIENCE_S)
    assert data is not None
    return data


def test_a_server_is_a_policy_and_says_what_it_is(serve: Serve) -> None:
    there = serve(Counts(), "openpi")
    with remote(f"openpi://127.0.0.1:{there.ports['openpi']}") as policy:
        assert policy.spec == Counts().spec
        assert policy.infer(frame(0.5), ChunkRequest(0)).rows.tolist() == [[0.5, 1]] * 3
        assert policy.infer(frame(0.5), ChunkRequest(0)).rows[0, 1] == 2
        policy.reset()
        assert policy.infer(frame(0.5), ChunkRequest(0)).rows[0, 1] == 1
        with pytest.raises(PolicyFailed, match="policy_failed: ZeroDivisionError"):
            policy.infer(frame(-1.0), ChunkRequest(0))
        assert policy.infer(frame(0.5), ChunkRequest(0)).rows[0, 1] == 2


def test_who_comes_early_waits_for_the_policy(serve: Serve) -> None:
    go = threading.Event()

    def make() -> Counts:
        assert go.wait(PATIENCE_S)
        return Counts()

    there = serve(make, "openpi", loaded=False)
    port = there.ports["openpi"]
    link = Websocket().connect(Address("websocket", host="127.0.0.1", port=port), timeout_s=PATIENCE_S)
    link.send(HttpRequest("GET", ""), PATIENCE_S)
    assert link.receive(0.0) is None
    assert there.get("openpi", "/healthz") == (200, b"OK\n") and there.get("openpi", "/readyz")[0] == 503
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(Remote, url=f"openpi+ws://127.0.0.1:{port}", timeout_s=PATIENCE_S)
        link.send(pack({"arm": np.zeros(2)}), PATIENCE_S)
        assert heard(link).startswith("loading: ")  # out of turn, and told so
        go.set()
        assert unpack(heard(link), 1 << 20)["policy"] == "counts"
        made = late.result(PATIENCE_S)
        assert made.spec == Counts().spec
        made.close()
    link.close()


def test_a_policy_that_does_not_load_is_told(serve: Serve) -> None:
    def make() -> Counts:
        raise FileNotFoundError("no checkpoint")

    there = serve(make, "openpi", loaded=False)
    with pytest.raises(PolicyFailed, match=r"did not load: .*no checkpoint"):
        Remote(url=f"openpi://127.0.0.1:{there.ports['openpi']}")


def test_health_is_answered_on_the_same_port_while_the_policy_runs(serve: Serve) -> None:
    policy = Counts()
    there = serve(policy, "openpi")
    with stock(there.ports["openpi"]) as (link, _):
        policy.go.clear()
        link.send(pack({"arm": np.zeros(2)}), PATIENCE_S)
        assert policy.entered.acquire(timeout=PATIENCE_S)
        assert there.get("openpi", "/healthz") == (200, b"OK\n")
        assert there.get("openpi", "/readyz")[0] == 200
        with stock(there.ports["openpi"]) as (_, metadata):  # another client gets in meanwhile
            assert metadata["action_dim"] == 2
        policy.go.set()
        assert unpack(heard(link), 1 << 20)["actions"].shape == (3, 2)
        status, metrics = there.get("openpi", "/metrics")
        assert status == 200 and b'chunkwise_answers_total{result="ok",wire="openpi"} 1.0' in metrics
    assert there.get("openpi", "/elsewhere")[0] == 426


def test_the_token_is_asked_for(serve: Serve) -> None:
    there = serve(Counts(), "openpi", settings=Settings(token="s3cret"))
    url = f"openpi://127.0.0.1:{there.ports['openpi']}"
    for token in ("", "another"):
        with pytest.raises(PolicyFailed, match="unauthorised: HTTP 401"):
            Remote(url=url, token=token)
    with remote(url, token="s3cret") as policy:
        assert policy.infer(frame(0.5), ChunkRequest(0)).rows[0, 0] == 0.5
    assert [name for name, _ in there.said].count("refused") == 2
    assert there.get("openpi", "/healthz")[0] == 200  # which is nobody's secret


def test_a_mistake_is_answered_logged_and_counted_and_the_connection_goes_on(serve: Serve) -> None:
    there = serve(Counts(), "openpi")
    with stock(there.ports["openpi"]) as (link, _):
        for data in (pack({"leg": np.zeros(2)}), b"\xc1 no msgpack", "text", pack({"arm": np.zeros(3)})):
            link.send(data, PATIENCE_S)
            assert heard(link).startswith("malformed: ")
        link.send(pack({"arm": np.zeros(2)}), PATIENCE_S)
        assert unpack(heard(link), 1 << 20)["actions"].shape == (3, 2)
    problems = [details for name, details in there.said if name == "problem"]
    assert [details["kind"] for details in problems] == ["malformed"] * 4
    assert "state 'arm' is missing" in problems[0]["error"]
    metrics = there.get("openpi", "/metrics")[1]
    assert b'chunkwise_answers_total{result="malformed",wire="openpi"} 4.0' in metrics


def test_another_session_id_is_another_episode(serve: Serve) -> None:
    there = serve(Counts(), "openpi")
    with stock(there.ports["openpi"], VLLM_PATH) as (link, metadata):
        assert metadata["action_horizon"] == 3

        def asked(**more: Any) -> Any:
            link.send(pack({"arm": np.zeros(2), **more}), PATIENCE_S)
            return unpack(heard(link), 1 << 20)

        assert [asked(session_id=name)[0, 1] for name in "aabba"] == [1, 2, 1, 2, 1]
        assert asked(endpoint="reset", session_id="a") == {"status": "reset successful"}
        assert asked(endpoint="infer", session_id="a")[0, 1] == 1
        assert asked(leg=1, arm="nothing")["type"] == "error"
        assert asked()[0, 1] == 2


def test_sessions_are_never_mixed(serve: Serve) -> None:
    there = serve(Counts(), "openpi", "native=tcp")
    robot = RobotSpec("two", [], [ComponentSpec("arm", "arm", 2, ["joint_position"], joint_names=["a", "b"])])
    calls = 40

    def client(number: int) -> list[list[float]]:
        wire = ("openpi", "native")[number % 2]
        with remote(f"{wire}://127.0.0.1:{there.ports[wire]}") as policy:
            policy.meet(robot)
            return [policy.infer(frame(number), ChunkRequest(0)).rows[0].tolist() for _ in range(calls)]

    with ThreadPoolExecutor(8) as pool:
        for number, rows in enumerate(pool.map(client, range(8))):
            assert rows == [[number, call] for call in range(1, calls + 1)]


def test_a_server_that_stops_says_so(serve: Serve) -> None:
    there = serve(Counts(), "openpi")
    with stock(there.ports["openpi"]) as (link, _):
        there.server.service.drain()
        link.send(pack({"arm": np.zeros(2)}), PATIENCE_S)
        assert heard(link).startswith("draining: ")
        late = Websocket().connect(
            Address("websocket", host="127.0.0.1", port=there.ports["openpi"]), timeout_s=PATIENCE_S
        )
        late.send(HttpRequest("GET", ""), PATIENCE_S)
        refused = heard(late)
        assert isinstance(refused, HttpResponse) and refused.status == 503
        late.close()
