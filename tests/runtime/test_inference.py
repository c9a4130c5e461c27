"""InferenceRuntime: semantics of the interface, in lock step; threads only where threads are the point."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import chunkwise as infra
from chunkwise.chunking import FaultKind
from chunkwise.plugins import load
from chunkwise.runtime import policy_calls
from chunkwise.runtime.options import HANGS_S
from chunkwise.testing.world import SimulatedClock, StepWorker
from chunkwise.workers import Infer

LONG_S = 10.0
"""A test that waits so long has failed."""
MEASURED = {"hz": 50.0, "warmup_requests": 0, "profile_delay_requests": 1}
"""Measures a delay of one step before the first action, so that requests go out when they are due."""


def action(value: float, kind: str = "joint_position") -> infra.Action:
    return infra.Action(
        {"arm": infra.Command(kind, np.full(2, value)), "jaw": infra.Command("gripper_position", [value])}
    )


class Counting:
    """Item ``i`` of the answer to a request of step ``s`` has the value ``s + i``; `trouble` comes first."""

    def __init__(self, rows: int = 12, *, offset: float = 0.0, kind: str = "joint_position") -> None:
        self.rows, self.offset, self.kind = rows, offset, kind
        self.requests: list[infra.ChunkRequest] = []
        self.trouble: Callable[[infra.ChunkRequest], Any] = lambda request: None

    def infer(self, seen: infra.Frame, request: infra.ChunkRequest) -> Any:
        self.requests.append(request)
        answer = self.trouble(request)
        if answer is not None:
            return answer
        made = [action(request.request_step + i + self.offset, self.kind) for i in range(self.rows)]
        return made if self.rows > 1 else made[0]

    @property
    def steps(self) -> list[int]:
        return [request.request_step for request in self.requests]

    @property
    def hints(self) -> list[int]:
        return [request.latency_steps for request in self.requests]


class Rig:
    """A loop whose answers take `delay` control steps, and whose clock only its pacing and its policy move.

    Args:
        delay: steps from request to answer; None loses it.
        hz: paced at this rate on the simulated clock.
        options: of the runtime.
    """

    def __init__(
        self,
        policy: Any = None,
        *,
        mode: str = "async",
        delay: int | None = 3,
        hz: float | None = None,
        **options: Any,
    ) -> None:
        self.policy = policy or Counting()
        self.clock, self.now, self.delay = SimulatedClock(), 0, delay
        self.results: list[infra.StepResult] = []
        self.told: list[infra.Action] = []
        if hz is not None:
            options["realtime_controller"] = infra.RealtimeController(
                hz=hz, clock=self.clock, sleeper=self.clock.sleep
            )
        if mode == "async":
            options.setdefault("worker", self.worker)
        self.runtime = infra.InferenceRuntime(mode, **options)

    def worker(self, infer: Infer) -> StepWorker:
        return StepWorker(infer, lambda: self.now, lambda request: 0 if request < 0 else self.delay)

    def observe(self) -> infra.Frame:
        return infra.Frame(state={"arm": np.zeros(2)})

    def act(self, sent: infra.Action) -> infra.Action:
        self.told.append(sent)
        return sent

    def run(self, steps: int = 1, source: Any = None) -> list[infra.StepResult]:
        made = []
        for _ in range(steps):
            made.append(
                infra.run_step(
                    observe_fn=self.observe,
                    act_fn=self.act,
                    act_src_fn=source or self.policy.infer,
                    runtime=self.runtime,
                )
            )
            self.now += 1
        self.results += made
        return made

    @property
    def sent(self) -> list[float]:
        return [round(float(told.commands["arm"].value[0]), 9) for told in self.told]


# ── asynchronous ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("delay", [1, 3, 5])
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_sent_at_step_k_is_k(delay: int, before: int) -> None:
    rig = Rig(delay=delay, steps_before_request=before)
    rig.run(60)
    assert rig.sent == list(range(60))
    assert not any(result.underrun for result in rig.results)


def test_the_next_request_goes_out_with_the_hand_over() -> None:
    rig = Rig(delay=3)
    rig.run(14)
    assert rig.policy.steps == [0, 1, 4, 7, 10, 13]
    assert [i for i, result in enumerate(rig.results) if result.plan_refreshed] == [0, 4, 7, 10, 13]


def test_steps_before_request_counts_from_the_hand_over() -> None:
    rig = Rig(Counting(20), delay=3, steps_before_request=4, **MEASURED)
    rig.run(30)
    assert rig.policy.steps == [0, 4, 11, 18, 25]


def test_requests_go_out_earlier_when_the_delay_needs_it() -> None:
    rig = slow_rig(Slow(12, seconds=0.06), delay=3, steps_before_request=50)
    rig.run(60)
    assert rig.sent == list(range(60)) and not any(result.underrun for result in rig.results)


def test_a_request_says_what_is_left_of_the_plan() -> None:
    rig = Rig(Counting(12), delay=3)
    rig.run(8)
    assert [(q.request_step, q.active_chunk_length, q.remaining_steps) for q in rig.policy.requests] == [
        (0, 0, 0),
        (1, 11, 11),
        (4, 9, 9),
        (7, 9, 9),
    ]
    assert all(q.prev_action_chunk is q.rtc_args is q.inference_delay is q.execute_horizon is None
               for q in rig.policy.requests)  # fmt: skip


def test_request_times_are_on_the_loops_clock() -> None:
    rig = Rig(delay=3, hz=10.0, warmup_requests=0, profile_delay_requests=0)
    rig.run(5)
    assert [round(request.request_time_s, 6) for request in rig.policy.requests] == [0.0, 0.1, 0.4]


def test_a_chunk_that_is_too_short_is_said_and_holds() -> None:
    rig = Rig(Counting(5), delay=4)
    results = rig.run(30)
    assert any(fault.kind is FaultKind.TOO_SHORT and "H >= 2d" in fault.detail
               for result in results for fault in result.faults)  # fmt: skip
    assert {result.source for result in results} == {"chunk", "hold"}
    assert all(result.error is None for result in results)
    assert len(rig.told) == 30  # the robot was told something in every step


def test_after_an_underrun_rows_still_belong_to_their_steps() -> None:
    rig = Rig(Counting(8), delay=6)
    results = rig.run(40)
    assert all(
        value == k for k, (value, result) in enumerate(zip(rig.sent, results, strict=True)) if not result.underrun
    )
    assert any(result.underrun for result in results)


def test_a_single_action_cannot_be_asynchronous() -> None:
    with pytest.raises(infra.InterfaceValidationError, match=r"mode=ASYNC\) requires act_src_fn"):
        Rig(Counting(1)).run()


def test_the_result_says_where_its_row_came_from() -> None:
    rig = Rig(delay=3)
    first, second, *_ = rig.run(5)
    assert (first.source, first.plan_refreshed, first.plan_length) == ("chunk", True, 12)
    assert (second.source, second.plan_refreshed, second.plan_length) == ("chunk", False, 11)
    assert rig.results[4].latency_steps == 3 and rig.results[4].plan_length == 9


def test_an_action_that_runs_as_predicted_is_the_policys_own() -> None:
    policy = Counting()
    made = [action(i) for i in range(12)]
    policy.trouble = lambda request: made if request.id < 0 else None
    rig = Rig(policy, delay=3)
    assert rig.run()[0].raw_action is made[0]


def test_a_driver_that_writes_to_an_action_changes_no_other_step() -> None:
    policy = Counting()
    policy.trouble = lambda request: [action(1)] * 12
    rig = Rig(policy, mode="sync")
    told = []

    def doubling(sent: infra.Action) -> None:
        told.append(sent.commands["arm"].value[0])
        sent.commands["arm"].value *= 2

    rig.act = doubling  # type: ignore[method-assign,assignment]
    rig.run(12)
    assert told == [1] * 12


def test_a_policy_that_fills_its_actions_again_does_not_change_what_was_checked() -> None:
    policy = Counting()
    made = [action(1) for _ in range(12)]

    def refill(request: infra.ChunkRequest) -> Any:
        for item in made if request.id == 1 else ():
            item.commands["arm"].value[:] = np.nan
        return made

    policy.trouble = refill
    rig = Rig(policy, delay=3)
    told = []
    rig.act = lambda sent: told.append(sent.commands["arm"].value[0])  # type: ignore[method-assign,assignment,return-value]
    rig.run(12)
    assert told == [1] * 12


def test_nothing_is_sent_where_that_is_asked_for() -> None:
    rig = Rig()
    for _ in range(3):
        result = infra.run_step(
            frame=rig.observe(), act_src_fn=rig.policy.infer, runtime=rig.runtime, execute_action=False
        )
    assert rig.told == [] and result.action.commands["arm"].value[0] == 2


# ── start-up and the delay estimate ──────────────────────────────────────────────────────────────────


class Slow(Counting):
    """Takes `seconds` on the simulated clock while the robot stands still."""

    def __init__(self, rows: int = 40, *, seconds: float = 0.1) -> None:
        super().__init__(rows)
        self.seconds = seconds
        self.clock: SimulatedClock | None = None

    def infer(self, seen: infra.Frame, request: infra.ChunkRequest) -> Any:
        if request.id < 0 and self.clock is not None:
            self.clock.sleep(self.seconds)
        return super().infer(seen, request)


def slow_rig(policy: Slow, **options: Any) -> Rig:
    rig = Rig(policy, hz=50.0, **options)
    policy.clock = rig.clock
    return rig


def test_startup_warms_up_and_measures_before_anything_is_sent() -> None:
    rig = slow_rig(Slow(), delay=5, warmup_requests=2, profile_delay_requests=3)
    rig.run()
    assert rig.policy.steps == [0] * 5 and rig.policy.hints == [0] * 5 and rig.sent == [0]


def test_the_delay_estimate_is_whole_after_startup() -> None:
    """Not half of what was measured, and not less under load."""
    rig = slow_rig(Slow(seconds=0.2), delay=10)
    rig.run(60)
    assert rig.policy.hints[:4] == [0] * 4
    assert set(rig.policy.hints[4:]) == {10}
    assert rig.results[0].latency_steps == 10


def test_the_delay_estimate_is_right_under_overload() -> None:
    rig = Rig(Counting(12), delay=10)
    rig.run(80)
    assert rig.results[-1].latency_steps == 10


def test_without_a_rate_the_first_chunk_is_asked_for_once() -> None:
    rig = Rig()
    rig.run()
    assert rig.policy.steps == [0]


def test_bootstrap_async_does_it_outside_the_loop() -> None:
    rig = slow_rig(Slow(), delay=5)
    assert rig.runtime.bootstrap_async(observe_fn=rig.observe, act_src_fn=rig.policy.infer)
    assert len(rig.policy.requests) == 4 and rig.told == []
    assert not rig.runtime.bootstrap_async(frame=rig.observe(), act_src_fn=rig.policy.infer)
    assert rig.run()[0].plan_refreshed and len(rig.policy.requests) == 4
    assert not infra.InferenceRuntime("sync").bootstrap_async(frame=rig.observe(), act_src_fn=rig.policy.infer)


def test_the_offset_moves_the_hint_and_nothing_else() -> None:
    plain, moved, negative = (Rig(Counting(20), delay=4, latency_steps_offset=offset) for offset in (0, 3, -9))
    for rig in (plain, moved, negative):
        rig.run(30)
    assert plain.policy.steps == moved.policy.steps and plain.sent == moved.sent
    assert plain.policy.hints[2:] == [4] * len(plain.policy.hints[2:])
    assert moved.policy.hints[2:] == [7] * len(plain.policy.hints[2:])
    assert set(negative.policy.hints) == {0}


def test_reset_keeps_the_delay_and_does_not_warm_up_again() -> None:
    rig = slow_rig(Slow(), delay=5)
    rig.run(20)
    before = len(rig.policy.requests)
    rig.runtime.reset()
    rig.policy.clock = None
    result = rig.run()[0]
    assert len(rig.policy.requests) == before + 1 and rig.policy.steps[-1] == 0
    assert result.latency_steps == 5 and result.plan_refreshed
    assert rig.sent[-1] == 0


def test_close_twice_and_go_on() -> None:
    rig = Rig()
    with rig.runtime:
        rig.run(5)
    rig.runtime.close()
    rig.run(3)
    assert rig.sent == [0, 1, 2, 3, 4, 0, 1, 2]


# ── synchronous ──────────────────────────────────────────────────────────────────────────────────────


def test_sync_plays_the_chunk_and_infers_once_for_it() -> None:
    rig = Rig(Counting(4), mode="sync")
    results = rig.run(12)
    assert rig.sent == list(range(12)) and rig.policy.steps == [0, 4, 8]
    assert [result.plan_refreshed for result in results] == [True, False, False, False] * 3
    assert set(rig.policy.hints) == {0} and not any(result.underrun for result in results)


def test_sync_of_single_actions_infers_every_step() -> None:
    rig = Rig(Counting(1), mode="sync")
    rig.run(5)
    assert rig.sent == [0, 1, 2, 3, 4] and rig.policy.steps == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("before", [4, 99])
def test_sync_with_a_long_steps_before_request_plays_the_chunk(before: int) -> None:
    rig = Rig(Counting(4), mode="sync", steps_before_request=before)
    rig.run(12)
    assert rig.sent == list(range(12)) and rig.policy.steps == [0, 4, 8]


def test_sync_infers_again_after_steps_before_request() -> None:
    rig = Rig(Counting(6), mode="sync", steps_before_request=2)
    rig.run(8)
    assert rig.sent == list(range(8)) and rig.policy.steps == [0, 2, 4, 6]


def test_sync_gives_a_chunk_up_after_execution_steps() -> None:
    rig = Rig(Counting(6), mode="sync", execution_steps=3)
    rig.run(9)
    assert rig.sent == list(range(9)) and rig.policy.steps == [0, 3, 6]


def test_sync_tells_how_long_the_policy_took() -> None:
    results = Rig(Counting(4), mode="sync").run(8)
    assert [result.inference_s > 0 for result in results] == [False] * 4 + [True] + [False] * 3


def test_sync_rtc_shows_what_is_left_of_the_chunk() -> None:
    rig = Rig(Counting(6), mode="sync", enable_rtc=True, execution_steps=4)
    rig.run(9)
    assert rig.policy.steps == [0, 0, 4, 8]
    shown = rig.policy.requests[2].prev_action_chunk
    assert [a.commands["arm"].value[0] for a in shown] == [4, 5, 5, 5, 5, 5]


# ── real-time chunking hints ─────────────────────────────────────────────────────────────────────────


def numbers(request: infra.ChunkRequest) -> list[float] | None:
    shown = request.prev_action_chunk
    return None if shown is None else [float(a.commands["arm"].value[0]) for a in shown]


def test_rtc_hints_begin_with_the_next_action_and_are_padded_on_the_right() -> None:
    rig = Rig(Counting(12), delay=3, enable_rtc=True, execution_steps=8, steps_before_request=2, **MEASURED)
    rig.run(20)
    first, second, third, *rest = rig.policy.requests
    assert numbers(first) is None and first.rtc_args is None
    assert numbers(second) == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7] and second.inference_delay == 1
    assert numbers(third) == [2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9] and third.request_step == 2
    for request in rest:
        step = request.request_step
        assert numbers(request)[:7] == [step + i for i in range(7)] and len(numbers(request)) == 12
        assert (request.inference_delay, request.execute_horizon) == (3, 8)
    assert rig.sent == list(range(20))


def test_both_forms_of_the_rtc_hints_agree() -> None:
    rig = Rig(Counting(12), delay=3, enable_rtc=True, execution_steps=8)
    rig.run(12)
    for request in rig.policy.requests[1:]:
        assert request.rtc_args is not None and request.action_prefix is request.prev_action_chunk
        assert request.rtc_args.prev_action_chunk is request.prev_action_chunk
        assert request.rtc_args.inference_delay == request.inference_delay
        assert request.rtc_args.execute_horizon == request.execute_horizon == 8
        assert request.prefix_length == request.latency_steps


def test_the_rtc_delay_stays_within_the_window_and_the_prefix_length_does_not() -> None:
    rig = Rig(Counting(20), delay=6, enable_rtc=True, execution_steps=4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rig.run(20)
    last = rig.policy.requests[-1]
    assert (last.inference_delay, last.prefix_length) == (4, 6)
    assert any("beyond execution_steps=4" in str(item.message) for item in said)


def test_where_warnings_are_errors_the_request_goes_out_all_the_same() -> None:
    rig = Rig(Counting(20), delay=6, enable_rtc=True, execution_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rig.run(60)
    assert rig.sent == list(range(60)) and rig.policy.steps[-1] > 50


def test_rtc_hints_have_the_length_of_the_first_chunk_whatever_comes_later() -> None:
    policy = Counting(12)
    policy.trouble = lambda request: (
        [action(request.request_step + i) for i in range(9)] if request.id == 1 else None
    )
    rig = Rig(policy, delay=2, enable_rtc=True, execution_steps=6)
    rig.run(20)
    assert {len(numbers(request)) for request in policy.requests[1:]} == {12}
    assert rig.sent == list(range(20))


@pytest.mark.parametrize(("window", "before"), [(12, 0), (10, 2)])
def test_the_rtc_window_leaves_room_for_a_new_chunk(window: int, before: int) -> None:
    rig = Rig(Counting(12), enable_rtc=True, execution_steps=window, steps_before_request=before)
    for _ in range(2):  # the same call again is refused again
        with pytest.raises(infra.InterfaceValidationError, match="execution_steps < chunk length"):
            rig.run()
    assert rig.told == []


def test_a_slow_rtc_warm_up_is_warned_of() -> None:
    rig = slow_rig(Slow(seconds=0.6), delay=30, enable_rtc=True, execution_steps=30)
    with pytest.warns(RuntimeWarning, match="took 0.60 s"):
        rig.runtime.bootstrap_async(frame=rig.observe(), act_src_fn=rig.policy.infer)


def test_a_slow_rtc_warm_up_can_be_an_error() -> None:
    rig = slow_rig(Slow(seconds=0.6), enable_rtc=True, execution_steps=30, slow_rtc_bootstrap="error")
    with pytest.raises(infra.PolicyFailed, match=r"took 0.60 s"):
        rig.run()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_slow_rtc_warm_up_can_be_asked_about(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    rig = slow_rig(Slow(seconds=0.6), enable_rtc=True, execution_steps=30, slow_rtc_bootstrap="confirm")
    if answer == "y":
        assert rig.runtime.bootstrap_async(frame=rig.observe(), act_src_fn=rig.policy.infer)
    else:
        with pytest.raises(infra.PolicyFailed, match="not confirmed"):
            rig.run()


# ── hand-over and interpolation ──────────────────────────────────────────────────────────────────────


class Levels(Counting):
    """Chunk ``n`` is ``n`` throughout."""

    def infer(self, seen: infra.Frame, request: infra.ChunkRequest) -> Any:
        self.requests.append(request)
        return [action(float(request.id + 1) if request.id >= 0 else 0.0, self.kind) for _ in range(self.rows)]


def test_blending_begins_with_low_at_the_hand_over() -> None:
    rig = Rig(Levels(10), delay=3, ensemble_weight=(0.2, 0.8), steps_before_request=3, **MEASURED)
    rig.run(10)
    # asked at 3, there at 6; old rows 6..9, so four of them overlap
    assert rig.sent == [0, 0, 0, 0, 0, 0, 0.4, 0.8, 1.2, 1.6]
    assert [told.commands["jaw"].value[0] for told in rig.told] == [0] * 6 + [2] * 4


def test_one_weight_holds_for_the_whole_overlap() -> None:
    rig = Rig(Levels(10), delay=3, ensemble_weight=0.25, steps_before_request=3, **MEASURED)
    rig.run(8)
    assert rig.sent[6:] == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["cartesian_pose", "custom:lamp"])
def test_blending_does_not_average_what_cannot_be_averaged(kind: str) -> None:
    rig = Rig(Levels(10, kind=kind), delay=3, ensemble_weight=0.5, steps_before_request=3, **MEASURED)
    rig.run(8)
    assert rig.sent == [0] * 6 + [2, 2]


def test_interpolation_runs_the_policys_actions_between_and_counts_them() -> None:
    rig = Rig(Counting(10), delay=4, interpolation_steps=2)
    rig.run(60)
    assert np.allclose(rig.sent, np.arange(60) / 3)
    assert rig.policy.steps[:4] == [0, 1, 3, 5] and rig.policy.requests[1].remaining_steps == 9
    assert set(rig.policy.hints[2:]) == {2}  # four control steps are two actions


def test_interpolation_does_not_lengthen_motions_by_deltas() -> None:
    policy = Counting(4)
    policy.trouble = lambda request: [action(1.0, "joint_position_delta") for _ in range(4)]
    rig = Rig(policy, mode="sync", interpolation_steps=2)
    rig.run(12)
    assert np.isclose(sum(rig.sent), 4.0) and len(policy.requests) == 1


def test_sync_interpolation_joins_chunks_at_once() -> None:
    rig = Rig(Counting(4), mode="sync", interpolation_steps=2)
    rig.run(20)
    assert rig.policy.steps == [0, 4]
    assert np.allclose(rig.sent, [*np.arange(10) / 3, *(4 + np.arange(10) / 3)])


def test_rtc_hints_of_an_interpolated_plan_are_the_policys_own_actions() -> None:
    rig = Rig(Counting(12), delay=3, interpolation_steps=2, enable_rtc=True, execution_steps=6)
    rig.run(20)
    for request in rig.policy.requests[2:]:
        step = request.request_step
        assert numbers(request)[:6] == [step + i for i in range(6)] and request.prefix is None


# ── whose policy, and which options ──────────────────────────────────────────────────────────────────


def test_a_fresh_lambda_per_step_stays_asynchronous() -> None:
    rig = Rig(delay=3)
    for _ in range(30):
        rig.run(1, source=lambda seen, request: rig.policy.infer(seen, request))
    assert rig.sent == list(range(30)) and rig.policy.steps[:4] == [0, 1, 4, 7]


def test_a_fresh_partial_per_step_stays_asynchronous() -> None:
    rig = Rig(delay=3)
    for _ in range(30):
        rig.run(1, source=partial(rig.policy.infer))
    assert rig.sent == list(range(30)) and rig.policy.steps[:4] == [0, 1, 4, 7]


def test_another_policy_starts_over() -> None:
    rig, other = Rig(delay=3), Counting(offset=100)
    rig.run(5)
    rig.run(2, source=other.infer)
    assert rig.sent[5:] == [100, 101] and other.steps == [0, 1]


def test_a_callable_object_is_a_policy() -> None:
    class Called(Counting):
        __call__ = Counting.infer

    rig = Rig(Called(), delay=3)
    rig.run(6, source=rig.policy)
    assert rig.sent == list(range(6))


def test_options_may_be_changed_between_steps() -> None:
    rig = Rig(Counting(20), delay=3)
    rig.run(8)
    rig.runtime.steps_before_request = 5
    rig.run(20)
    assert np.diff(rig.policy.steps).tolist() == [1, 3, 3, 8, 8]
    rig.runtime.steps_before_request = -1
    for _ in range(2):
        with pytest.raises(infra.InterfaceValidationError, match="steps_before_request"):
            rig.run()
    rig.runtime.steps_before_request = 0
    rig.run()


def test_changed_interpolation_takes_effect_with_the_next_chunk() -> None:
    rig = Rig(Counting(20), delay=2)
    rig.run(4)
    rig.runtime.interpolation_steps = 1
    rig.run(9)
    assert rig.sent[:6] == [0, 1, 2, 3, 4, 5]
    assert set(np.diff(rig.sent[7:])) == {0.5}


def test_a_changed_mode_starts_over() -> None:
    rig = Rig(Counting(6))
    rig.run(3)
    rig.runtime.mode, rig.runtime.worker = "sync", None
    rig.run(7)
    assert rig.runtime.mode is infra.InferenceMode.SYNC and rig.sent[3:] == list(range(7))


def test_a_changed_rate_builds_another_controller() -> None:
    runtime = infra.InferenceRuntime("sync", control_hz=50.0)
    assert runtime.realtime_controller is not None and runtime.realtime_controller.hz == 50.0
    runtime.control_hz = 1e5
    infra.run_step(frame={"images": {}, "state": {}}, act_fn=str, act_src_fn=Counting().infer, runtime=runtime)
    assert runtime.realtime_controller.hz == 1e5


def test_the_options_of_the_interface() -> None:
    runtime = infra.InferenceRuntime(infra.InferenceMode.ASYNC)
    assert (runtime.profile, runtime.profile_output_dir, runtime.steps_before_request) == (False, None, 0)
    assert (runtime.execution_steps, runtime.warmup_requests, runtime.profile_delay_requests) == (None, 1, 3)
    assert (runtime.interpolation_steps, runtime.ensemble_weight, runtime.control_hz) == (0, None, None)
    assert (runtime.enable_rtc, runtime.slow_rtc_bootstrap, runtime.latency_steps_offset) == (False, "warn", 0)
    assert (runtime.validation, runtime.realtime_controller) == ("startup", None)
    assert infra.InferenceRuntime.async_realtime(control_hz=50.0).warmup_requests == 3
    assert "steps_before_request=0" in repr(runtime)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "both"},
        {"steps_before_request": -1},
        {"steps_before_request": True},
        {"warmup_requests": 1.5},
        {"execution_steps": 0},
        {"enable_rtc": True},
        {"enable_rtc": 1, "execution_steps": 2},
        {"ensemble_weight": 1.1},
        {"ensemble_weight": True},
        {"ensemble_weight": (0.8, 0.2)},
        {"ensemble_weight": (0.1, 0.2, 0.3)},
        {"ensemble_weight": "half"},
        {"control_hz": 0.0},
        {"control_hz": float("inf")},
        {"control_hz": 50.0, "realtime_controller": infra.RealtimeController(hz=50.0)},
        {"slow_rtc_bootstrap": "ask"},
        {"latency_steps_offset": 0.5},
        {"validation": "never"},
        {"inference_timeout_s": 0.0},
        {"on_error": "ignore"},
        {"worker": 3},
        {"profile": True, "mode": "sync"},
    ],
)
def test_an_option_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(infra.InterfaceValidationError):
        infra.InferenceRuntime(**{"mode": "async", **wrong})


def test_a_worker_that_there_is_none_of_is_refused_by_name() -> None:
    with pytest.raises(
        infra.InterfaceValidationError, match=r"worker must be one of .*'inline'.*'thread'.*got 'proces'"
    ):
        infra.InferenceRuntime("async", worker="proces")


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        infra.InferenceRuntime("async", speed=1)


def test_async_in_line_is_possible() -> None:
    rig = Rig(worker="inline")
    rig.run(20)
    assert rig.sent == list(range(20)) and rig.policy.steps[:3] == [0, 1, 2]


# ── validation ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("level", "first", "later"), [("always", 1, 1), ("startup", 1, 0), ("off", 0, 0)])
def test_how_long_frames_are_checked(level: str, first: int, later: int) -> None:
    rig = Rig(validation=level)
    good, bad = rig.observe, lambda: infra.Frame(state={"arm": np.array([np.nan, 0])})

    def refused() -> int:
        rig.observe = bad  # type: ignore[method-assign]
        try:
            rig.run()
        except infra.InterfaceValidationError:
            return 1
        finally:
            rig.observe = good  # type: ignore[method-assign]
        return 0

    assert refused() == first
    rig.run(3)
    assert refused() == later


@pytest.mark.parametrize("level", ["always", "startup", "off"])
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_nan_never_reaches_the_robot(level: str, mode: str) -> None:
    policy = Counting(6)
    policy.trouble = lambda request: [action(0), action(np.nan)] if request.request_step > 0 else None
    rig = Rig(policy, mode=mode, delay=2, validation=level)
    results = rig.run(12)
    assert np.isfinite(rig.sent).all() and len(rig.sent) == 12
    assert any("nan" in str(result.error) for result in results)


def test_ids_and_capture_times_come_through() -> None:
    rig = Rig()
    seen = infra.Frame(timestamp_ns=5, sequence_id=8)
    result = infra.run_step(frame=seen, act_fn=rig.act, act_src_fn=rig.policy.infer, runtime=rig.runtime)
    assert result.frame is seen and (seen.timestamp_ns, seen.sequence_id) == (5, 8)
    assert [item.frame.sequence_id for item in rig.run(3)] == [0, 1, 2]


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────


def failing(*numbers: int, error: BaseException | None = None, answer: Any = None) -> Counting:
    """Requests of these numbers fail."""
    policy = Counting(10)

    def trouble(request: infra.ChunkRequest) -> Any:
        if request.id not in numbers:
            return None
        if error is not None:
            raise error
        return answer

    policy.trouble = trouble
    return policy


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_the_first_inference_failing_raises_and_can_be_tried_again(mode: str) -> None:
    cause = OSError("out of memory")
    policy = failing(-1, error=cause)
    rig = Rig(policy, mode=mode)
    with pytest.raises(infra.PolicyFailed, match=r"Counting.infer\(\) raised OSError: out of memory") as caught:
        rig.run()
    assert caught.value.__cause__ is cause and rig.told == []
    policy.trouble = lambda request: None
    rig.run(3)
    assert rig.sent == [0, 1, 2]


def test_one_policy_exception_does_not_poison_async() -> None:
    cause = OSError("gpu")
    rig = Rig(failing(2, error=cause), delay=3)
    results = rig.run(40)
    errors = [(k, result.error) for k, result in enumerate(results) if result.error is not None]
    assert len(errors) == 1 and isinstance(errors[0][1], infra.PolicyFailed) and errors[0][1].__cause__ is cause
    assert rig.sent == list(range(40))  # the plan reached over it


def test_while_the_policy_fails_the_plan_runs_and_then_the_hold() -> None:
    rig = Rig(failing(*range(1, 8), error=OSError("gpu")), delay=2)
    results = rig.run(40)
    sources = [result.source for result in results]
    assert "hold" in sources and sources[-1] == "chunk"
    held = [value for value, source in zip(rig.sent, sources, strict=True) if source == "hold"]
    assert len(set(held)) == 1 and all(r.underrun == (r.source == "hold") for r in results)
    assert rig.sent[-1] == 39


def test_a_driver_may_write_to_a_hold_as_to_any_action() -> None:
    rig = Rig(failing(*range(99), error=OSError("gpu")), delay=2)

    def shift(sent: infra.Action) -> None:
        sent.commands["arm"].value += 100
        rig.told.append(sent)

    rig.act = shift  # type: ignore[method-assign,assignment]
    assert rig.run(14)[-1].underrun
    assert rig.sent[10:] == [109] * 4


def test_holding_deltas_is_standing_still() -> None:
    policy = failing(*range(99), error=OSError("gpu"))
    policy.kind = "joint_position_delta"
    rig = Rig(policy, delay=2)
    rig.run(14)
    assert rig.sent[10:] == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_after_ctrl_c_in_the_policy_the_loop_can_go_on(mode: str) -> None:
    policy = failing(1, error=KeyboardInterrupt())
    rig = Rig(policy, mode=mode, worker="inline")
    interrupted = 0
    for _ in range(30):
        try:
            rig.run()
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted == 1 and len(rig.told) == 29 and rig.results[-1].source == "chunk"


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_on_error_raise_raises_after_the_step_was_carried_out(mode: str) -> None:
    rig = Rig(failing(1, error=OSError("gpu")), mode=mode, delay=2, on_error="raise")
    raised = 0
    for _ in range(30):
        try:
            rig.run()
        except infra.PolicyFailed:
            raised += 1
            rig.now += 1
    assert raised == 1 and len(rig.told) == 30


@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize(
    "answer", ["open", 3, [], ["x"], np.zeros(2), [action(1), infra.Action({})], [action(np.inf)], {"arm": 1}]
)
def test_garbage_at_call_n_is_an_error_on_the_result(mode: str, answer: Any) -> None:
    rig = Rig(failing(1, answer=answer), mode=mode, delay=2)
    results = rig.run(40)
    errors = [result.error for result in results if result.error is not None]
    assert len(errors) == 1 and isinstance(errors[0], infra.PolicyFailed) and "Counting.infer()" in str(errors[0])
    assert len(rig.told) == 40 and results[-1].source == "chunk"


def test_other_components_inside_a_stream_are_a_fault() -> None:
    other = [infra.Action({"leg": infra.Command("joint_position", [0.0])})] * 5
    rig = Rig(failing(1, answer=other), delay=2)
    results = rig.run(20)
    assert sum("leg" in str(result.error) for result in results) == 1 and rig.sent == list(range(20))


def test_after_a_reset_there_may_be_other_components() -> None:
    rig = Rig(delay=2)
    rig.run(4)
    rig.runtime.reset()
    rig.policy.trouble = lambda request: [infra.Action({"leg": infra.Command("joint_position", [0.0])})] * 5
    assert list(rig.run()[0].action.commands) == ["leg"]


def test_an_answer_that_is_wholly_late_is_a_fault_and_no_failure() -> None:
    rig = Rig(Counting(5), delay=8, on_error="raise")
    results = rig.run(30)
    assert any(fault.kind is FaultKind.EXPIRED for result in results for fault in result.faults)
    assert len(rig.told) == 30


def test_a_robot_that_fails_is_said_and_the_next_step_goes_on() -> None:
    rig = Rig(delay=3)
    rig.run(5)

    def broken(sent: infra.Action) -> None:
        raise OSError("bus error")

    good, rig.act = rig.act, broken  # type: ignore[method-assign]
    with pytest.raises(infra.RobotFailed, match=r"broken\(\) raised OSError: bus error") as caught:
        rig.run()
    assert isinstance(caught.value.__cause__, OSError)
    rig.act, rig.now = good, rig.now + 1  # type: ignore[method-assign]
    rig.run(10)
    assert rig.sent == [0, 1, 2, 3, 4, *range(6, 16)]


def test_where_holding_means_nothing_the_robot_is_not_called() -> None:
    policy = failing(*range(99), error=OSError("gpu"))
    lamps = [infra.Action({"lamp": infra.Command("custom:lamp", [1.0])})] * 3
    good = policy.trouble
    policy.trouble = lambda request: lamps if request.id < 0 else good(request)
    rig = Rig(policy, delay=1)
    results = rig.run(6)
    assert len(rig.told) == 3 and results[-1].underrun and results[-1].action.commands == {}


# ── time-outs ────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_that_does_not_come_is_given_up_and_asked_for_again() -> None:
    rig = Rig(
        Counting(12), delay=None, hz=50.0, inference_timeout_s=0.1, warmup_requests=0, profile_delay_requests=0
    )
    results = rig.run(20)
    errors = [k for k, result in enumerate(results) if isinstance(result.error, infra.PolicyTimedOut)]
    assert errors == [7, 13, 19]  # asked at 1, 7, 13; the sixth period is the first over 0.1 s
    assert results[-1].underrun and len(rig.told) == 20
    rig.delay = 2
    assert rig.run(10)[-1].source == "chunk"


class Hanging(Counting):
    """Hangs where `trouble` says so, until it is released."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(12)
        self.entered, self.release = threading.Semaphore(0), threading.Event()
        self.hangs = set(numbers)
        self.trouble = self.hang

    def hang(self, request: infra.ChunkRequest) -> None:
        if request.id in self.hangs:
            self.entered.release()
            assert self.release.wait(LONG_S)


