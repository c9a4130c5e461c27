"""Robot, policy, strategy, worker and gate, put together and run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np

from chunkwise import plugins
from chunkwise.chunking import DelayEstimate, Scheduler, SourceKind, Strategy
from chunkwise.contract import (
    Binding,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicySpec,
    RobotFailed,
    connect,
    observation_problems,
    spec_of_answer,
)
from chunkwise.policies import BoundPolicy, Policy, Recipe
from chunkwise.robots import Robot
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.operator import OperatorStop
from chunkwise.runtime.pacing import Histogram, Pacer
from chunkwise.runtime.realtime import Garbage, RealTime
from chunkwise.runtime.report import MAX_TURNS, Report, Tally, report
from chunkwise.safety import Gate, Limits, Mode, Modes, Watchdog, initial_row
from chunkwise.workers import Worker, place

MONITOR_PERIOD_S = 0.1
END_S = 1.0
"""How long whoever looks on has to look away."""
READY_S = 1.0
"""After this, where the robot stood when it was made ready is looked at again."""


class Session:
    """One robot driven by one policy.  A context manager: leaving it closes everything.

    Args:
        robot: the robot; connected here.
        policy: the policy, of which only ``infer`` is required; or its recipe, by which it is made where the
            worker wants it.
        strategy: how chunks are run; a Strategy, or a name with its defaults.
        worker: where inference runs: a name, or anything that makes a Worker of a bound policy.
        control_hz: commands per second; the robot's rate by default, or the policy's, or 50.
        latency_s: every answer takes at least this long.
        inference_timeout_s: after this a request counts as lost and is made again.
        start_timeout_s: the same for the first request, when a policy may still compile.
        max_plan_age_s: rows predicted from an older observation are refused by the gate.
        limits: how old what a camera or a joint group shows may be, and how long a hold may last.
        watchdog_s: a loop that stands still for longer is reported, and the robot's ``stop()`` is called where
            it has one.
        realtime: ask for real-time scheduling, a core for the loop, locked memory and garbage between periods.
        delay: the delay estimate.
        clock, sleep: the time the loop runs in.
        on_message: told what people should know: the binding, what real time was granted.
    """

    def __init__(
        self,
        robot: Robot,
        policy: Policy | Recipe,
        strategy: Strategy | str = "rtc",
        *,
        worker: str | Callable[..., Worker] = "thread",
        control_hz: float | None = None,
        latency_s: float = 0.0,
        inference_timeout_s: float = 5.0,
        start_timeout_s: float = 120.0,
        max_plan_age_s: float = 3.0,
        limits: Limits | None = None,
        watchdog_s: float = 1.0,
        realtime: bool = False,
        delay: DelayEstimate | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.robot, self._given = robot, policy
        self.strategy = plugins.load("strategies", strategy)() if isinstance(strategy, str) else strategy
        self._make_worker = plugins.load("workers", worker) if isinstance(worker, str) else worker
        self._control_hz, self._latency_s, self._realtime = control_hz, latency_s, realtime
        self._timeouts = inference_timeout_s, start_timeout_s
        self._max_plan_age_s, self._delay = max_plan_age_s, delay or DelayEstimate()
        self._limits = limits or Limits()
        self._limits.require_known([*robot.spec.image_keys, *robot.spec.all_state_keys()])
        self._clock, self._sleep, self._say = clock, sleep, on_message
        self._watchdog_s = watchdog_s
        self._closed = False
        self.events = EventRing()
        self.turns: list[Turn] = []
        self.report: Report | None = None  # of the newest run, also of one that the robot ended by an error

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
        try:
            self.policy = place(self._given, self._make_worker, on_message=self._say)
            self.robot.connect()
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        frame = self._observe()
        binding = self._bind(frame)
        self._say(binding.describe())
        hz = self._rate(binding.policy)
        call_if_there(self.policy, "warmup")
        self.binding = binding
        self.pacer = Pacer(hz, clock=self._clock, sleep=self._sleep)
        self.worker = self._make_worker(BoundPolicy(self.policy, binding), latency_s=self._latency_s)
        if self.strategy.shares_plan and not binding.policy.supports_prefix:
            self._say(
                f"policy {binding.policy.name!r} does not say that it continues a running plan "
                f"(PolicySpec(supports_prefix=True)): {type(self.strategy).__name__} then only switches chunks"
            )
        horizon_s = (binding.policy.action_horizon or 0) / hz
        if horizon_s > self._max_plan_age_s:
            self._say(
                f"a chunk covers {horizon_s:.3g} s, the gate refuses rows older than max_plan_age_s = "
                f"{self._max_plan_age_s:g} s: the last ones will not run"
            )
        self.reset()

    def reset(self) -> None:
        """Be ready for an episode: no plan, nothing under way; the delay stays known.

        Raises:
            RobotFailed: the observation is not what the robot's spec declares.
            InterfaceValidationError: the robot has an initial pose, and does not say where it stands now.
        """
        call_if_there(self.policy, "reset")
        self.worker.restart()
        layout, hz = self.binding.layout, self.pacer.control_hz
        frame = self._observe()  # now: loading and warming up took a while, and a real arm sags or is moved
        hold, standing = layout.measured(frame), layout.standing(frame)
        timeout, start_timeout = (max(round(seconds * hz), 1) for seconds in self._timeouts)
        self.pacer.reset()
        self.pacer.lateness, self.pacer.busy = Histogram(), Histogram()  # of this episode
        self.watchdog = Watchdog(max(self._watchdog_s, 2 * self.pacer.period_s))  # not armed before the first turn
        self.scheduler = Scheduler(
            layout,
            self.strategy,
            delay=self._delay,
            timeout_steps=timeout,
            start_timeout_steps=start_timeout,
            hold=hold,
        )
        self.loop = ControlLoop(
            self.robot,
            self.worker,
            self.scheduler,
            Gate(layout, self.pacer.period_s, start=standing, max_plan_age_s=self._max_plan_age_s),
            self.pacer,
            self.events,
            Modes(self._limits),
            self.watchdog.beat,
        )
        self._moves = initial_row(self.robot.spec, layout, standing) is not None
        self._fresh, self._ready_s = True, self._clock()
        if hold is None and self.robot.spec.components:
            unknown = [slot.component for slot in layout.slots if np.isnan(standing[slot.columns]).any()]
            self._say(
                f"the robot's state does not say where {', '.join(unknown)} stands: its first command may go "
                "anywhere within its limits, and nothing is sent before the first chunk"
            )

    @property
    def gate(self) -> Gate:
        """The last word before the robot."""
        return self.loop.gate

    def _observe(self) -> Frame:
        frame = self.robot.observe()
        problems = observation_problems(self.robot.spec, frame, every_component=False)
        if problems:
            name, listed = self.robot.spec.name, "; ".join(problems)
            raise RobotFailed(f"robot {name!r} observes otherwise than it declares: {listed}")
        return frame

    def _bind(self, frame: Frame) -> Binding:
        meet = getattr(self.policy, "meet", None)
        if meet is not None:
            meet(self.robot.spec)
        spec = getattr(self.policy, "spec", None)
        if spec is None:
            try:
                answer = self.policy.infer(frame, ChunkRequest(0))
            except Exception as error:
                raise PolicyFailed(
                    f"policy {type(self.policy).__name__!r} has no spec, its first answer would have given one, "
                    f"and its first inference raised {type(error).__name__}: {error}"
                ) from error
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
        """Drive the robot for an episode and report it.  Another run is another episode.

        A robot that has an initial pose is moved there first, by a ramp.  Ctrl-C once brings the robot to a
        standstill and ends the run; twice leaves at once.

        Args:
            seconds: how long, from the end of the ramp on; None runs until `stop` is set or Ctrl-C.
            stop: brings the robot to a standstill and ends the run when set.
            on_progress: called now and then, from another thread, with the turns so far.
        """
        if not self._fresh:
            self.reset()
        elif self._clock() - self._ready_s > READY_S:
            self.loop.meet(self._observe())  # somebody may have moved it since
        self._fresh = False
        steps = None if seconds is None else max(round(seconds * self.pacer.control_hz), 1)
        reader, tally = self.events.reader(), Tally()
        self.turns = []

        def collect() -> None:
            fresh = reader.take()
            tally.add(fresh)
            self.turns += [turn for turn in fresh if turn.decision.source.kind is not SourceKind.MOTION]
            del self.turns[:-MAX_TURNS]

        done = threading.Event()

        def monitor() -> None:
            show = on_progress
            while not done.wait(MONITOR_PERIOD_S):
                collect()
                try:
                    if show is not None:
                        show(self.turns)
                except Exception as error:  # noqa: BLE001  whoever looks on must not end the watch
                    show = None
                    self._say(f"on_progress raised {type(error).__name__}: {error}; it is not called again")

        def watch() -> None:
            while not done.wait(MONITOR_PERIOD_S):
                if self.watchdog.trip(self._clock()):
                    self._stalled()

        # two of them: whoever looks on may wait, for a terminal that was stopped for one
        watching = [
            threading.Thread(target=target, name=f"chunkwise-{target.__name__}", daemon=True)
            for target in (monitor, watch)
        ]
        for thread in watching:
            thread.start()
        operator, left, failure = OperatorStop(stop, self._clock), False, None
        try:
            # real time after every other thread was made: a new one would inherit the priority
            with operator, self._real_time():
                if self._to_the_start(operator):
                    self.loop.run(steps=steps, stop=operator)
        except KeyboardInterrupt:
            left = True
        except Exception as error:  # noqa: BLE001  raised again below, once the run is reported
            failure = error
        finally:
            try:
                self._rest()  # first: one more Ctrl-C must not keep it from the robot
            finally:
                done.set()
                for thread in watching:
                    thread.join(END_S)
        collect()
        made = report(self.turns, self.pacer, self.gate, tally)
        made.interrupted, made.events_lost = left or operator.pressed, reader.lost
        made.watchdog_trips = self.watchdog.trips
        modes = self.loop.modes
        made.stopped = modes.why if modes.mode is Mode.STOPPED and not operator.is_set() else ""
        made.score = call_if_there(self.robot, "score") or {}
        self.report = made
        if failure is not None:
            made.failure = "; ".join([f"{type(failure).__name__}: {failure}", *getattr(failure, "__notes__", [])])
            raise failure
        return made

    @contextmanager
    def _real_time(self) -> Iterator[None]:
        """Punctuality for this thread, where it was asked for."""
        if not self._realtime:
            yield
            return
        pid = getattr(self.worker, "pid", None)
        with RealTime(spare=() if pid is None else [pid]) as granted:
            for line in granted.said:
                self._say(line)
            self.loop.rest = Garbage()
            yield

    def _to_the_start(self, stop: OperatorStop) -> bool:
        """Move the robot to where an episode begins; whether to go on from there."""
        if not self._moves:
            return True
        self._say("moving to the initial pose")
        arrived = self.loop.ramp(stop)
        if stop.is_set() or self.loop.modes.mode is Mode.STOPPED:
            return False
        if not arrived:
            self._say(
                "the robot did not arrive at its initial pose, as far as its state says; it begins where it is"
            )
        self.pacer.reset()
        self.scheduler.reset(self.gate.hold())
        return True

    def _rest(self) -> None:
        """The last command of a run, however it ends: a velocity goes on until it is told otherwise."""
        row = self.gate.hold() if self.binding.layout.zero_hold is not None else None
        if row is None:
            return
        try:
            self.robot.act(self.binding.layout.action(row))
        except Exception as error:  # noqa: BLE001  what ended the run is the news, not this
            self._say(f"the robot did not take its last hold: {type(error).__name__}: {error}")

    def _stalled(self) -> None:
        call_if_there(self.robot, "stop")
        self._say(f"the control loop has stood still for {self.watchdog.timeout_s:g} s")

    def close(self) -> None:
        """Stop the worker, then let go of the policy and the robot.  Twice is fine."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as closing:  # each of them, whatever the others raise, Ctrl-C included
            closing.callback(self.robot.close)
            closing.callback(call_if_there, getattr(self, "policy", self._given), "close")
            worker: Worker | None = getattr(self, "worker", None)
            if worker is not None:
                closing.callback(worker.close)


def call_if_there(owner: object, name: str) -> Any:
    """What an optional method of a port returns; None where its owner has none."""
    method = getattr(owner, name, None)
    return None if method is None else method()
