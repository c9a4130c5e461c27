"""Robot, policy, strategy, worker and gate, put together and run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from chunkwise import plugins
from chunkwise.chunking import DelayEstimate, Scheduler, Strategy
from chunkwise.contract import (
    Binding,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    connect,
    spec_of_answer,
)
from chunkwise.policies import BoundPolicy, Policy
from chunkwise.robots import Robot
from chunkwise.runtime import realtime
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.runtime.report import Report, report
from chunkwise.safety import Gate, Watchdog
from chunkwise.workers import Infer, Worker

MONITOR_PERIOD_S = 0.1
MAX_TURNS = 1_000_000
"""Turns that a run remembers for its report; at 50 Hz over five hours.  A longer run reports its newest ones."""


class Session:
    """One robot driven by one policy.  A context manager: leaving it closes everything.

    Args:
        robot: the robot; connected here.
        policy: the policy; only ``infer`` is required of it.
        strategy: how chunks are run; a Strategy, or a name with its defaults.
        worker: where inference runs: a name, or anything that makes a Worker of a bound policy.
        control_hz: commands per second; the robot's rate by default, or the policy's, or 50.
        latency_s: every answer takes at least this long.
        inference_timeout_s: after this a request counts as lost and is made again.
        start_timeout_s: the same for the first request, when a policy may still compile.
        max_plan_age_s: rows predicted from an older observation are refused by the gate.
        watchdog_s: a loop that stands still for longer is reported, and the robot's ``stop()`` is called where
            it has one.
        realtime: ask for real-time scheduling and locked memory.
        delay: the delay estimate.
        clock, sleep: the time the loop runs in.
        on_message: told what people should know: the binding, what real time was granted.
    """

    def __init__(
        self,
        robot: Robot,
        policy: Policy,
        strategy: Strategy | str = "rtc",
        *,
        worker: str | Callable[..., Worker] = "thread",
        control_hz: float | None = None,
        latency_s: float = 0.0,
        inference_timeout_s: float = 5.0,
        start_timeout_s: float = 120.0,
        max_plan_age_s: float = 3.0,
        watchdog_s: float = 1.0,
        realtime: bool = False,
        delay: DelayEstimate | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.robot, self.policy = robot, policy
        self.strategy = plugins.load("strategies", strategy)() if isinstance(strategy, str) else strategy
        self._make_worker = plugins.load("workers", worker) if isinstance(worker, str) else worker
        self._control_hz, self._latency_s, self._realtime = control_hz, latency_s, realtime
        self._timeouts = inference_timeout_s, start_timeout_s
        self._max_plan_age_s, self._delay = max_plan_age_s, delay
        self._clock, self._sleep, self._say = clock, sleep, on_message
        self._watchdog = Watchdog(watchdog_s)
        self._closed = False
        self.events = EventRing()
        self.turns: list[Turn] = []

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect the robot, bind the policy to it by name, and warm the policy up.

        Raises:
            BindingError: they do not fit; the message names what is missing.
            Exception: whatever the robot raises.
        """
        self.robot.connect()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        robot, spec = self.robot, self.robot.spec
        frame = robot.observe()
        binding = self._bind(frame)
        self._say(binding.describe())
        hz = self._rate(binding.policy)
        warmup = getattr(self.policy, "warmup", None)
        if warmup is not None:
            warmup()
        reset = getattr(self.policy, "reset", None)
        if reset is not None:
            reset()
        infer: Infer = BoundPolicy(self.policy, binding)
        start = binding.layout.measured(frame)
        timeout, start_timeout = (max(round(seconds * hz), 1) for seconds in self._timeouts)
        self.binding = binding
        self.pacer = Pacer(hz, clock=self._clock, sleep=self._sleep)
        self.gate = Gate(binding.layout, 1 / hz, start=start, max_plan_age_s=self._max_plan_age_s)
        self.scheduler = Scheduler(
            binding.layout,
            self.strategy,
            delay=self._delay,
            timeout_steps=timeout,
            start_timeout_steps=start_timeout,
            hold=start,
        )
        self.worker = self._make_worker(infer, latency_s=self._latency_s)
        self.loop = ControlLoop(
            robot, self.worker, self.scheduler, self.gate, self.pacer, self.events, self._watchdog.beat
        )
        horizon_s = (binding.policy.action_horizon or 0) / hz
        if horizon_s > self._max_plan_age_s:
            self._say(
                f"a chunk covers {horizon_s:.3g} s, the gate refuses rows older than max_plan_age_s = "
                f"{self._max_plan_age_s:g} s: the last ones will not run"
            )
        if start is None and spec.components:
            self._say("the robot's state does not say where it stands: nothing is sent before the first chunk")

    def _bind(self, frame: Frame) -> Binding:
        spec = getattr(self.policy, "spec", None)
        if spec is None:
            answer = self.policy.infer(frame, ChunkRequest(0))
            spec = spec_of_answer(self.robot.spec, answer, type(self.policy).__name__)
            self._say(f"policy {spec.name!r} has no spec; its first answer gives one")
        return connect(self.robot.spec, spec)

    def _rate(self, policy: PolicySpec) -> float:
        hz = self._control_hz or self.robot.spec.control_hz or policy.control_hz or 50.0
        if policy.control_hz is not None and abs(policy.control_hz - hz) > 1e-6 * hz:
            raise InterfaceValidationError(
                f"policy {policy.name!r} predicts rows for {policy.control_hz:g} Hz, the loop runs at {hz:g} Hz: "
                f"the robot would move {hz / policy.control_hz:.2g} times as fast; set control_hz to "
                f"{policy.control_hz:g}"
            )
        return float(hz)

    def run(
        self,
        *,
        seconds: float | None = None,
        stop: threading.Event | None = None,
        on_progress: Callable[[list[Turn]], None] | None = None,
    ) -> Report:
        """Drive the robot; Ctrl-C ends the run and still reports it.

        Args:
            seconds: how long; None runs until `stop` is set or Ctrl-C.
            stop: ends the run when set.
            on_progress: called now and then, from another thread, with the turns so far.
        """
        steps = None if seconds is None else max(round(seconds * self.pacer.control_hz), 1)
        reader = self.events.reader()
        self.turns = []
        done = threading.Event()

        def monitor() -> None:
            while not done.wait(MONITOR_PERIOD_S):
                self.turns += reader.take()
                del self.turns[:-MAX_TURNS]
                if on_progress is not None:
                    on_progress(self.turns)
                if self._watchdog.trip(self._clock()):
                    self._stalled()

        thread = threading.Thread(target=monitor, name="chunkwise-monitor", daemon=True)
        thread.start()
        if self._realtime:  # after every other thread was made: a new one would inherit the priority
            for line in realtime.enable():
                self._say(line)
        interrupted = False
        try:
            self.loop.run(steps=steps, stop=stop)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            done.set()
            thread.join()
        self.turns += reader.take()
        made = report(self.turns, self.pacer, self.gate)
        made.interrupted, made.events_lost = interrupted, reader.lost
        made.watchdog_trips = self._watchdog.trips
        score: Callable[[], dict[str, Any]] | None = getattr(self.robot, "score", None)
        if score is not None:
            made.score = score()
        return made

    def restart_worker(self) -> None:
        """Give up the inference that runs, as after a policy that hangs; the plan runs on meanwhile."""
        self.worker.restart()
        self.scheduler.reconnect()

    def _stalled(self) -> None:
        self._say(f"the control loop has stood still for {self._watchdog.timeout_s:g} s")
        stop: Callable[[], None] | None = getattr(self.robot, "stop", None)
        if stop is not None:
            stop()

    def close(self) -> None:
        """Stop the worker, then let go of the policy and the robot.  Twice is fine."""
        if self._closed:
            return
        self._closed = True
        worker: Worker | None = getattr(self, "worker", None)
        if worker is not None:
            worker.close()
        try:
            close = getattr(self.policy, "close", None)
            if close is not None:
                close()
        finally:
            self.robot.close()