def threaded(policy: Counting, **options: Any) -> tuple[Rig, list[Any]]:
    """A rig with real threads; its workers."""
    made: list[Any] = []

    def worker(infer: Infer) -> Any:
        made.append(load("workers", "thread")(infer))
        return made[-1]

    return Rig(policy, hz=50.0, worker=worker, warmup_requests=0, profile_delay_requests=0, **options), made


def inference_threads() -> int:
    return sum(thread.name == "chunkwise-inference" for thread in threading.enumerate())


def test_a_hanging_policy_does_not_stop_the_loop() -> None:
    policy = Hanging(1)
    rig, made = threaded(policy, inference_timeout_s=0.1)
    rig.run(2)
    assert policy.entered.acquire(timeout=LONG_S)
    results = rig.run(18)
    assert len(rig.told) == 20
    assert [type(r.error) for r in results if r.error is not None][:1] == [infra.PolicyTimedOut]
    assert made[0].wait(LONG_S)  # a new thread has answered the request after it
    assert rig.run(2)[-1].source == "chunk"
    policy.release.set()
    rig.runtime.close()


def test_a_hanging_policy_is_given_up_in_async_also_where_nobody_set_a_time() -> None:
    policy = Hanging(1)
    rig, made = threaded(policy)
    rig.run(2)
    assert policy.entered.acquire(timeout=LONG_S)
    period_s = rig.runtime.realtime_controller.period_s
    results = rig.run(math.ceil(HANGS_S / period_s) + 4)
    assert infra.PolicyTimedOut in [type(r.error) for r in results]
    assert made[0].wait(LONG_S)
    assert rig.run(2)[-1].source == "chunk"
    policy.release.set()
    rig.runtime.close()


