"""InferenceRuntime: chunk scheduling for a loop that is the caller's, one step at a time.

The interface is that of inferaxis; the scheduler, the strategies and the workers are those of the control loop.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from chunkwise.chunking import DelayEstimate
from chunkwise.contract import Frame, InterfaceValidationError, validate_frame
from chunkwise.policies import Policy, Recipe
from chunkwise.runtime.episode import Episode
from chunkwise.runtime.options import InferenceMode as InferenceMode
from chunkwise.runtime.options import RuntimeOptions
from chunkwise.runtime.step import Act, ActionSource, Observe, StepResult, act, owner_of, take_frame
from chunkwise.workers import host_of

if TYPE_CHECKING:
    from chunkwise.runtime.timeline import LiveProfile


class InferenceRuntime(RuntimeOptions):
    """Plays chunks, asks for the next one in time, and keeps the loop going whatever the policy does.

    Options are attributes, and may be changed between steps.

    Args:
        mode: ``sync`` infers inside a step when the chunk has run out; ``async`` beside the loop, ahead of time.
        profile: keep records and write them, and a page to look at, on :meth:`close` (async only).
        profile_output_dir: where; by default ``./profiles/inference-runtime-<UTC time>``.
        steps_before_request: actions of a chunk that run before the next request; 0 asks at once.  Where the
            measured delay leaves no time for it, the request goes out earlier.  In sync, 0 plays whole chunks.
        execution_steps: actions of a chunk that run before it is given up (sync), or the window of the RTC hints.
        warmup_requests, profile_delay_requests: calls before the first step, unmeasured and measured (async with a
            control rate).
        interpolation_steps: in-between commands after every action but the last; targets are interpolated,
            deltas and velocities divided so that the distance stays the same.
        ensemble_weight: weight of the new chunk where it overlaps the old one from the hand-over on, or (low,
            high); None switches.
        control_hz: paces the loop and turns delays into steps; or give `realtime_controller`.
        enable_rtc: requests carry the running plan; needs `execution_steps`.
        slow_rtc_bootstrap: ``warn``, ``error`` or ``confirm`` when a warm-up request takes over half a second.
        latency_steps_offset: added to the delay that requests carry.
        validation: ``always``, ``startup`` (the default) or ``off``: how long frames are checked in full.  Chunks
            are always checked for their shape and for numbers that are not finite.
        realtime_controller: paces the loop, instead of `control_hz`; its clock is the runtime's.
        worker: ``inline``, ``thread``, ``process``, another worker's name, or anything that makes one; by default
            inline for sync without a time-out, else thread.  For a process, `act_src_fn` is a function at the top
            of a module, which is found there by its name, or the ``infer`` of a stand-in that its host made.
        inference_timeout_s: after this an inference, also one that warms up, is given up and asked for again;
            None waits for ever before the first step and in sync, and ten seconds in async.  The thread of one
            that hangs is left behind, a few at most.
        on_error: ``hold`` puts a policy's error on the result and goes on with plan or hold; ``raise`` raises
            it as well, after the step was carried out.

    Raises:
        InterfaceValidationError: an option is out of range, or two exclude each other.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._delay = DelayEstimate()
        self._warm = False  # whether the policy has been warmed up and its delay measured
        self._under_way: set[object] = set()
        self._source: ActionSource | None = None
        self._episode: Episode | None = None
        self._hosted: Policy | None = None  # the process, which outlives episodes
        self._profile: LiveProfile | None = None

    @classmethod
    def async_realtime(cls, *, warmup_requests: int = 3, **options: Any) -> Self:
        """An async runtime that warms up a little longer."""
        return cls(mode=InferenceMode.ASYNC, warmup_requests=warmup_requests, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_step(
        self,
        *,
        observe_fn: Observe | None = None,
        act_fn: Act | None = None,
        act_src_fn: ActionSource | None = None,
        frame: Any = None,
        execute_action: bool = True,
        pace_control: bool = True,
        metadata_owner: object | None = None,
    ) -> StepResult:
        """One step; arguments as in :func:`chunkwise.run_step`.

        The same function is the same policy, and so is a lambda made anew for every step; another function starts
        over with the next one.

        Raises:
            InterfaceValidationError: a frame or an option is wrong; nothing was sent.
            PolicyFailed: the first inference failed, so that there is nothing to send; or, after the step was
                carried out, `on_error` is ``raise``.
            RobotFailed: `observe_fn` or `act_fn` raised.  The next step goes on behind this one.
        """
        if act_src_fn is None:
            raise InterfaceValidationError("run_step() requires act_src_fn=...")
        owner = owner_of(observe_fn, act_fn, act_src_fn) if metadata_owner is None else metadata_owner
        seen = take_frame(frame, observe_fn, owner)
        if self.validation == "always":
            validate_frame(seen)
        self._take_over(act_src_fn)
        episode = self._episode or self._start(seen)
        decision, result = episode.turn(seen)
        if execute_action and result.raw_action.commands:
            result.action = act(act_fn, result.raw_action)
        if pace_control and self.realtime_controller is not None:
            result.control_wait_s = self.realtime_controller.wait()
        if self._profile is not None:
            self._profile.step(decision.step, decision, result)
        if result.error is not None and self.on_error == "raise":
            raise result.error
        return result

    step = run_step

    def bootstrap_async(
        self,
        *,
        act_src_fn: ActionSource,
        observe_fn: Observe | None = None,
        frame: Any = None,
    ) -> bool:
        """Warm up and measure before the loop starts; whether there was anything to do.

        Raises:
            InterfaceValidationError: as for the first step.
        """
        self._take_over(act_src_fn)
        if self.mode is not InferenceMode.ASYNC or self._episode is not None:
            return False
        self._start(take_frame(frame, observe_fn, owner_of(observe_fn, act_src_fn)))
        return True

    def reset(self) -> None:
        """Start a new episode: no plan.  The measured delay stays known, and the policy warm.

        A running inference is waited for, `inference_timeout_s` or a few seconds at most.
        """
        self._stop()
        if self.realtime_controller is not None:
            self.realtime_controller.reset()

    def close(self) -> None:
        """As :meth:`reset`, and write the profile.  Twice is fine, and so is going on afterwards."""
        self.reset()
        self._unhost()
        profile, self._profile = self._profile, None
        if profile is not None:
            profile.write()

    def _take_over(self, source: ActionSource) -> None:
        """The caller's function of this step, and options that were changed."""
        if self._source is not None and _identity(source) != _identity(self._source):
            self._start_over()
        self._source = source
        if self._changed:
            self.check()
            if self._episode is not None and not self._episode.retune():
                self._start_over()
            self._changed = False
        if self._episode is not None:
            self._episode.calls.source = source

    def _stop(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            episode.close()

    def _start_over(self) -> None:
        self._stop()
        self._unhost()
        self._delay.reset()
        self._warm = False

    def _unhost(self) -> None:
        hosted, self._hosted = self._hosted, None
        close = getattr(hosted, "close", None)
        if close is not None:
            close()

    def _stand_in(self) -> Policy | None:
        """For the caller's function, where the worker runs it in another process."""
        host = host_of(self.chosen_worker)
        owner = getattr(self._source, "__self__", None)
        if host is None or getattr(owner, "elsewhere", False):
            return None if host is None else owner
        if self._hosted is None:
            assert self._source is not None
            self._hosted = host(Recipe.of(self._source))
        return self._hosted

    def _start(self, frame: Frame) -> Episode:
        if self.validation == "startup":
            validate_frame(frame)
        if self.profile and self._profile is None:
            from chunkwise.runtime.timeline import LiveProfile

            controller = self.realtime_controller
            clock = time.perf_counter if controller is None else controller.pacer.now
            self._profile = LiveProfile(self, clock=clock)
        assert self._source is not None
        self._episode = Episode(
            self,
            self._source,
            frame,
            delay=self._delay,
            warm=self._warm,
            under_way=self._under_way,
            hosted=self._stand_in(),
            profile=self._profile,
        )
        self._warm = True
        return self._episode


def _identity(source: Any) -> object:
    """Who a function is: a method's object, else where it was written; a fresh lambda per step is the same."""
    owner = getattr(source, "__self__", None)
    if owner is not None:
        return id(owner), getattr(source, "__func__", None)
    inner = getattr(source, "func", None)  # a partial
    if inner is not None:
        return _identity(inner)
    return getattr(source, "__code__", None) or id(source)
