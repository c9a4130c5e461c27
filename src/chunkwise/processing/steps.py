"""The steps that LeRobot's policies are trained behind, in numpy; the formulas are LeRobot's, to the last epsilon.

Each is made of plain values; `chunkwise.processing.lerobot` makes them of a checkpoint's files.

Source:
    ``lerobot/processor``, ``lerobot/policies/*/processor_*.py`` of https://github.com/huggingface/lerobot, 0.4.4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chunkwise.contract.errors import nearest
from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.pipeline import Batch
from chunkwise.processing.statistics import Statistics

STATE: Final = "observation.state"
ENVIRONMENT: Final = "observation.environment_state"
IMAGE: Final = "observation.image"
IMAGES: Final = "observation.images."
ACTION: Final = "action"
TASK: Final = "task"

MODES: Final[Mapping[str, tuple[str, ...]]] = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""Ways to normalise, and the two statistics that each needs: what becomes 0 and 1, or what becomes -1 and 1."""
FLOATS: Final = ("float16", "float32", "float64")

Numbers = NDArray[np.floating[Any]]


class Feature(NamedTuple):
    """One tensor of a policy.

    Attributes:
        type: ``STATE``, ``ENV``, ``VISUAL``, ``LANGUAGE`` or ``ACTION``.
        shape: of one row; channels first for a picture.
    """

    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Rename:
    """Observations get other names.

    Attributes:
        names: old -> new.
    """

    kind: ClassVar[str] = "rename_observations_processor"
    names: Mapping[str, str]

    def __call__(self, batch: Batch) -> Batch:
        made = {self.names.get(key, key): value for key, value in batch.items()}
        if len(made) != len(batch):
            raise ProcessingError(f"{self.kind}: two of {', '.join(batch)} would get the same name")
        return made

    def inverse(self) -> Rename:
        return Rename({new: old for old, new in self.names.items()})

    def describe(self) -> str:
        return ", ".join(f"{old} becomes {new}" for old, new in self.names.items()) or "no other names"


@dataclass(frozen=True)
class AddBatch:
    """States, pictures, actions and the task of one moment become a batch of one; what is a batch stays."""

    kind: ClassVar[str] = "to_batch_processor"

    def __call__(self, batch: Batch) -> Batch:
        made = dict(batch)
        for key, value in batch.items():
            axes = _axes_of_one(key)
            if axes is not None and isinstance(value, np.ndarray) and value.ndim == axes:
                made[key] = value[None]
        if isinstance(made.get(TASK), str):
            made[TASK] = [made[TASK]]
        return made

    def inverse(self) -> None:
        return None

    def describe(self) -> str:
        return "a first axis of one row, where there is none"


def _axes_of_one(key: str) -> int | None:
    """How many axes the value has that is no batch."""
    if key in (STATE, ENVIRONMENT, ACTION):
        return 1
    if key == IMAGE or key.startswith(IMAGES):
        return 3
    return 0 if key in ("index", "task_index") else None


@dataclass(frozen=True)
class Cast:
    """Where LeRobot moves tensors to a device; here nothing moves, and floats get the type that is asked for.

    Attributes:
        device: as the file has it; the engine knows better.
        dtype: ``float16``, ``float32``, ``float64``; None to leave it.
    """

    kind: ClassVar[str] = "device_processor"
    device: str = "cpu"
    dtype: str | None = None

    def __call__(self, batch: Batch) -> Batch:
        if self.dtype is None:
            return batch
        return {
            key: value.astype(self.dtype, copy=False)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else value
            for key, value in batch.items()
        }

    def inverse(self) -> Cast:
        return Cast()

    def describe(self) -> str:
        return f"floats become {self.dtype}" if self.dtype else "nothing; the engine has its own device"