def test_a_time_out_for_what_runs_in_the_step_is_refused() -> None:
    with pytest.raises(infra.InterfaceValidationError, match="needs another worker"):
        infra.InferenceRuntime(mode="sync", worker="inline", inference_timeout_s=1.0)


def test_threads_that_hang_are_bounded() -> None:
    policy = Hanging(*range(99))
    rig, _ = threaded(policy, inference_timeout_s=0.1)
    before = inference_threads()
    rig.run(2)
    for _ in range(policy_calls.MAX_HANGING):  # asked every six steps: five are 0.1 s
        assert policy.entered.acquire(timeout=LONG_S)
        rig.run(6)
    rig.run(70)
    assert inference_threads() - before <= policy_calls.MAX_HANGING + 1
    assert len(rig.told) == 72 + 6 * policy_calls.MAX_HANGING
    policy.hangs.clear()
    policy.release.set()
    rig.runtime.close()


def test_a_policy_that_hangs_from_the_start_is_given_up() -> None:
    policy = Hanging(-1)
    rig, _ = threaded(policy, inference_timeout_s=0.01)
    with pytest.raises(infra.PolicyTimedOut, match=r"Hanging.infer\(\) did not answer within 0.01 s"):
        rig.run()
    policy.hangs.clear()
    rig.runtime.inference_timeout_s = LONG_S
    rig.run(2)
    policy.release.set()
    assert rig.sent == [0, 1]
    rig.runtime.close()


