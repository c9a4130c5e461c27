"""What a policy is handed to normalise with: the statistics that it was trained on, or an error that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import InterfaceValidationError
from chunkwise.policies.igris.documents import PolicyFileError, read_bytes
from chunkwise.processing.statistics import Statistics, read_igris, read_openpi

MAX_BYTES = 64 << 20
EPSILON = 1e-8
"""Added to every standard deviation, as in training."""
STATE, CURRENT, ACTION = "observation.state", "observation.current", "action"


def read_statistics(path: Path) -> Statistics:
    """Statistics from a file: openpi's ``norm_stats.json``, or else a pickle of arrays and dicts alone.

    Raises:
        MissingFile, PolicyFileError: it is not there, too large, or holds anything else.
    """
    data = read_bytes(path, "norm_stats_file_path", MAX_BYTES)
    try:
        if path.suffix != ".json":
            return read_igris(data)
        return read_openpi(data.decode("utf-8")).renamed({"state": STATE, "actions": ACTION})
    except (InterfaceValidationError, UnicodeDecodeError) as error:
        raise PolicyFileError(f"{path}: {error}") from error


class Normalisation:
    """The ``data_normalization_interface`` of `PolicyProtocol`; mean and standard deviation, column by column.

    Args:
        statistics: from `read_statistics`; None where there are none, and then every method raises.
        missing: where they were to be named, for that error.
    """

    def __init__(self, statistics: Statistics | None, missing: str = "norm_stats_file_path") -> None:
        self._statistics, self._missing = statistics, missing

    def normalize_state(self, input_data: Mapping[str, Any]) -> dict[str, Any]:
        """A policy's input with ``proprio`` normalised and its pictures from 0 to 1, float32; all else as it was.

        The columns of ``proprio`` are positions and then, where it has more, currents.

        Raises:
            PolicyFileError: there are no statistics, or fewer than columns.
        """
        mean, deviation = self._pair(STATE)
        if CURRENT in self._known():
            further = self._pair(CURRENT)
            mean, deviation = np.concatenate([mean, further[0]]), np.concatenate([deviation, further[1]])
        made = dict(input_data)
        made["proprio"] = _columns(
            input_data["proprio"], mean, deviation, lambda x, m, d: (x - m) / d, f"statistics of {STATE}"
        )
        for key, value in input_data.items():
            if "uint8" in str(getattr(value, "dtype", "")):
                made[key] = (
                    value.astype(np.float32) / 255 if isinstance(value, np.ndarray) else value.float() / 255
                )
        return made

    def normalize_action(self, action: Any) -> Any:
        """Rows (..., action_dim) in the robot's units as the policy was trained on them."""
        return _columns(action, *self._pair(ACTION), lambda x, m, d: (x - m) / d, f"statistics of {ACTION}", True)

    def denormalize_action(self, action: Any) -> Any:
        """The inverse of `normalize_action`."""
        return _columns(action, *self._pair(ACTION), lambda x, m, d: x * d + m, f"statistics of {ACTION}", True)

    def _known(self) -> Statistics:
        if self._statistics is None:
            raise PolicyFileError(
                f"the policy normalises with statistics, and there are none: name their file by {self._missing}"
            )
        return self._statistics

    def _pair(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean, and standard deviation plus epsilon."""
        mean, deviation = self._known().need(key, "mean", "std")
        return np.ravel(mean).astype(np.float64), np.ravel(deviation).astype(np.float64) + EPSILON


def _columns(
    values: Any,
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    change: Callable[[Any, Any, Any], Any],
    where: str,
    exact: bool = False,
) -> Any:
    """`change` of every column, as float32 of the kind that was given, numpy or torch."""
    width = values.shape[-1]
    if width > len(mean) or (exact and width != len(mean)):
        raise PolicyFileError(f"{where} have {len(mean)} columns, the values have {width}")
    if isinstance(values, np.ndarray):
        changed: Any = change(values.astype(np.float64), mean[:width], deviation[:width])
        return changed.astype(np.float32)
    scale = values.new_tensor(mean[:width]).float(), values.new_tensor(deviation[:width]).float()
    return change(values.float(), *scale)
