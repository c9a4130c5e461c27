"""A served policy without a socket: the native wire's own bytes, straight into the server's connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.server import Service, Settings
from chunkwise.server.connection import WireConnection
from chunkwise.server.metrics import Metrics
from chunkwise.wires import Event

PATIENCE_S = 10.0
"""For what must happen; only a failing test uses it up."""
Native: Any = plugins.load("wires", "native")


class Held:
    """A policy that can be held inside `infer`; its rows are the state that it saw plus the step.

    Attributes:
        entered: one permit for every call that has begun.
        go: cleared to hold every call where it is.
        seen: first state and step of every call, in order.
    """

    def __init__(self, spec: PolicySpec | None = None) -> None:
        self.spec = spec or PolicySpec(
            "held",
            [],
            ["arm"],
            outputs=[PolicyOutputSpec("arm", "joint_position", 2, names=["a", "b"])],
            state_names={"arm": ["a", "b"]},
            action_horizon=4,
        )
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.go.set()
        self.seen: list[tuple[float, int]] = []
        self.says: Callable[[Frame, ChunkRequest], Any] = self.rows

    def session(self) -> Held:
        """Itself: calls leave nothing behind that matters."""
        return self

    @staticmethod
    def rows(frame: Frame, request: ChunkRequest) -> ActionChunk:
        """Four rows of the state plus the step."""
        return ActionChunk(np.tile(frame.state["arm"] + request.request_step, (4, 1)))

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        self.seen.append((float(frame.state["arm"][0]), request.request_step))
        self.entered.release()
        assert self.go.wait(PATIENCE_S), "the test never let go"
        return self.says(frame, request)


def robot(*joints: str) -> RobotSpec:
    """One arm of the named joints, `a` and `b` where none are named."""
    names = list(joints) or ["a", "b"]
    arm = ComponentSpec("arm", "arm", len(names), ["joint_position"], joint_names=names)
    return RobotSpec("bench", [], [arm])


def frame(value: float) -> Frame:
    """Both joints at `value`."""
    return Frame(state={"arm": np.array([value, value])})


class Line:
    """One client on the event loop: what a transport would be between the two halves.

    Attributes:
        events: what the server said, in order.
        closed: whether the server ended the connection.
    """

    name, local = "bench", True

    def __init__(self, service: Service, metrics: Metrics, guarded: bool, wire: str) -> None:
        self.half = Native().client()
        self.events: list[Event] = []
        self.closed = False
        self._news = asyncio.Event()
        self.connection = WireConnection(service, wire, Native().server(), self, metrics, guarded)
        self.connection.opened()

    def send(self, data: Any) -> None:
        """From the server."""
        assert not self.closed
        self.events += self.half.receive(data, 0.0)
        self._news.set()

    def close(self) -> None:
        """By the server."""
        self.closed = True
        self._news.set()

    def tell(self, sending: Any) -> None:
        """To the server."""
        pieces = sending.data if isinstance(sending.data, list) else [sending.data]
        self.connection.received(b"".join(pieces))

    def hello(self, **said: Any) -> Line:
        """HELLO, with these attributes of the client half."""
        for name, value in said.items():
            setattr(self.half, name, value)
        self.tell(self.half.opening())
        return self

    def ask(self, id: int, value: float = 0.0, *, step: int = 0, deadline_s: float | None = None) -> None:
        """A request for a chunk."""
        self.tell(self.half.ask(id, frame(value), ChunkRequest(step, id=id), deadline_s))

    def about(self, id: int) -> list[Any]:
        """Everything that was said of call `id`."""
        return [event for event in self.events if getattr(event, "id", None) == id]

    async def answer(self, id: int) -> Any:
        """The first thing that was said of call `id`."""
        return (await self.until(lambda: self.about(id)))[0]

    async def rows(self, id: int) -> Any:
        """The first row of the chunk of call `id`."""
        answer = await self.answer(id)
        assert getattr(answer, "chunk", None) is not None, answer
        return answer.chunk.rows[0].tolist()

    async def problem(self, id: int) -> tuple[str, str]:
        """The kind and the text of the problem of call `id`."""
        answer = await self.answer(id)
        assert hasattr(answer, "problem"), answer
        return answer.problem.kind, answer.problem.text

    async def until(self, found: Callable[[], Any]) -> Any:
        """What `found` gives, once it gives something."""
        async with asyncio.timeout(PATIENCE_S):
            while not (value := found()):
                self._news.clear()
                await self._news.wait()
        return value


class Bench:
    """A service and its clients.

    Attributes:
        said: names and details of what was logged.
    """

    def __init__(self, policy: Any, settings: Settings | None = None, **given: Any) -> None:
        self.policy = policy
        make = policy if callable(policy) else lambda: policy
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.metrics = Metrics()
        self.service = Service(
            make, settings, on_event=lambda name, **details: self.said.append((name, details)), **given
        )

    def line(self, *, guarded: bool = False, wire: str = "native") -> Line:
        """A new client."""
        return Line(self.service, self.metrics, guarded, wire)

    def greeted(self, **said: Any) -> Line:
        """A new client that said HELLO."""
        return self.line().hello(**said)

    async def entered(self, count: int = 1) -> None:
        """Once so many further calls have reached the policy."""
        for _ in range(count):
            there = await asyncio.get_running_loop().run_in_executor(
                None, self.policy.entered.acquire, True, PATIENCE_S
            )
            assert there, "the policy was not called"


Story = Callable[[Bench], Awaitable[None]]


@pytest.fixture
def play() -> Iterator[Callable[..., Bench]]:
    """Runs a story on a real event loop with a policy that is served there."""

    def run(
        policy: Any, story: Story, settings: Settings | None = None, *, load: bool = True, **given: Any
    ) -> Bench:
        async def whole() -> Bench:
            bench = Bench(policy, settings, **given)
            try:
                if load:
                    await asyncio.wait_for(bench.service.loaded, PATIENCE_S)
                await story(bench)
            finally:
                if hasattr(policy, "go"):
                    policy.go.set()
                bench.service.close()
            return bench

        return asyncio.run(whole())

    return run


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def make_held() -> type[Held]:
    return Held


@pytest.fixture
def make_robot() -> Callable[..., RobotSpec]:
    return robot
