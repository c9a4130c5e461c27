"""A policy's network at two ROS 2 topics: IB-Robot's ``pure_inference_node``, for its robots and for ours.

::

    engine = TopicEngine(make_network, InferenceTopics(), say=print)
    await engine.start()          # is in the graph at once, and says that it loads
    await engine.loaded
    ...
    await engine.close()

One inference runs at a time.  Of each robot the newest request waits, and robots take turns; requests of original
robots, which do not say who they are, wait each by itself.  Every request is answered once: with rows, or with why
there are none.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicyFailed, PolicySpec
from chunkwise.server.inference import Inference, Job, Refused, Seat
from chunkwise.transports._ros2 import MalformedMessage, Node, Publisher
from chunkwise.transports._ros2.inference_topics import QOS, STATUS_QOS, STATUS_S, InferenceTopics
from chunkwise.wires import Offer, Problem, Readiness, Trouble, WireError
from chunkwise.wires._inference_topics import (
    Reply,
    Request,
    offer_fields,
    reply_fields,
    request_id,
    request_of,
)

NODE: Final = "pure_inference_cloud"
"""What the original's launch file calls it."""
STATS_S: Final = 5.0
STATS_OF: Final = 256
"""The newest inferences, which the statistics are of."""
MAX_WAITING: Final = 64
"""Requests that wait, of all robots; one more is refused."""
MAX_BYTES: Final = 512 << 20
"""Of all that wait; a request that would make it more is refused."""
MAX_ROBOTS: Final = 256
"""Whose names are kept; the one that was silent for the longest goes first."""
DEADLINE_S: Final = 5.0
"""Of a request that has none: original robots give up after so long."""


@dataclass(slots=True)
class _Robot:
    """One of those who ask.

    Attributes:
        seat: its place in the queue.
        generation: the newest that was heard of.
        jobs: those that are not answered yet, by the request's id.
    """

    seat: Seat = field(default_factory=Seat)
    generation: int = 0
    jobs: dict[str, Job] = field(default_factory=dict)


