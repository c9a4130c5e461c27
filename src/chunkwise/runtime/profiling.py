"""How long a policy takes, measured in the plain loop, and whether its chunks carry that at a given rate."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chunkwise.contract import ChunkRequest, InterfaceValidationError
from chunkwise.runtime.buffering import AsyncBufferTrace, async_buffer_trace, chunk_rule
from chunkwise.runtime.checks import count_rows
from chunkwise.runtime.inference import InferenceMode
from chunkwise.runtime.step import Act, ActionSource, Observe, act, as_actions, call_policy, take_frame

SLACK = 1e-9
"""Rounding of clock differences, in periods: 40 ms in periods of 20 ms are 2, not 3."""


@dataclass(slots=True, frozen=True)
class SyncStep:
    """One measured step of the plain loop.

    Attributes:
        step_time_s: observe, infer and, where asked for, act.
        inference_time_s: the policy alone.
        chunk_steps: rows in its answer.
        startup: counts as start-up; its inference is left out of the estimates.
    """

    step_time_s: float
    inference_time_s: float
    chunk_steps: int
    startup: bool


@dataclass(slots=True, frozen=True)
class SyncInferenceProfile:
    """What the plain loop (observe, infer, act) measured, and what follows for asynchronous execution.

    Estimates are robust means: outliers beyond 3.5 scaled median deviations go, then a share at either end.
    None where nothing was measured.

    Attributes:
        target_hz, target_period_s: the rate that is wanted.
        steps: steps measured.
        execute_action: whether they acted.
        startup_ignored_inference_samples, stable_inference_sample_count: how `steps` is made up.
        estimated_step_time_s, estimated_inference_time_s: a whole step; the policy alone.
        estimated_control_hz: what the plain loop reaches, one inference per step.
        estimated_latency_steps: control periods per inference, rounded up, and the safety margin (``d``).
        estimated_chunk_steps: rows in a chunk (``H``).
        estimated_max_buffered_hz: the highest rate at which the plan never runs dry: the largest for which
            ``H >= 2d + steps_before_request`` holds; 0 where it holds at none.  (The inferaxis interface puts
            the chunk's length over the inference time here, which is twice as much or more: a chunk is
            already ``d`` rows old when it arrives, and has to last for another ``d``.)
        steps_before_request: steps between a chunk's arrival and the next request.
        required_chunk_steps: the shortest chunk that carries the latency, ``2d + steps_before_request``.
        chunk_rule_holds: whether the chunks are that long.
        advice: the rule with these numbers, and what to change where it fails.
        async_buffer_trace: simulated asynchronous execution; None for single actions.
        samples: the measured steps, in order.
    """

    target_hz: float
    target_period_s: float
    steps: int
    execute_action: bool
    startup_ignored_inference_samples: int
    stable_inference_sample_count: int
    estimated_step_time_s: float | None
    estimated_inference_time_s: float | None
    estimated_control_hz: float | None
    estimated_latency_steps: int | None
    estimated_chunk_steps: int | None
    estimated_max_buffered_hz: float | None
    steps_before_request: int
    required_chunk_steps: int | None
    chunk_rule_holds: bool | None
    advice: str
    async_buffer_trace: AsyncBufferTrace | None
    samples: tuple[SyncStep, ...]

    def to_dict(self, include_trace: bool = False) -> dict[str, Any]:
        """Plain values, ready for JSON; the trace only where asked for."""
        trace = self.async_buffer_trace
        made = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("async_buffer_trace", "samples")
        }
        made["samples"] = [asdict(sample) for sample in self.samples]
        if include_trace:
            made["async_buffer_trace"] = trace.to_dict() if trace is not None else None
        return made

    def write_json(self, path: str | Path, *, include_trace: bool = False) -> Path:
        """Write :meth:`to_dict`; the folder is made where there is none."""
        return _write(path, self.to_dict(include_trace))

    def write_async_buffer_trace_json(self, path: str | Path) -> Path:
        """Write the trace.

        Raises:
            InterfaceValidationError: there is none, because the policy answers single actions.
        """
        if self.async_buffer_trace is None:
            raise InterfaceValidationError("no trace: only chunks of more than one action are buffered")
        return _write(path, self.async_buffer_trace.to_dict())


@dataclass(slots=True, frozen=True)
class InferenceModeRecommendation:
    """Which mode to run in, and why.

    Attributes:
        target_hz, target_period_s: the rate that is wanted.
        async_supported: the policy answers chunks of more than one action.
        sync_expected_to_meet_target: one inference per step fits into a period.
        recommended_mode: ``InferenceMode.SYNC`` or ``ASYNC``.
        reason: for people, with the numbers and, where the plan would run dry, what to change.
        profile: what was measured.
    """

    target_hz: float
    target_period_s: float
    async_supported: bool
    sync_expected_to_meet_target: bool
    recommended_mode: InferenceMode
    reason: str
    profile: SyncInferenceProfile

    @property
    def chunk_rule_holds(self) -> bool | None:
        """Whether asynchronous execution would never run dry: ``H >= 2d + steps_before_request``."""
        return self.profile.chunk_rule_holds

    def to_dict(self, include_trace: bool = False) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        made = {name: getattr(self, name) for name in self.__slots__ if name != "profile"}
        made["recommended_mode"] = str(self.recommended_mode)
        made["chunk_rule_holds"] = self.chunk_rule_holds
        made["profile"] = self.profile.to_dict(include_trace)
        return made

    def write_json(self, path: str | Path, *, include_trace: bool = False) -> Path:
        """Write :meth:`to_dict`; the folder is made where there is none."""
        return _write(path, self.to_dict(include_trace))


def profile_sync_inference(
    *,
    observe_fn: Observe,
    target_hz: float,
    act_fn: Act | None = None,
    act_src_fn: ActionSource | None = None,
    execute_action: bool = False,
    startup_ignore_inference_samples: int = 1,
    stable_inference_sample_count: int = 4,
    timing_window_size: int = 64,
    timing_trim_ratio: float = 0.1,
    steps_before_request: int = 0,
    safety_margin_steps: int = 1,
    output_path: str | Path | None = None,
    request_log_fn: Callable[[dict[str, Any]], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> SyncInferenceProfile:
    """Measure the plain loop for a few steps, unpaced.

    Args:
        observe_fn, act_fn, act_src_fn: as for ``run_step``.
        target_hz: control steps per second that are wanted.
        execute_action: act in every step; False only observes and infers.
        startup_ignore_inference_samples: first inferences that the estimates leave out.
        stable_inference_sample_count: inferences after them.
        timing_window_size: newest samples that count.
        timing_trim_ratio: share cut off at either end, in [0, 0.5).
        steps_before_request: steps between a chunk's arrival and the next request.
        safety_margin_steps: added to the latency.
        output_path: where the profile is written as JSON.
        request_log_fn: told about every inference as soon as it is measured: ``index`` and the fields of
            :class:`SyncStep`.
        clock: seconds; read four times a step, around the step and around the inference.

    Raises:
        InterfaceValidationError: an argument, a frame or an answer is wrong.
        PolicyFailed, RobotFailed: one of the functions raised.
    """
    _check_counts(target_hz, timing_trim_ratio, startup_ignore_inference_samples, steps_before_request)
    _check_counts(target_hz, 0.0, safety_margin_steps, stable_inference_sample_count - 1, timing_window_size - 1)
    if act_src_fn is None:
        raise InterfaceValidationError("profiling requires act_src_fn=...")
    samples: list[SyncStep] = []
    for index in range(startup_ignore_inference_samples + stable_inference_sample_count):
        began = clock()
        frame = take_frame(None, observe_fn, getattr(observe_fn, "__self__", observe_fn))
        request = ChunkRequest(index, request_time_s=began)
        asked = clock()
        answer = call_policy(act_src_fn, frame, request)
        answered = clock()
        rows = count_rows(answer)
        if execute_action:
            act(act_fn, as_actions(answer)[0])
        startup = index < startup_ignore_inference_samples
        samples.append(SyncStep(clock() - began, answered - asked, rows, startup))
        if request_log_fn is not None:
            request_log_fn({"index": index, **asdict(samples[-1])})
    stable = [sample for sample in samples if not sample.startup]

    def estimate(values: Sequence[float]) -> float | None:
        return robust_mean(values[-timing_window_size:], timing_trim_ratio)

    profile = _conclude(
        target_hz=float(target_hz),
        step_s=estimate([sample.step_time_s for sample in samples]),
        inference_s=estimate([sample.inference_time_s for sample in stable]),
        chunk=estimate([sample.chunk_steps for sample in stable]),
        steps_before_request=steps_before_request,
        margin=safety_margin_steps,
        execute_action=execute_action,
        samples=samples,
    )
    if output_path is not None:
        profile.write_json(output_path)
    return profile


def recommend_inference_mode(
    *,
    observe_fn: Observe,
    target_hz: float,
    act_fn: Act | None = None,
    act_src_fn: ActionSource | None = None,
    execute_action: bool = False,
    startup_ignore_inference_samples: int = 1,
    stable_inference_sample_count: int = 4,
    timing_window_size: int = 64,
    timing_trim_ratio: float = 0.1,
    steps_before_request: int = 0,
    safety_margin_steps: int = 1,
    output_path: str | Path | None = None,
    request_log_fn: Callable[[dict[str, Any]], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> InferenceModeRecommendation:
    """Profile with the same arguments, and say which mode to run in.

    SYNC where one inference per step fits into the period; else ASYNC where the policy answers chunks.  The
    reason says whether the chunks carry the latency, ``H >= 2d + steps_before_request``, and what to change
    where they do not.

    Raises:
        InterfaceValidationError: as :func:`profile_sync_inference`.
    """
    profile = profile_sync_inference(
        observe_fn=observe_fn,
        target_hz=target_hz,
        act_fn=act_fn,
        act_src_fn=act_src_fn,
        execute_action=execute_action,
        startup_ignore_inference_samples=startup_ignore_inference_samples,
        stable_inference_sample_count=stable_inference_sample_count,
        timing_window_size=timing_window_size,
        timing_trim_ratio=timing_trim_ratio,
        steps_before_request=steps_before_request,
        safety_margin_steps=safety_margin_steps,
        output_path=output_path,
        request_log_fn=request_log_fn,
        clock=clock,
    )
    return recommendation(profile)


def recommendation(profile: SyncInferenceProfile) -> InferenceModeRecommendation:
    """The mode that a profile speaks for."""
    hz, period_s, step_s = profile.target_hz, profile.target_period_s, profile.estimated_step_time_s
    chunked = (profile.estimated_chunk_steps or 1) > 1
    in_time = step_s is not None and step_s <= period_s * (1 + SLACK)
    mode = InferenceMode.ASYNC if chunked and not in_time else InferenceMode.SYNC
    if step_s is None:
        reason = "no step took measurable time" + ("; the policy answers chunks" if chunked else "")
    else:
        fits = "fits into" if in_time else "is longer than"
        reason = f"a step takes {1e3 * step_s:.3g} ms, which {fits} the {1e3 * period_s:.3g} ms of {hz:g} Hz"
    if mode is InferenceMode.ASYNC:
        reason += f". {profile.advice}"
    elif step_s is not None and not in_time:
        reason += (
            f", and the policy answers single actions, which cannot be buffered: expect {1 / step_s:.3g} Hz, or "
            "answer chunks"
        )
    return InferenceModeRecommendation(hz, period_s, chunked, in_time, mode, reason, profile)


def robust_mean(values: Sequence[float], trim_ratio: float = 0.1) -> float | None:
    """The mean without outliers and without the ends; None when no value is above zero.

    Values farther from the (upper) median than 3.5 times the scaled median deviation go; then the share
    `trim_ratio` at either end, at least one of three or more.

    Args:
        values: those at or below zero do not count.
        trim_ratio: in [0, 0.5).

    >>> robust_mean([10.0, 11.0, 12.0, 13.0, 500.0])
    11.5
    """
    kept = sorted(value for value in values if value > 0)
    if not kept:
        return None
    median = kept[len(kept) // 2]
    deviations = sorted(abs(value - median) for value in kept)
    reach = 3.5 * 1.4826 * deviations[len(deviations) // 2]
    kept = [value for value in kept if abs(value - median) <= reach]
    cut = int(len(kept) * trim_ratio)
    if trim_ratio > 0 and len(kept) >= 3:
        cut = max(cut, 1)
    kept = kept[cut : len(kept) - cut]
    return sum(kept) / len(kept)


def _check_counts(hz: float, trim: float, *counts: int) -> None:
    if isinstance(hz, bool) or not isinstance(hz, (int, float)) or not 0 < hz < math.inf:
        raise InterfaceValidationError(f"target_hz must be above zero, got {hz!r}")
    if not 0 <= trim < 0.5:
        raise InterfaceValidationError(f"timing_trim_ratio must be in [0, 0.5), got {trim!r}")
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
        raise InterfaceValidationError(
            "counts of samples and steps must be ints >= 0, and the stable samples and the window at least 1"
        )


def _conclude(
    *,
    target_hz: float,
    step_s: float | None,
    inference_s: float | None,
    chunk: float | None,
    steps_before_request: int,
    margin: int,
    execute_action: bool,
    samples: Sequence[SyncStep],
) -> SyncInferenceProfile:
    """Everything that follows from the estimates."""
    rows = int(chunk + SLACK) if chunk is not None else None
    delay = required = None
    highest, holds, trace = None, None, None
    if inference_s is not None:
        delay = max(math.ceil(inference_s * target_hz - SLACK), 1) + margin
        required = 2 * delay + steps_before_request
        if rows is not None:
            holds = rows >= required
            highest = max((rows - steps_before_request) // 2 - margin, 0) / inference_s
            trace = async_buffer_trace(delay, rows, steps_before_request) if rows > 1 else None
    startup = sum(sample.startup for sample in samples)
    return SyncInferenceProfile(
        target_hz=target_hz,
        target_period_s=1 / target_hz,
        steps=len(samples),
        execute_action=execute_action,
        startup_ignored_inference_samples=startup,
        stable_inference_sample_count=len(samples) - startup,
        estimated_step_time_s=step_s,
        estimated_inference_time_s=inference_s,
        estimated_control_hz=1 / step_s if step_s is not None else None,
        estimated_latency_steps=delay,
        estimated_chunk_steps=rows,
        estimated_max_buffered_hz=highest,
        steps_before_request=steps_before_request,
        required_chunk_steps=required,
        chunk_rule_holds=holds,
        advice=_advice(target_hz, inference_s, margin, highest, trace),
        async_buffer_trace=trace,
        samples=tuple(samples),
    )


def _advice(
    hz: float, inference_s: float | None, margin: int, highest: float | None, trace: AsyncBufferTrace | None
) -> str:
    if inference_s is None or highest is None:
        return "Nothing was measured: the clock stood still during every inference"
    if trace is None:
        return "The policy answers single actions: there is nothing to run while the next one is made"
    return chunk_rule(trace, hz, inference_s, margin, highest)


def _write(path: str | Path, values: dict[str, Any]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return target
