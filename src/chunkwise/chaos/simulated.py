"""An inference process in simulated time: it thinks, hangs, dies and starts again while nothing really passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, Self

from chunkwise.chaos.plan import Harm, Injection
from chunkwise.chaos.policy import FaultyPolicy
from chunkwise.chaos.run import SETTLE_S, Outcome, endure
from chunkwise.chunking import Answer, Strategy
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.robots import Robot
from chunkwise.runtime.session import Session
from chunkwise.safety import Limits
from chunkwise.workers import Infer, attempt


class Clock(Protocol):
    """Simulated seconds, which pass when somebody sleeps."""

    def __call__(self) -> float:
        """The time, s."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        ...


def endure_simulated(
    robot: Robot,
    policy: str,
    plan: Sequence[Injection],
    clock: Clock,
    *,
    options: Mapping[str, Any] | None = None,
    strategy: Strategy | str = "rtc",
    control_hz: float | None = None,
    limits: Limits | None = None,
    latency_s: float = 0.05,
    restart_s: float = 0.5,
    seed: int = 0,
    inference_timeout_s: float = 5.0,
    settle_s: float = SETTLE_S,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Drive a robot through a plan of faults in simulated time, as fast as the machine can.

    Args:
        robot: the robot, not connected.
        policy: by name, as everywhere.
        plan: the faults, in the order of time.
        clock: of everything.
        options: of the policy's constructor.
        strategy: how chunks are run.
        control_hz: commands per second.
        limits: on sensors and holds.
        latency_s, restart_s, seed: of the simulated inference process.
        inference_timeout_s: after this a request counts as lost, and the process is replaced.
        settle_s: how long the run goes on after the last fault.
        say: told when a fault begins.

    Raises:
        Exception: what `endure` raises.
    """
    process = SimulatedProcess(clock, latency_s=latency_s, restart_s=restart_s, seed=seed)
    faulty = FaultyPolicy(
        name=policy,
        options=options,
        control_hz=control_hz,
        sleep=process.sleep,
        hold=process.sleep,
        end=process.end,
    )

    def session(wrapped: Robot) -> Session:
        return Session(
            wrapped,
            faulty,
            strategy,
            worker=process.worker,
            control_hz=control_hz,
            inference_timeout_s=inference_timeout_s,
            limits=limits,
            clock=clock,
            sleep=clock.sleep,
        )

    return endure(robot, session, plan, settle_s=settle_s, clock=clock, outside=lambda made: process, say=say)


class SimulatedProcess:
    """A worker beside the loop, and what can be done to it from outside.

    A :class:`~chunkwise.chaos.policy.FaultyPolicy` in it sleeps with :meth:`sleep` and ends with :meth:`end`.

    Args:
        clock: the simulated time, s.
        latency_s: of an answer on average.
        restart_s: from the end of the process until it is there again.
        seed: of the jitter, by which an answer takes from half of the latency to one and a half.
    """

    def __init__(
        self, clock: Callable[[], float], *, latency_s: float = 0.05, restart_s: float = 0.5, seed: int = 0
    ) -> None:
        self._clock, self._latency_s, self._restart_s = clock, latency_s, restart_s
        self._draw = random.Random(seed)
        self._infer: Infer | None = None
        self._thinks_s = 0.0
        self._under_way: list[tuple[float, Answer]] = []
        self._back_s = float("-inf")
        self._stopped_s: float | None = None
        self.deaths = 0

    def worker(self, infer: Infer, *, latency_s: float = 0.0) -> Self:
        """Itself as the worker of a bound policy; for a session."""
        self._infer, self._latency_s = infer, max(latency_s, self._latency_s)
        return self

    # For the policy -------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """The inference that runs takes so much longer."""
        self._thinks_s += seconds

    def end(self, code: int) -> NoReturn:
        """The process ends in the middle of an inference."""
        raise SystemExit(code)

    # The worker -----------------------------------------------------------------------------------------------

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        """Think; the answer is there when its time has come."""
        assert self._infer is not None
        now = self._clock()
        if now < self._back_s:
            self._under_way.append((now, Answer(request.id, None, "the inference process starts again")))
            return
        self._thinks_s = self._latency_s * self._draw.uniform(0.5, 1.5)
        try:
            answer = attempt(self._infer, frame, request)
        except SystemExit as ended:
            self._under_way.append(
                (now, Answer(request.id, None, f"the process ended with exit code {ended.code}"))
            )
            self._die(f"ended with exit code {ended.code}")
            return
        self._under_way.append((now + self._thinks_s, answer))

    def arrivals(self) -> Sequence[Answer]:
        """Answers whose time has come; none from a process that is stopped."""
        now = self._clock()
        if self._stopped_s is not None or not self._under_way:
            return ()
        there = [answer for due, answer in self._under_way if due <= now]
        self._under_way = [item for item in self._under_way if item[0] > now]
        return there

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether there is an answer; nobody waits in simulated time."""
        return self._stopped_s is None and any(due <= self._clock() for due, _ in self._under_way)

    def restart(self) -> None:
        """Give up what is under way; a process that is in the middle of it is replaced."""
        if self._under_way or self._stopped_s is not None:
            self._die("was replaced")
        self._under_way = []

    # From outside ---------------------------------------------------------------------------------------------

    def cannot(self, injection: Injection) -> str:
        """Every fault can happen to it."""
        return ""

    def begin(self, injection: Injection) -> None:
        """Kill it, or stop it."""
        if injection.harm is Harm.KILL:
            self._die("was killed")
        elif injection.harm is Harm.FREEZE_PROCESS and self._stopped_s is None:
            self._stopped_s = self._clock()

    def end_of(self, injection: Injection) -> None:
        """Let a stopped process go on; its answers are late by as long as it was stopped."""
        if injection.harm is Harm.FREEZE_PROCESS and self._stopped_s is not None:
            lost_s = self._clock() - self._stopped_s
            self._under_way = [(due + lost_s, answer) for due, answer in self._under_way]
            self._stopped_s = None

    def note(self, injection: Injection) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Nothing is held."""
        self._under_way = []

    def _die(self, how: str) -> None:
        now = self._clock()
        self.deaths += 1
        self._back_s, self._stopped_s = now + self._restart_s, None
        self._under_way = [
            (now, Answer(answer.request, None, f"the inference process {how}")) for _, answer in self._under_way
        ]