class TopicEngine:
    """What takes requests from one topic and answers at the other; lives on one event loop.

    Args:
        make: makes the network, a policy as `policies/network.py`; called on the inference thread.
        topics: where.
        node: a node of the program's own, which is closed in the end.
        max_waiting: requests that wait; one more is refused.
        deadline_s: of a request that has none.
        say: told what happened, a line each; the texts that the original has are the original's.
        clock: monotonic, seconds.

    Attributes:
        loaded: done once the network is loaded, or has failed to.
        count: inferences that were answered with rows.
        refused: requests that were answered with a problem.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        topics: InferenceTopics,
        *,
        node: Node | None = None,
        max_waiting: int = MAX_WAITING,
        deadline_s: float = DEADLINE_S,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._topics, self._node = make, topics, node
        self._max_waiting, self._deadline_s, self._say, self._clock = max_waiting, deadline_s, say, clock
        self._full = Problem(Trouble.BUSY, f"{max_waiting} requests wait already")
        self._under_way: dict[Job, Seat] = {}
        self._instance = secrets.token_hex(8)
        self._robots: OrderedDict[str, _Robot] = OrderedDict()
        self._arrived: deque[tuple[Request, float, Problem | None]] = deque()
        self._bytes, self._lock = 0, threading.Lock()
        self._took_ms: deque[float] = deque(maxlen=STATS_OF)
        self._network: Any = None
        self._failure, self._unsent, self._draining, self._closed = "", "", False, False
        self.count = self.refused = 0
        self._timers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Join the graph, and begin to load the network.

        Raises:
            Ros2Error, MissingExtra, OSError: the graph cannot be joined.
        """
        self._loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[Readiness] = self._loop.create_future()
        topics = self._topics
        if self._node is None:
            self._node = topics.join(NODE)
        self._inference = Inference(self._loop, self._clock)
        try:
            self._replies = self._node.publisher(topics.output, topics.type_name, qos=QOS)
            self._status = self._node.publisher(topics.status, topics.type_name, qos=STATUS_QOS)
            self._node.subscribe(topics.input, topics.type_name, self._heard, qos=QOS, on_fault=self._no_message)
        except BaseException:
            self._closed = True
            self._node.close()
            self._inference.close()
            raise
        self._tell_status()
        self._inference.submit_first(Job(self._load, self._told_loaded, counted=False))
        self._timers = [
            self._loop.create_task(self._repeat(STATUS_S, self._tell_status)),
            self._loop.create_task(self._repeat(STATS_S, self._tell_stats)),
        ]

    @property
    def readiness(self) -> Readiness:
        """Whether requests are answered with rows."""
        if self._draining:
            return Readiness.DRAINING
        if self._failure:
            return Readiness.FAILED
        return Readiness.LOADING if self._network is None else Readiness.READY

    async def close(self, drain_s: float = 0.0) -> None:
        """Take no new requests, answer those that there are, and leave the graph.  Twice is fine."""
        if self._closed:
            return
        self._draining = True
        self._tell_status()
        until_s = self._clock() + drain_s
        while self._inference.untold > 0 and self._clock() < until_s:
            await asyncio.sleep(0.01)
        for job, seat in list(self._under_way.items()):
            self._inference.withdraw(seat, job, _ENDS)
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        assert self._node is not None
        self._node.close()
        self._inference.close()
        if self._inference.join(1.0) and self._network is not None:  # never under the feet of a call
            self._network.close()

    # The network, on the inference thread ---------------------------------------------------------------------

    def _load(self) -> Any:
        network = self._make()
        network.warmup()
        return network

    def _infer(self, request: Request, until_s: float) -> tuple[ActionChunk, float]:
        """The rows of a request that is still in time, and the milliseconds that they took."""
        began_s = self._clock()
        if began_s > until_s:
            raise Refused(_LATE)
        said = self._network.spec.meta["network"]["pictures"]
        batch = request.batch
        pictures = {name: one for name, one in batch.items() if name in said and one.dtype == np.uint8}
        # In memory of their own: where a tensor begins decides in which order some runtimes add it up.
        state = {name: np.array(one) for name, one in batch.items() if name not in pictures}
        try:
            chunk = self._network.infer(Frame(pictures, state), ChunkRequest(0))
        except PolicyFailed:
            raise
        except InterfaceValidationError as error:  # what was asked is not what the network reads
            raise Refused(Problem(Trouble.MALFORMED, str(error))) from error
        if not np.isfinite(chunk.rows).all():
            raise InterfaceValidationError("the network answered numbers that are not finite")
        return chunk, 1e3 * (self._clock() - began_s)

    # What comes, in the node's thread -------------------------------------------------------------------------

    def _heard(self, message: Any, time_ns: int) -> None:
        try:
            request = request_of(message)
        except WireError as error:
            self._queue(Request(request_id(message)), Problem(Trouble.MALFORMED, str(error)))
            return
        if request.engine in ("", self._instance):
            self._queue(request)

    def _no_message(self, fault: MalformedMessage) -> None:
        self._queue(Request(""), Problem(Trouble.MALFORMED, str(fault)))

    def _queue(self, request: Request, problem: Problem | None = None) -> None:
        """Leave a request, or why it is none, to the event loop."""
        size = _size(request)
        with self._lock:
            full = self._full if len(self._arrived) >= self._max_waiting else None
            if self._bytes + size > MAX_BYTES:
                full = Problem(Trouble.BUSY, f"more than {MAX_BYTES} bytes would wait")
            if full is None:
                self._bytes += size
                self._arrived.append((request, self._clock(), problem))
        if full is not None:
            self._tell(request, full)
            return
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take_next)

    def _let_go(self, request: Request) -> None:
        with self._lock:
            self._bytes -= _size(request)

    # On the event loop ----------------------------------------------------------------------------------------

    def _take_next(self) -> None:
        request, came_s, problem = self._arrived.popleft()
        waits = False
        try:
            if problem is not None:
                raise Refused(problem)
            waits = self._take(request, came_s)
        except Refused as refused:
            self._refuse(request, refused.problem)
        finally:
            if not waits:
                self._let_go(request)

    def _take(self, request: Request, came_s: float) -> bool:
        """Do what a request says; whether it waits now, to be answered later.

        Raises:
            Refused: it cannot be, or not any more.
        """
        if request.operation == "hello":
            self._answer(Reply(request.id, session=request.session))
            return False
        robot = self._robot(request)
        if request.operation == "cancel":
            found = robot.jobs.get(request.target)
            if found is not None:
                self._inference.withdraw(robot.seat, found, _CANCELLED)
            return False
        if request.operation == "reset":
            return False  # its generation has said all
        if self.readiness is not Readiness.READY:
            kind = Trouble.DRAINING if self._draining else Trouble.LOADING
            raise Refused(Problem(kind, self._failure or f"the engine is {self.readiness}"))
        if request.id in robot.jobs:
            raise Refused(Problem(Trouble.MALFORMED, f"the request {request.id} came twice"))
        if self._inference.waiting >= self._max_waiting and robot.seat.waiting is None:
            raise Refused(self._full)
        until_s = came_s + (self._deadline_s if request.deadline_s is None else request.deadline_s)
        if until_s <= self._clock():
            raise Refused(_LATE)

        def answered(result: Any) -> None:
            robot.jobs.pop(request.id, None)
            self._under_way.pop(job, None)
            self._let_go(request)
            self._answered(request, result)

        job = Job(lambda: self._infer(request, until_s), answered)
        robot.jobs[request.id] = job
        self._under_way[job] = robot.seat
        self._inference.submit(robot.seat, job, until_s - self._clock())
        return True

    def _robot(self, request: Request) -> _Robot:
        """Who asks; what an earlier generation of it asked is given up.

        Raises:
            Refused: the request itself is of an earlier one.
        """
        if not request.session:
            return _Robot()
        robot = self._robots.setdefault(request.session, _Robot(generation=request.generation))
        self._robots.move_to_end(request.session)
        while len(self._robots) > MAX_ROBOTS:
            self._robots.popitem(last=False)
        if request.generation < robot.generation:
            raise Refused(Problem(Trouble.CANCELLED, f"of generation {request.generation}, which is over"))
        if request.generation > robot.generation:
            robot.generation = request.generation
            for job in list(robot.jobs.values()):
                self._inference.withdraw(robot.seat, job, _CANCELLED)
        return robot

    def _answered(self, request: Request, result: Any) -> None:
        if isinstance(result, Problem):
            self._refuse(request, result)
            return
        chunk, took_ms = result
        rows = np.asarray(chunk.rows, np.float32)
        self.count += 1
        self._took_ms.append(took_ms)
        if self.count == 1:
            self._say(f"✓ First inference completed: latency={took_ms:.1f}ms, action_shape={list(rows.shape)}")
        self._answer(Reply(request.id, rows, session=request.session, server_s=took_ms / 1e3))

    def _refuse(self, request: Request, problem: Problem) -> None:
        """Answer at once that there is nothing, and why."""
        self.refused += 1
        if problem.kind not in (Trouble.SUPERSEDED, Trouble.CANCELLED):
            self._say(f"Inference failed: {problem.kind}: {problem.text}")
        self._tell(request, problem)

    def _tell(self, request: Request, problem: Problem) -> None:
        if request.operation in ("infer", "hello"):
            self._answer(Reply(request.id, problem=problem, session=request.session))

    def _answer(self, reply: Reply) -> None:
        self._send(self._replies, reply_fields(replace(reply, engine=self._instance)))

    def _send(self, publisher: Publisher, fields: dict[str, Any]) -> None:
        """Publish; who does not come after gets nothing, and everybody else goes on."""
        if self._closed:
            return
        try:
            publisher.publish(fields)
        except (OSError, InterfaceValidationError) as error:
            if str(error) != self._unsent:
                self._unsent = str(error)
                self._say(f"not sent: {error}")

    def _told_loaded(self, result: Any) -> None:
        topics = self._topics
        if isinstance(result, Problem):
            self._failure = result.text
            self._say(f"the network did not load: {result.text}")
        else:
            self._network = result
            network = result.network
            device = getattr(network.engine, "device", "") or "cpu"
            backend = network.backend_type
            self._say(
                f"Engine loaded: policy_type={network.policy_type}, backend_type={backend}, "
                f"chunk_size={network.chunk_size}"
            )
            self._say(
                f"PureInferenceNode ready: input={topics.input}, output={topics.output}, "
                f"inference_backend={backend}, tensor_device={device}"
            )
            self._say("Waiting for preprocessed batches from edge node...")
        self._tell_status()
        if not self.loaded.done():
            self.loaded.set_result(self.readiness)

    def _tell_status(self) -> None:
        spec = None if self._network is None else self._network.spec
        policy = spec if isinstance(spec, PolicySpec) else None
        self._send(self._status, offer_fields(Offer(self.readiness, self._failure, policy, self._instance)))

    def _tell_stats(self) -> None:
        """How the newest inferences went, from the first request on, also while none comes or none goes well."""
        if not self.count + self.refused:
            return
        took_ms = sorted(self._took_ms) or [0.0]
        last_ms = self._took_ms[-1] if self._took_ms else 0.0
        self._say(
            f"[stats] count={self.count}, avg={np.mean(took_ms):.1f}ms, last={last_ms:.1f}ms, "
            f"p95={took_ms[int(0.95 * (len(took_ms) - 1))]:.1f}ms, refused={self.refused}, "
            f"waiting={self._inference.waiting}"
        )

    async def _repeat(self, every_s: float, do: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(every_s)
            do()


_LATE: Final = Problem(Trouble.DEADLINE, "its time was over before it was computed")
_CANCELLED: Final = Problem(Trouble.CANCELLED, "given up by the robot")
_ENDS: Final = Problem(Trouble.DRAINING, "the engine ends")


def _size(request: Request) -> int:
    """Of its tensors, in bytes."""
    return sum(one.nbytes for one in request.batch.values())
