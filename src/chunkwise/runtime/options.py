"""The options of an InferenceRuntime: under the names of the inferaxis interface, checked, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from chunkwise import plugins
from chunkwise.chunking import Strategy
from chunkwise.contract import MAX_ROWS, InterfaceValidationError
from chunkwise.runtime.pacing import RealtimeController
from chunkwise.workers import Worker

HANGS_S = 10.0
"""An async policy that has not answered for so long hangs, where the caller said nothing else."""


class InferenceMode(StrEnum):
    """Where inference runs: inside the step, or beside it."""

    SYNC = "sync"
    ASYNC = "async"


@dataclass(eq=False)
class RuntimeOptions:
    """What an :class:`~chunkwise.runtime.inference.InferenceRuntime` is told; it says there what each means.

    Options may be changed between steps; the next step checks them and takes them over.

    Raises:
        InterfaceValidationError: an option is out of range, or two exclude each other.
    """

    mode: InferenceMode | str
    profile: bool = False
    profile_output_dir: str | Path | None = None
    steps_before_request: int = 0
    execution_steps: int | None = None
    warmup_requests: int = 1
    profile_delay_requests: int = 3
    interpolation_steps: int = 0
    ensemble_weight: float | tuple[float, float] | list[float] | None = None
    control_hz: float | None = None
    enable_rtc: bool = False
    slow_rtc_bootstrap: Literal["warn", "error", "confirm"] = "warn"
    latency_steps_offset: int = 0
    validation: Literal["always", "startup", "off"] | None = None
    _: KW_ONLY
    realtime_controller: RealtimeController | None = None
    worker: str | Callable[..., Worker] | None = None
    inference_timeout_s: float | None = None
    on_error: Literal["hold", "raise"] = "hold"

    def __post_init__(self) -> None:
        if self.control_hz is not None and self.realtime_controller is not None:
            raise InterfaceValidationError("give control_hz or realtime_controller, not both")
        self._built_hz: float | None = None
        self._changed = False
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name[0] != "_":
            object.__setattr__(self, "_changed", True)

    def check(self) -> None:
        """Check every option, and build the controller that `control_hz` asks for.

        Raises:
            InterfaceValidationError: naming the option.
        """
        self._check_choices()
        for name in ("steps_before_request", "warmup_requests", "profile_delay_requests", "interpolation_steps"):
            _whole(getattr(self, name), name, least=0)
        _whole(self.latency_steps_offset, "latency_steps_offset")
        if self.execution_steps is not None:
            _whole(self.execution_steps, "execution_steps", least=1)
        elif self.enable_rtc:
            raise InterfaceValidationError("enable_rtc=True needs execution_steps=...")
        if self.inference_timeout_s is not None:
            _positive(self.inference_timeout_s, "inference_timeout_s")
            if self.worker == "inline":
                raise InterfaceValidationError(
                    'inference_timeout_s needs another worker than "inline": what runs in the step cannot be left'
                )
        self._ramp()
        if self.control_hz != self._built_hz:
            hz = self.control_hz
            self.realtime_controller = None if hz is None else RealtimeController(hz=_positive(hz, "control_hz"))
            self._built_hz = hz

    def _check_choices(self) -> None:
        try:
            self.mode = InferenceMode(self.mode)
        except ValueError as error:
            listed = ", ".join(repr(item.value) for item in InferenceMode)
            raise InterfaceValidationError(f"mode must be one of {listed}, got {self.mode!r}") from error
        self.validation = self.validation or "startup"
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed or type(value) is int:
                listed = ", ".join(map(repr, allowed))
                raise InterfaceValidationError(f"{name} must be one of {listed}, got {value!r}")
        if self.profile and self.mode is not InferenceMode.ASYNC:
            raise InterfaceValidationError("profile=True needs mode=ASYNC")
        if isinstance(self.worker, str) and ":" not in self.worker:
            known = plugins.names("workers")
            if self.worker not in known:
                listed = ", ".join(map(repr, known))
                raise InterfaceValidationError(f"worker must be one of {listed}, got {self.worker!r}")
        elif not isinstance(self.worker, str) and self.worker is not None and not callable(self.worker):
            raise InterfaceValidationError(f"worker must be a name or make one, got {self.worker!r}")

    def check_window(self, length: int) -> None:
        """Check the options that depend on how many actions a chunk has.

        Raises:
            InterfaceValidationError: they do not fit it.
        """
        if self.mode is InferenceMode.ASYNC and length < 2:
            raise InterfaceValidationError(
                "InferenceRuntime(mode=ASYNC) requires act_src_fn=... to return a chunk with more than one action"
            )
        window, before = self.execution_steps or 0, self.steps_before_request
        if self.enable_rtc and window >= length - before:
            raise InterfaceValidationError(
                f"enable_rtc needs execution_steps < chunk length - steps_before_request, got {window} and "
                f"{length} - {before}"
            )

    def strategy(self) -> Strategy:
        """The strategy of the control loop that these options mean."""
        fine = self.interpolation_steps + 1
        before, run = self.steps_before_request, self.execution_steps
        in_step = self.mode is InferenceMode.SYNC
        if in_step and self.enable_rtc and not before:
            before = run or 0  # what is left of the chunk then is what the next one continues
        if in_step and not before:
            return _load("sync", execution_horizon=MAX_ROWS if run is None else run * fine)
        timing = {"steps_before_request": before * fine, "margin": 0 if in_step else 1}
        ramp = self._ramp()
        if ramp is not None:
            return _load("blend", ensemble_weight=ramp, **timing)
        return _load("rtc" if self.enable_rtc else "switch", **timing)

    @property
    def running_timeout_s(self) -> float | None:
        """The time-out once the loop runs: where none was set, async has one all the same."""
        if self.inference_timeout_s is None and self.mode is InferenceMode.ASYNC:
            return HANGS_S
        return self.inference_timeout_s

    @property
    def chosen_worker(self) -> str | Callable[..., Worker]:
        """The worker that was asked for; else in line where nothing has to be given up in time."""
        in_line = self.mode is InferenceMode.SYNC and self.inference_timeout_s is None
        return self.worker or ("inline" if in_line else "thread")

    def make_worker(self, infer: Any, **more: Any) -> Worker:
        """The worker that these options ask for.

        Args:
            infer: what it runs.
            **more: that a worker with a host takes.
        """
        chosen = self.chosen_worker
        made: Worker = (plugins.load("workers", chosen) if isinstance(chosen, str) else chosen)(infer, **more)
        return made

    def _ramp(self) -> tuple[float, float] | None:
        weight = self.ensemble_weight
        if weight is None:
            return None
        pair = weight if isinstance(weight, (tuple, list)) else (weight, weight)
        numbers = [item for item in pair if isinstance(item, (int, float)) and not isinstance(item, bool)]
        if len(numbers) != 2 or len(pair) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
            raise InterfaceValidationError(
                f"ensemble_weight must be a number in [0, 1] or a pair low <= high of them, got {weight!r}"
            )
        return float(numbers[0]), float(numbers[1])


_CHOICES: dict[str, tuple[Any, ...]] = {
    "profile": (False, True),
    "enable_rtc": (False, True),
    "slow_rtc_bootstrap": ("warn", "error", "confirm"),
    "validation": ("always", "startup", "off"),
    "on_error": ("hold", "raise"),
}


def _load(name: str, **options: Any) -> Strategy:
    strategy: Strategy = plugins.load("strategies", name)(**options)
    return strategy


def _whole(value: object, name: str, least: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f" >= {least}"
        raise InterfaceValidationError(f"{name} must be an int{bound}, got {value!r}")


def _positive(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise InterfaceValidationError(f"{name} must be a positive finite number, got {value!r}")
    return float(value)