def test_a_policy_that_always_hangs_at_the_start_does_not_pile_up_threads() -> None:
    policy = Hanging(-1)
    rig, _ = threaded(policy, inference_timeout_s=0.001)
    before = inference_threads()
    for _ in range(20):
        with pytest.raises(infra.PolicyTimedOut):
            rig.run()
    assert inference_threads() - before <= policy_calls.MAX_HANGING
    policy.release.set()


def test_sync_gives_up_in_time_and_holds() -> None:
    policy = Hanging(1)
    rig = Rig(policy, mode="sync", inference_timeout_s=0.01)
    results = rig.run(13)
    assert isinstance(results[12].error, infra.PolicyTimedOut) and results[12].source == "wait"
    policy.release.set()
    rig.runtime.inference_timeout_s = LONG_S
    assert rig.run()[0].source == "chunk"
    rig.runtime.close()


def test_a_time_out_that_is_set_later_holds_for_sync_too() -> None:
    policy = Hanging(-1)
    policy.hangs.clear()
    rig = Rig(policy, mode="sync")
    rig.run()
    policy.hangs, rig.runtime.inference_timeout_s = {-1}, 0.01
    with pytest.raises(infra.PolicyTimedOut):
        rig.run()
    policy.release.set()


@pytest.mark.parametrize("way", ["reset", "close"])
def test_reset_and_close_wait_for_a_running_inference(way: str) -> None:
    policy = Hanging(1)
    rig, _ = threaded(policy)
    rig.run(2)
    assert policy.entered.acquire(timeout=LONG_S)
    done = threading.Event()
    caller = threading.Thread(target=lambda: (getattr(rig.runtime, way)(), done.set()))
    caller.start()
    assert not done.wait(0.05)
    policy.release.set()
    assert done.wait(LONG_S)
    caller.join(LONG_S)


