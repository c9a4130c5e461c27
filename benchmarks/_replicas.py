"""Robots on a server whose policy Ray Serve has several copies of: how fair, how much, and while they come and go.

The policy takes a fixed time for a call, whatever the call has in it, and leaves the processor alone meanwhile: it
stands for a network on a GPU.  Every robot has a connection of its own to one server, over native TCP, and sends
three pictures of 224 x 224, as a robot does whose pictures are made the policy's size before they are sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyFailed, PolicyOutputSpec, PolicySpec
from chunkwise.policies import Recipe
from chunkwise.runtime.session import Session

CAMERAS, SIDE, DOF = ("left", "right", "front"), 224, 7
CALL_S, TOGETHER, ROWS = 0.040, 8, 50
ROBOTS = 8
PERIOD_S, BOUND_S, PERCENT = 0.25, 0.2, 99
"""A robot asks so often; so many of its answers, in percent, have to be there within the bound."""
LOADS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96)
"""Robots that are tried, one number after the other, until answers come too late."""
WINDOW_S = 5.0
LATE = 2
"""Loads in a row that were too much, before no larger one is tried."""


class Costly:
    """Takes its time for a call, however many requests are in it.

    Args:
        call_s: how long.
        rows: of a chunk.
        sees: it reads three pictures.
    """

    max_batch = TOGETHER

    def __init__(self, *, call_s: float = CALL_S, rows: int = ROWS, sees: bool = True) -> None:
        self._call_s, self._rows = call_s, rows
        outputs = [PolicyOutputSpec("arm", "joint_position", DOF)]
        self.spec = PolicySpec(
            "costly", list(CAMERAS) if sees else [], ["arm"], outputs=outputs, action_horizon=rows
        )

    def session(self) -> Costly:
        """Itself."""
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """One request."""
        return self.infer_many([(frame, request)])[0]

    def infer_many(self, calls: Sequence[tuple[Frame, ChunkRequest]]) -> list[ActionChunk]:
        """Several, in the same time."""
        time.sleep(self._call_s)
        return [ActionChunk(np.zeros((self._rows, DOF))) for _ in calls]


class Checkpoint(Costly):
    """One of several models; reads no picture, and answers at once.

    Args:
        load_s: how long it takes to be made.
    """

    def __init__(self, *, load_s: float = 0.0) -> None:
        time.sleep(load_s)
        super().__init__(call_s=0.0, sees=False)


COSTLY = f"{Path(__file__).resolve()}:Costly"
CHECKPOINT = f"{Path(__file__).resolve()}:Checkpoint"


def frame() -> Frame:
    """What a robot sees."""
    random = np.random.default_rng(0)
    images = {name: random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for name in CAMERAS}
    return Frame(images, {"arm": np.zeros(DOF)})


class Robots:
    """Connections of robots with a server.

    Args:
        url: of the server.
        count: how many.
    """

    def __init__(self, url: str, count: int) -> None:
        self._stack = ExitStack()
        remote = plugins.load("policies", "remote")
        self.each = [self._stack.enter_context(closing(remote(url=url))) for _ in range(count)]
        self._frame = frame()

    def close(self) -> None:
        """Let them go."""
        self._stack.close()

    def at_once(self, work: Callable[[int, Any], None]) -> None:
        """Everybody's work, in threads; told its number and its connection."""
        threads = [threading.Thread(target=work, args=each) for each in enumerate(self.each)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def greedy(self, seconds: float) -> list[int]:
        """Answers of each robot, when each asks again as soon as it is answered."""
        counts = [0] * len(self.each)
        until_s = time.perf_counter() + seconds

        def work(number: int, robot: Any) -> None:
            while time.perf_counter() < until_s:
                robot.infer(self._frame, ChunkRequest(counts[number]))
                counts[number] += 1

        self.at_once(work)
        return counts

    def paced(self, seconds: float) -> list[float]:
        """Latencies when each asks once in a period, s; that of a request that failed is infinite."""
        latencies: list[list[float]] = [[] for _ in self.each]
        begun_s = time.perf_counter() + 0.2

        def work(number: int, robot: Any) -> None:
            due_s = begun_s + PERIOD_S * number / len(self.each)  # they do not all ask at the same time
            while due_s < begun_s + seconds:
                time.sleep(max(due_s - time.perf_counter(), 0.0))
                try:
                    robot.infer(self._frame, ChunkRequest(0))
                    latencies[number].append(time.perf_counter() - due_s)
                except PolicyFailed:
                    latencies[number].append(float("inf"))
                due_s += PERIOD_S

        self.at_once(work)
        return [each for robot in latencies for each in robot]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a server was found to carry.

    Attributes:
        robots: the most whose answers came in time.
        rate: answers per second with them.
        p50_s, high_s: latencies with them.
        front_s: of a core of the server for a request, with them.
    """

    robots: int
    rate: float
    p50_s: float
    high_s: float
    front_s: float


def carried(url: str, spent_s: Callable[[], float]) -> Carried:
    """Try more and more robots, until answers come too late.

    Args:
        url: of a server.
        spent_s: what it has used of its core.
    """
    best, late = Carried(0, 0.0, 0.0, 0.0, 0.0), 0
    for count in LOADS:
        with closing(Robots(url, count)) as robots:
            robots.paced(1.0)
            before_s = spent_s()
            latencies = robots.paced(WINDOW_S)
            front_s = (spent_s() - before_s) / len(latencies)
        p50_s, high_s = np.percentile(latencies, [50, PERCENT], method="higher")
        if high_s <= BOUND_S:
            best, late = Carried(count, len(latencies) / WINDOW_S, float(p50_s), float(high_s), front_s), 0
        else:
            late += 1
        if late == LATE:
            break
    return best


# Replicas that come and go -----------------------------------------------------------------------------------

SLOW_S, LONG, HORIZON, HZ = 0.1, 100, 25, 50.0
"""A call of one request; rows of a chunk; steps between two requests; the loops' rate."""
BUSY_S, QUIET_S = 20.0, 25.0
STAYING = 2
"""Robots that go on when the others have gone."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """What became of robots while replicas came and went.

    Attributes:
        steps, starved: of all control loops together: commands, and those that held because a plan ran dry.
        requests, faults: of all of them.
        replicas: how many ran, as often as that changed: seconds since the first robot began, number.
    """

    steps: int
    starved: int
    requests: int
    faults: int
    replicas: list[tuple[float, int]]


def scaled(url: str, running: Callable[[], int]) -> Scaled:
    """Eight control loops in real time, most of which end after a while.

    Args:
        url: of a server whose replicas may be more.
        running: how many there are.
    """
    reports: list[Any] = []
    over = threading.Event()
    replicas: list[tuple[float, int]] = []
    begun_s = time.perf_counter()

    def watch() -> None:
        while not over.wait(0.5):
            count = running()
            if not replicas or replicas[-1][1] != count:
                replicas.append((time.perf_counter() - begun_s, count))

    def drive(number: int) -> None:
        robot = plugins.load("robots", "mock")(arms=1)
        seconds = BUSY_S + (QUIET_S if number < STAYING else 0.0)
        strategy = plugins.load("strategies", "switch")(execution_horizon=HORIZON)
        with Session(robot, Recipe(url), strategy, control_hz=HZ) as session:
            reports.append(session.run(seconds=seconds))

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=drive, args=(number,)) for number in range(ROBOTS)]
    for thread in threads:
        thread.start()
        time.sleep(HORIZON / HZ / ROBOTS)
    for thread in threads:
        thread.join()
    over.set()
    watcher.join()
    sums = [
        sum(getattr(each, name) for each in reports) for name in ("steps", "starved_steps", "requests", "faults")
    ]
    assert len(reports) == ROBOTS
    return Scaled(*sums, replicas)


# Several models that share replicas ---------------------------------------------------------------------------

LOAD_S = 1.0
"""What a model takes to be made."""
ASKED, RELOADS, BESIDE_S = 300, 8, 0.02
"""Requests for models that are there, and for ones that are not; another robot's period meanwhile."""


def models(*names: str) -> str:
    """The option of that name."""
    return "{" + ", ".join(f"{name}: {{name: '{CHECKPOINT}', load_s: {LOAD_S}}}" for name in names) + "}"


def latencies(url: str, names: Sequence[str], count: int) -> list[float]:
    """How long requests take that are for one model after the other, s.

    Args:
        url: of a server.
        names: of models.
        count: requests.
    """
    remote, seen, found = plugins.load("policies", "remote"), Frame(state={"arm": np.zeros(DOF)}), []
    with ExitStack() as stack:
        robots = [stack.enter_context(closing(remote(url=url, model=name, timeout_s=60.0))) for name in names]
        for number in range(-2 * len(robots), count):
            time.sleep(BESIDE_S)
            begun_s = time.perf_counter()
            robots[number % len(robots)].infer(seen, ChunkRequest(0))
            if number >= 0:
                found.append(time.perf_counter() - begun_s)
    return found


def beside(url: str, kept: str, others: Sequence[str]) -> tuple[list[float], list[float]]:
    """The latencies of requests for models that have to be loaded each time, and of another robot's meanwhile, s.

    Args:
        url: of a server with room for one model beside `kept`.
        kept: the other robot's.
        others: two models, which put each other out.
    """
    remote, over, meanwhile = plugins.load("policies", "remote"), threading.Event(), list[float]()
    seen = Frame(state={"arm": np.zeros(DOF)})

    def work() -> None:
        with closing(remote(url=url, model=kept)) as robot:
            while not over.wait(BESIDE_S):
                begun_s = time.perf_counter()
                robot.infer(seen, ChunkRequest(0))
                meanwhile.append(time.perf_counter() - begun_s)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        loaded = latencies(url, others, RELOADS)
    finally:
        over.set()
        thread.join()
    return loaded, meanwhile