@dataclass(frozen=True)
class Normalise:
    """Numbers become what networks like, by the statistics of training.

    ==========  ==========================================  =======================
    MEAN_STD    ``(x - mean) / (std + eps)``                ``x * std + mean``
    MIN_MAX     ``2 (x - min) / (max - min) - 1``           and back
    QUANTILES   the same of q01 and q99
    QUANTILE10  the same of q10 and q90
    IDENTITY    ``x``
    ==========  ==========================================  =======================

    A range of zero is taken for `eps`.  What has no statistics passes as it is, which `unknown` tells.

    Attributes:
        features: of the policy, by name.
        modes: type of feature -> one of `MODES`; IDENTITY for a type that is not named.
        statistics: by name of feature.
        eps: as above.
        only: the observations that are normalised; None for all.
        backwards: the other direction.
    """

    features: Mapping[str, Feature]
    modes: Mapping[str, str]
    statistics: Statistics
    eps: float = 1e-8
    only: Collection[str] | None = None
    backwards: bool = False
    _scales: dict[str, tuple[Numbers, Numbers, bool]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        wrong = [mode for mode in self.modes.values() if mode not in MODES]
        if wrong:
            there = f"{', '.join(MODES)}{nearest(wrong[0], MODES)}"
            raise ProcessingError(f"{self.kind}: mode {wrong[0]!r} is not known; there are: {there}")
        object.__setattr__(self, "_scales", {key: self._scale(key) for key in self.normalised})

    @property
    def kind(self) -> str:
        """LeRobot's name of it."""
        return "unnormalizer_processor" if self.backwards else "normalizer_processor"

    @property
    def normalised(self) -> dict[str, str]:
        """Name of feature -> mode, of those that change."""
        return {key: mode for key, mode in self._wanted().items() if key in self.statistics}

    @property
    def unknown(self) -> dict[str, str]:
        """Name of feature -> mode, of those that should change and have no statistics."""
        return {key: mode for key, mode in self._wanted().items() if key not in self.statistics}

    def _wanted(self) -> dict[str, str]:
        modes = {
            key: self.modes.get(feature.type, "IDENTITY")
            for key, feature in self.features.items()
            if self.only is None or key in self.only or feature.type == "ACTION"
        }
        return {key: mode for key, mode in modes.items() if mode != "IDENTITY"}

    def _scale(self, key: str) -> tuple[Numbers, Numbers, bool]:
        """What is taken away, what is divided by, and whether the result is then about 0 and not from 0 to 1."""
        mode = self.normalised[key]
        first, second = (np.asarray(each, np.float32) for each in self.statistics.need(key, *MODES[mode]))
        if mode == "MEAN_STD":
            return first, second if self.backwards else second + np.float32(self.eps), True
        span = second - first
        return first, np.where(span == 0, np.float32(self.eps), span), False

    def __call__(self, batch: Batch) -> Batch:
        made = dict(batch)
        for key, scale in self._scales.items():
            if key in batch:
                made[key] = self._changed(np.asarray(batch[key]), key, *scale)
        return made

    def _changed(self, value: NDArray[Any], key: str, low: Numbers, span: Numbers, centred: bool) -> Numbers:
        if value.dtype.kind != "f":
            raise ProcessingError(f"{self.kind}: {key} must be floats, got {value.dtype}")
        if value.ndim < low.ndim or any(
            have not in (1, size) for have, size in zip(low.shape[::-1], value.shape[::-1], strict=False)
        ):
            raise ProcessingError(
                f"{self.kind}: {key} has shape {value.shape}, its statistics of training {low.shape}"
            )
        x = value.astype(np.float32)
        if self.backwards:
            if not centred:
                x += 1
                x /= 2
            x *= span
            x += low
            return x
        x -= low
        if not centred:
            x *= 2
        x /= span
        if not centred:
            x -= 1
        return x

    def inverse(self) -> Normalise:
        return replace(self, backwards=not self.backwards)

    def describe(self) -> str:
        changed = ", ".join(f"{key} by {mode}" for key, mode in self.normalised.items())
        left = ", ".join(self.unknown)
        return (changed or "nothing") + (f"; no statistics of {left}" if left else "")


@dataclass(frozen=True)
class Clamp:
    """Numbers stay within limits.

    Attributes:
        limits: name -> lowest and highest, each a number or one for each column.
    """

    kind: ClassVar[str] = "clamp"
    limits: Mapping[str, tuple[ArrayLike, ArrayLike]]

    def __post_init__(self) -> None:
        for key, (low, high) in self.limits.items():
            if not (np.asarray(low) <= np.asarray(high)).all():  # NaN is no limit either
                raise ProcessingError(f"{self.kind}: {key}: the lowest must not be above the highest")

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, **{key: self._within(batch, key)[0] for key in self.limits if key in batch}}

    def outside(self, batch: Batch) -> int:
        """How many numbers of a batch are beyond their limits."""
        return sum(self._within(batch, key)[1] for key in self.limits if key in batch)

    def _within(self, batch: Batch, key: str) -> tuple[Numbers, int]:
        value = np.asarray(batch[key])
        low, high = (np.asarray(each, dtype=value.dtype) for each in self.limits[key])
        try:
            made = np.clip(value, low, high)
        except ValueError as error:
            raise ProcessingError(
                f"{self.kind}: {key} of shape {value.shape} and limits of shape {low.shape} do not match"
            ) from error
        if made.shape != value.shape:
            raise ProcessingError(f"{self.kind}: {key} of shape {value.shape} has limits of shape {low.shape}")
        return made, int(((value < low) | (value > high)).sum())

    def inverse(self) -> None:
        return None

    def describe(self) -> str:
        return ", ".join(self.limits) + " within limits" if self.limits else "no limits"