@pytest.mark.slow
def test_the_wait_of_reset_and_close_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_calls, "CLOSE_WAIT_S", 0.01)
    policy = Hanging(1)
    rig, made = threaded(policy)
    rig.run(2)
    assert policy.entered.acquire(timeout=LONG_S)
    rig.runtime.reset()
    policy.release.set()
    rig.run(2)
    assert len(made) == 2 and rig.sent == [0, 1, 0, 1]  # what the hung call answers belongs to nobody
    rig.runtime.close()


def test_with_a_thread_what_is_sent_at_step_k_is_k() -> None:
    rig, made = threaded(Counting(12))
    rig.run(2)
    for _ in range(58):
        assert made[0].wait(LONG_S)
        rig.run()
    assert rig.sent == list(range(60))
    rig.runtime.close()


# ── profile ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_profiled_run_is_written_when_it_closes(tmp_path: Any) -> None:
    rig = Rig(delay=3, hz=50.0, profile=True, profile_output_dir=tmp_path)
    with rig.runtime:
        rig.run(20)
        rig.runtime.reset()
        rig.run(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runtime_profile.html", "runtime_profile.json"]


def test_the_pause_between_steps_is_on_the_result() -> None:
    rig = Rig(hz=50.0, warmup_requests=0, profile_delay_requests=0)
    assert [round(result.control_wait_s, 9) for result in rig.run(3)] == [0.02] * 3
    result = infra.run_step(
        frame=rig.observe(), act_fn=rig.act, act_src_fn=rig.policy.infer, runtime=rig.runtime, pace_control=False
    )
    assert result.control_wait_s == 0


def test_the_times_of_a_profile_are_on_the_loops_clock(tmp_path: Any) -> None:
    rig = Rig(delay=3, hz=50.0, profile=True, profile_output_dir=tmp_path)
    with rig.runtime:
        rig.run(20)
    made = json.loads((tmp_path / "runtime_profile.json").read_text())
    times = [request["accept_time_s"] for request in made["requests"]] + [
        s["time_s"] for s in made["action_steps"]
    ]
    assert all(time is None or 0 <= time <= rig.clock() for time in times)
