"""One stream of chunks from one policy: from its warm-up on, a control step at a time."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from chunkwise.chunking import Answer, Decision, DelayEstimate, FaultKind, Scheduler, SourceKind, Tick
from chunkwise.chunking.plan import Plan
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicyFailed, RtcArgs
from chunkwise.policies import Policy
from chunkwise.runtime.actions import ActionRows
from chunkwise.runtime.options import InferenceMode, RuntimeOptions
from chunkwise.runtime.policy_calls import PolicyCalls
from chunkwise.runtime.step import ActionSource, StepResult, as_actions

if TYPE_CHECKING:
    from chunkwise.runtime.timeline import LiveProfile

SLOW_RTC_S = 0.5
"""A warm-up request that knows the plan and takes longer than this is worth a word."""
NEVER_STEPS = 2**40
"""Time-outs are seconds here; the scheduler's own, in steps, are put out of reach."""
NOT_FAILURES = (FaultKind.TOO_SHORT, FaultKind.STALE, FaultKind.EXPIRED)
"""Faults that say something about the numbers; the policy did nothing wrong."""


class Episode:
    """Chunks of one policy, scheduled.  Making it warms the policy up and waits for the first chunk.

    Args:
        options: the runtime's; may change between steps, see :meth:`retune`.
        source: the policy's ``infer``.
        frame: what is seen now.
        delay: the delay estimate, which outlives the episode.
        warm: whether the policy is warm and the delay known.
        under_way, hosted: see :class:`PolicyCalls`.
        profile: is told everything, where there is one.

    Raises:
        PolicyFailed: the policy does not answer as it should; there is nothing to go on with.
        InterfaceValidationError: the options do not fit its chunks.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        source: ActionSource,
        frame: Frame,
        *,
        delay: DelayEstimate,
        warm: bool,
        under_way: set[object],
        hosted: Policy | None = None,
        profile: LiveProfile | None,
    ) -> None:
        self.options, self.profile = options, profile
        self.in_step = options.mode is InferenceMode.SYNC
        self.step = 0
        self._made_of = (options.mode, options.chosen_worker)
        controller = options.realtime_controller
        self._now = time.perf_counter if controller is None else controller.pacer.now
        self._delay = DelayEstimate(fixed=0) if self.in_step else delay
        self._rows = ActionRows(options.interpolation_steps)
        self._asked = (0, 0)  # control step and action number of the request under way
        timeout_s = options.inference_timeout_s
        self.calls = PolicyCalls(source, self._chunk, options.make_worker, timeout_s, self._now, under_way, hosted)
        try:
            chunk = self._infer(frame, 0) if warm else self._warm_up(frame)
            options.check_window(self._rows.length)
        except BaseException:
            self.calls.close()
            raise
        self._scheduler = Scheduler(
            self._rows.layout,
            options.strategy(),
            delay=self._delay,
            timeout_steps=NEVER_STEPS,
            start_timeout_steps=NEVER_STEPS,
        )
        request = self._scheduler.tick(Tick(0)).request
        assert request is not None
        self._scheduler.tick(Tick(0, (Answer(request.id, chunk),), may_ask=False))
        self._rows.join(chunk, request.id, 0, 0)
        self._refreshed = True
        self.calls.timeout_s = options.running_timeout_s

    def retune(self) -> bool:
        """Take over options that were changed; whether that can be done without starting again."""
        options = self.options
        if self._made_of != (options.mode, options.chosen_worker):
            return False
        options.check_window(self._rows.length)
        self.calls.timeout_s = options.running_timeout_s
        self._rows.between = options.interpolation_steps
        self._scheduler.strategy = options.strategy()
        return True

    def turn(self, frame: Frame) -> tuple[Decision, StepResult]:
        """One control step: what runs now, and what it came from."""
        decision, spent = self._decide(frame)
        result = self._result(frame, decision, spent)
        self.step += 1
        return decision, result

    def close(self) -> None:
        """Wait a bounded time for a running inference, and stop."""
        self.calls.close()

    # ── the first chunk ──────────────────────────────────────────────────────────────────────────────

    def _warm_up(self, frame: Frame) -> ActionChunk:
        """Calls that nothing is done with, then calls whose delay is measured; the chunk of the last one."""
        options, controller = self.options, self.options.realtime_controller
        count = options.warmup_requests + options.profile_delay_requests
        measured = controller is not None and count > 0 and not self.in_step
        if not measured:
            count = 1
        if options.enable_rtc:  # without hints first: the length of a chunk is not known yet
            count = max(count, 2)
        chunk, spent = None, 0.0
        for call in range(count):
            began = self._now()
            chunk = self._infer(frame, call, chunk)
            spent = self._now() - began
            if measured and controller is not None and call >= options.warmup_requests:
                self._delay.record(max(math.ceil(spent * controller.hz - 1e-9), 1))
        if options.enable_rtc and spent > SLOW_RTC_S:
            self._slow(spent)
        assert chunk is not None
        return chunk

    def _infer(self, frame: Frame, call: int, before: ActionChunk | None = None) -> ActionChunk:
        """One inference while the robot stands still; `before` is the chunk that it may continue."""
        request = ChunkRequest(0, self._now(), id=-1 - call)
        if before is not None and self.options.enable_rtc:
            self._rows.join(before, request.id, 0, 0)
            self._add_hints(request, Plan(0, before.rows, request.id, 0), 0)
        return self.calls.call(frame, request)

    def _slow(self, spent: float) -> None:
        text = f"the last warm-up request took {spent:.2f} s, over {SLOW_RTC_S} s"
        choice = self.options.slow_rtc_bootstrap
        if choice == "error":
            raise PolicyFailed(text)
        if choice == "warn":
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        elif input(f"{text}; go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise PolicyFailed(f"{text}; not confirmed")

    def _chunk(self, answer: object) -> ActionChunk:
        """Runs in the worker: control is spared the checks."""
        return self._rows.chunk(as_actions(answer))

    # ── one step ─────────────────────────────────────────────────────────────────────────────────────

    def _decide(self, frame: Frame) -> tuple[Decision, float]:
        """The decision of this step, and how long the policy took inside it."""
        scheduler, step = self._scheduler, self.step
        answers = self._arrived(self.calls.arrivals())
        plan = scheduler.plan
        # Between two of the policy's own actions there is no number that an answer could begin with.
        may_ask = self._rows.begins(step) or plan is None or plan.end <= step
        decision = scheduler.tick(Tick(step, answers, may_ask))
        self._join(answers)
        request = decision.request
        if request is None:
            return decision, 0.0
        self._submit(frame, request)
        if not self.in_step:
            return decision, 0.0
        began = self._now()
        answers = self._arrived(self.calls.wait())
        spent = self._now() - began
        again = scheduler.tick(Tick(step, answers, may_ask=False))
        self._join(answers)
        return again._replace(request=request, faults=decision.faults + again.faults), spent

    def _arrived(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        if self.profile is not None:
            for answer in answers:
                answered_s = None if answer.chunk is None else answer.chunk.meta["answered_s"]
                self.profile.arrived(self.step, answer, answered_s)
        return answers

    def _join(self, answers: Sequence[Answer]) -> None:
        """Remember the Actions of the answer that joined the plan, if one did."""
        plan = self._scheduler.plan
        for answer in answers:
            if answer.chunk is not None and plan is not None and answer.request == plan.chunk:
                step, number = self._asked
                self._rows.join(answer.chunk, answer.request, self.step if self.in_step else step, number)
                self._refreshed = True

    def _submit(self, frame: Frame, asked: ChunkRequest) -> None:
        """Send the scheduler's request on, in the policy's own actions instead of control steps."""
        plan, step = self._scheduler.plan, self.step
        assert plan is not None
        number, left = self._rows.number(step), self._rows.left(plan, step)
        self._asked = (step, number)
        fine = self._rows.between + 1
        expected = 0 if self.in_step else min(math.ceil(self._delay.steps / fine), left)
        request = ChunkRequest(
            number,
            self._now(),
            left,
            left,
            max(expected + self.options.latency_steps_offset, 0),
            prefix=asked.prefix if fine == 1 else None,  # else the plan's rows are finer than the policy's
            prefix_weights=asked.prefix_weights if fine == 1 else None,
            id=asked.id,
        )
        if self.options.enable_rtc and left:
            self._add_hints(request, plan, step)
        if self.profile is not None:
            self.profile.asked(step, request)
        self.calls.submit(frame, request)

    def _add_hints(self, request: ChunkRequest, plan: Plan, step: int) -> None:
        """The running plan as Actions: its first ones within the window, padded with the last of them."""
        window, length = self.options.execution_steps or 0, self._rows.length
        actions = self._rows.ahead(plan, step, min(window, length))
        actions += [actions[-1]] * (length - len(actions))
        if request.latency_steps > window:
            with suppress(Warning):  # where warnings are errors, the request goes out all the same
                warnings.warn(
                    f"the delay of {request.latency_steps} steps is beyond execution_steps={window}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        delay = min(max(request.latency_steps, 1), window)
        request.prev_action_chunk = request.action_prefix = actions
        request.inference_delay, request.execute_horizon = delay, window
        request.prefix_length = request.latency_steps
        request.rtc_args = RtcArgs(actions, delay, window)

    def _result(self, frame: Frame, decision: Decision, spent: float) -> StepResult:
        plan, source, row = self._scheduler.plan, decision.source, decision.row
        assert row is not None and plan is not None
        if source.kind is SourceKind.CHUNK:
            action, kind = self._rows.action(decision), "chunk"
        else:
            action = self._rows.hold(row)
            kind = "hold" if source.kind is SourceKind.STARVED else "wait"
        refreshed, self._refreshed = self._refreshed, False
        return StepResult(
            frame,
            action,
            action,
            refreshed,
            source=kind,
            underrun=kind == "hold",
            latency_steps=self._delay.steps,
            plan_length=max(plan.end - decision.step, 0),
            faults=decision.faults,
            error=self._error(decision) if decision.faults else None,
            inference_s=spent,
        )

    def _error(self, decision: Decision) -> InterfaceValidationError | None:
        """The newest failure among the faults."""
        error = None
        for fault in decision.faults:
            if fault.kind not in NOT_FAILURES:
                error = self.calls.failure(fault.request, fault.detail)
        return error
