"""Profile and recommend, on clocks that only the policy moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import Action, ChunkRequest, Command, Frame, InterfaceValidationError, PolicyFailed
from chunkwise.runtime.buffering import async_buffer_trace
from chunkwise.runtime.inference import InferenceMode
from chunkwise.runtime.profiling import profile_sync_inference, recommend_inference_mode, robust_mean
from chunkwise.testing.world import SimulatedClock


class World:
    """A robot and a policy whose calls take simulated time."""

    def __init__(self, *times_s: float, actions: int = 30, observe_s: float = 0.001, act_s: float = 0.001) -> None:
        self.clock = SimulatedClock(5.0)
        self.times_s, self.actions = times_s, actions
        self.observe_s, self.act_s = observe_s, act_s
        self.acted = self.inferred = self.read = 0

    def observe(self) -> Frame:
        self.clock.sleep(self.observe_s)
        return Frame(state={"arm": np.zeros(2)})

    def infer(self, frame: Frame, request: ChunkRequest) -> list[Action]:
        self.clock.sleep(self.times_s[min(self.inferred, len(self.times_s) - 1)])
        self.inferred += 1
        return [Action({"arm": Command("joint_position", np.zeros(2))}) for _ in range(self.actions)]

    def act(self, action: Action) -> None:
        self.clock.sleep(self.act_s)
        self.acted += 1

    def time(self) -> float:
        self.read += 1
        return self.clock()

    def arguments(self, target_hz: float = 50.0, **options: Any) -> dict[str, Any]:
        functions = {"observe_fn": self.observe, "act_fn": self.act, "act_src_fn": self.infer, "clock": self.time}
        return {**functions, "target_hz": target_hz, **options}


def test_estimates_and_the_chunk_rule() -> None:
    world = World(0.9, 0.040)
    profile = profile_sync_inference(**world.arguments())
    assert (profile.steps, world.inferred, world.acted) == (5, 5, 0)
    assert world.read == 4 * 5, "four clock reads a step"
    assert profile.estimated_inference_time_s == pytest.approx(0.040), "the start-up is left out"
    assert profile.estimated_step_time_s == pytest.approx(0.041)
    assert profile.estimated_control_hz == pytest.approx(1 / 0.041)
    assert profile.target_period_s == 0.02
    assert profile.estimated_latency_steps == 2 + 1, "two periods, and one to spare"
    assert profile.estimated_chunk_steps == 30
    assert profile.required_chunk_steps == 6
    assert profile.chunk_rule_holds is True
    assert profile.estimated_max_buffered_hz == pytest.approx((30 // 2 - 1) / 0.040)
    assert profile.async_buffer_trace is not None
    assert not profile.async_buffer_trace.underrun


def test_acting_counts_where_it_is_asked_for() -> None:
    world = World(0.010, act_s=0.005)
    profile = profile_sync_inference(**world.arguments(execute_action=True, stable_inference_sample_count=2))
    assert world.acted == profile.steps == 3
    assert profile.estimated_step_time_s == pytest.approx(0.016)


@pytest.mark.parametrize(
    ("inference_s", "actions", "mode", "holds", "words"),
    [
        (0.010, 30, InferenceMode.SYNC, True, "a step takes 11 ms, which fits into the 20 ms of 50 Hz"),
        (0.010, 1, InferenceMode.SYNC, False, "fits into"),
        (0.040, 30, InferenceMode.ASYNC, True, "This holds up to 350 Hz"),
        (0.040, 4, InferenceMode.ASYNC, False, "answer 6 rows or more; run at 25 Hz or slower"),
        (0.040, 1, InferenceMode.SYNC, False, "cannot be buffered: expect 24.4 Hz, or answer chunks"),
        (0.0, 30, InferenceMode.ASYNC, None, "no step took measurable time"),
        (0.0, 1, InferenceMode.SYNC, None, "no step took measurable time"),
    ],
)
def test_recommendations(
    inference_s: float, actions: int, mode: InferenceMode, holds: bool | None, words: str
) -> None:
    world = World(inference_s, actions=actions, observe_s=0.001 if inference_s else 0.0)
    verdict = recommend_inference_mode(**world.arguments())
    assert verdict.recommended_mode is mode
    assert verdict.async_supported is (actions > 1)
    assert verdict.sync_expected_to_meet_target is (inference_s == 0.010)
    assert verdict.chunk_rule_holds is holds
    assert words in verdict.reason


def test_a_failing_rule_says_what_happens_and_what_to_change() -> None:
    short = profile_sync_inference(**World(0.040, actions=4).arguments())
    assert short.chunk_rule_holds is False
    assert short.async_buffer_trace is not None
    assert short.async_buffer_trace.underrun
    assert "H >= 2d + steps_before_request = 6 + 0 = 6 is needed" in short.advice
    assert "the plan will run dry, and the robot hold in about" in short.advice
    assert "bring an inference down to 20 ms" in short.advice
    late = profile_sync_inference(**World(0.040).arguments(steps_before_request=28))
    assert late.required_chunk_steps == 34
    assert late.chunk_rule_holds is False
    assert "set steps_before_request to 24 or less" in late.advice
    assert "requests will go out earlier than 28 steps after an arrival" in late.advice


@given(
    inference_s=st.floats(0.001, 0.5),
    actions=st.integers(2, 60),
    before=st.integers(0, 10),
    margin=st.integers(0, 3),
    hz=st.sampled_from([10.0, 30.0, 50.0, 200.0]),
)
def test_the_rule_the_highest_rate_and_the_scheduler_agree(
    inference_s: float, actions: int, before: int, margin: int, hz: float
) -> None:
    world = World(inference_s, actions=actions)
    options = {"steps_before_request": before, "safety_margin_steps": margin}
    profile = profile_sync_inference(**world.arguments(hz, **options))
    highest, trace = profile.estimated_max_buffered_hz, profile.async_buffer_trace
    assert highest is not None
    assert trace is not None
    if abs(highest - hz) > 1e-6 * hz:
        assert profile.chunk_rule_holds is (hz < highest)
    if profile.chunk_rule_holds:
        assert not trace.underrun, "a chunk that carries the latency never runs dry"
    if actions < 2 * trace.latency_steps:
        assert trace.underrun, "a chunk shorter than two latencies runs dry, however early it is asked for"


def test_the_trace_is_the_schedulers() -> None:
    trace = async_buffer_trace(latency_steps=3, chunk_steps=8, steps_before_request=1)
    assert [request.arrival_step - request.request_step for request in trace.requests] == [3] * len(trace.requests)
    assert [request.dropped_rows for request in trace.requests[:3]] == [0, 3, 3]
    assert [request.request_step for request in trace.requests[:4]] == [0, 4, 8, 12]
    assert [(step.step, step.chunk, step.row) for step in trace.steps[:6]] == [
        *[(3, 0, 0), (4, 0, 1), (5, 0, 2), (6, 0, 3)],
        *[(7, 1, 3), (8, 1, 4)],
    ]
    assert [step.buffered_rows for step in trace.steps[:5]] == [8, 7, 6, 5, 5]
    lost = async_buffer_trace(latency_steps=8, chunk_steps=8)
    assert all(request.dropped_rows == 8 for request in lost.requests[1:])
    assert lost.underrun_steps == len(lost.steps) - 8, "every later answer is past when it arrives"


def test_files(tmp_path: Path) -> None:
    world = World(0.040)
    path = tmp_path / "made" / "profile.json"
    profile = profile_sync_inference(**world.arguments(output_path=path))
    written = json.loads(path.read_text())
    assert written == json.loads(json.dumps(profile.to_dict()))
    assert "async_buffer_trace" not in written
    assert written["estimated_chunk_steps"] == 30
    assert len(written["samples"]) == 5
    traced = json.loads(profile.write_json(path, include_trace=True).read_text())
    trace = json.loads(profile.write_async_buffer_trace_json(tmp_path / "trace.json").read_text())
    assert traced["async_buffer_trace"] == trace
    assert trace["underrun"] is False
    assert trace["steps"][0]["step"] == 3
    verdict = recommend_inference_mode(**world.arguments())
    assert json.loads(verdict.write_json(path).read_text())["recommended_mode"] == "async"
    single = profile_sync_inference(**World(0.040, actions=1).arguments())
    with pytest.raises(InterfaceValidationError, match="no trace"):
        single.write_async_buffer_trace_json(tmp_path / "none.json")


def test_every_inference_is_told_as_it_is_measured() -> None:
    told: list[dict[str, Any]] = []
    profile_sync_inference(**World(0.2, 0.040).arguments(request_log_fn=told.append))
    assert [item["index"] for item in told] == [0, 1, 2, 3, 4]
    assert [item["startup"] for item in told] == [True, False, False, False, False]
    assert told[0]["inference_time_s"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_hz": 0.0},
        {"target_hz": float("inf")},
        {"target_hz": True},
        {"stable_inference_sample_count": 0},
        {"startup_ignore_inference_samples": -1},
        {"timing_window_size": 0},
        {"timing_trim_ratio": 0.5},
        {"steps_before_request": 1.5},
        {"safety_margin_steps": -1},
        {"act_src_fn": None},
    ],
)
@pytest.mark.parametrize("function", [profile_sync_inference, recommend_inference_mode])
def test_wrong_arguments_are_refused_before_anything_runs(
    function: Callable[..., Any], wrong: dict[str, Any]
) -> None:
    world = World(0.040)
    with pytest.raises(InterfaceValidationError):
        function(**{**world.arguments(), **wrong})
    assert world.inferred == 0


def test_a_policy_that_raises_says_so() -> None:
    def infer(frame: Frame, request: ChunkRequest) -> Action:
        raise RuntimeError("no weights")

    with pytest.raises(PolicyFailed, match="RuntimeError: no weights"):
        profile_sync_inference(**World().arguments(act_src_fn=infer))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([], None),
        ([0.0, -1.0], None),
        ([2.0], 2.0),
        ([2.0, 4.0], 3.0),
        ([0.0, 1.0, 2.0, 30.0], 1.5),
        ([1.0, 1.0, 1.0, 1.0, 9.0], 1.0),
        ([1.0, 2.0, 3.0], 2.0),
    ],
)
def test_robust_mean(values: list[float], mean: float | None) -> None:
    assert robust_mean(values) == mean
