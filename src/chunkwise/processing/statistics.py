"""What a policy's numbers were like in training: mean, spread, range, by key and column.

Three places keep them: the normaliser of a LeRobot checkpoint (`chunkwise.processing.lerobot`), openpi's
``norm_stats.json``, and a pickle of arrays, as the IGRIS engine writes it, which is read without being run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chunkwise.contract.errors import nearest
from chunkwise.processing.errors import PickleError, StatisticsError
from chunkwise.processing.pickled import Machine
from chunkwise.processing.pickled_arrays import NUMPY, plain

NAMES: Final = ("mean", "std", "min", "max", "q01", "q10", "q50", "q90", "q99", "count")
MAX_TEXT: Final = 16 << 20
MAX_KEYS: Final = 1024
MAX_NUMBERS: Final = 1 << 20
MAX_INSTRUCTIONS: Final = 1 << 16
IGRIS_KEYS: Final = ("observation.state", "observation.current", "action")

Numbers = NDArray[np.floating[Any]]


class Statistics(Mapping[str, Mapping[str, Numbers]]):
    """Arrays by key and by name: ``statistics["action"]["mean"]``.

    Args:
        columns: key -> name -> numbers; float32 stays, everything else becomes float64.  Names that mean something
            here: ``mean, std, min, max, q01, q10, q50, q90, q99, count``.

    Raises:
        StatisticsError: numbers are none, or not finite, a spread is below zero, or a range is upside down.
    """

    def __init__(self, columns: Mapping[str, Mapping[str, ArrayLike]]) -> None:
        self._columns = {
            key: {name: _numbers(value, f"{key}.{name}") for name, value in values.items()}
            for key, values in columns.items()
        }
        for key, values in self._columns.items():
            _check(key, values)

    def __getitem__(self, key: str) -> Mapping[str, Numbers]:
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def need(self, key: str, *names: str) -> tuple[Numbers, ...]:
        """Those of one key, in the order of the names.

        Raises:
            StatisticsError: the key or a name is missing.
        """
        if key not in self:
            there = ", ".join(self) or "none"
            raise StatisticsError(f"there are no statistics of {key!r}; there are: {there}{nearest(key, self)}")
        missing = [name for name in names if name not in self[key]]
        if missing:
            raise StatisticsError(
                f"statistics of {key!r} lack {', '.join(missing)}; there are: {', '.join(self[key])}"
            )
        return tuple(self[key][name] for name in names)

    def renamed(self, names: Mapping[str, str]) -> Statistics:
        """The same with other keys: old -> new; those that are not named keep theirs.

        Raises:
            StatisticsError: two keys would become one, or a key is not there.
        """
        unknown = sorted(names.keys() - self.keys())
        keys = [names.get(key, key) for key in self]
        if unknown or len(set(keys)) != len(keys):
            raise StatisticsError(f"statistics cannot be renamed by {dict(names)}; there are: {', '.join(self)}")
        return Statistics({names.get(key, key): values for key, values in self.items()})

    def digest(self) -> str:
        """SHA-256 of keys, names, shapes and numbers, in hexadecimal; however the numbers are stored."""
        made = hashlib.sha256()
        for key in sorted(self):
            for name in sorted(self[key]):
                value = np.asarray(self[key][name], dtype="<f8") + 0.0  # of -0.0, too
                made.update(json.dumps([key, name, value.shape]).encode())
                made.update(value.tobytes())
        return made.hexdigest()


def _numbers(value: ArrayLike, where: str) -> Numbers:
    try:
        found = np.asarray(value)
        kept = found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise StatisticsError(f"{where} must be numbers: {error}") from error
    if found.dtype.kind not in "iuf" or found.size > MAX_NUMBERS:
        raise StatisticsError(f"{where} must be at most {MAX_NUMBERS} numbers, got {found.size} of {found.dtype}")
    if not np.isfinite(kept).all():
        raise StatisticsError(f"{where} has a number that is not finite")
    return kept


def _check(key: str, values: Mapping[str, Numbers]) -> None:
    if (values.get("std", np.zeros(1)) < 0).any():
        raise StatisticsError(f"{key}.std has a spread below zero")
    for low, high in (("mean", "std"), ("min", "max"), ("q01", "q99"), ("q10", "q90")):
        if low in values and high in values:
            if values[low].shape != values[high].shape:
                raise StatisticsError(f"{key}: {low} and {high} have other shapes")
            if low != "mean" and (values[low] > values[high]).any():
                raise StatisticsError(f"{key}: {low} is above {high}")


# Readers ------------------------------------------------------------------------------------------------------


def read_openpi(text: str) -> Statistics:
    """openpi's ``norm_stats.json``.

    ::

        {"norm_stats": {"state": {"mean": [...], "std": [...], "q01": [...], "q99": [...]}, "actions": {...}}}

    Returns:
        float64, by the file's own keys; quantiles only where the file has them.

    Raises:
        StatisticsError: it is no such file.

    Source:
        ``openpi/shared/normalize.py`` of https://github.com/Physical-Intelligence/openpi.
    """
    if len(text) > MAX_TEXT:
        raise StatisticsError(f"norm_stats.json has {len(text)} letters, at most {MAX_TEXT} are read")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StatisticsError(f"norm_stats.json is no JSON: {error}") from error
    found = tree.get("norm_stats") if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not 0 < len(found) <= MAX_KEYS:
        raise StatisticsError("norm_stats.json must hold norm_stats: statistics by key")
    made = {}
    for key, values in found.items():
        if not isinstance(values, dict):
            raise StatisticsError(f"norm_stats.{key} must be statistics by name")
        unknown = [name for name in values if name not in ("mean", "std", "q01", "q99")]
        if unknown:
            raise StatisticsError(f"norm_stats.{key}: {unknown[0]!r} is not known{nearest(unknown[0], NAMES)}")
        made[key] = {name: _listed(value, f"{key}.{name}") for name, value in values.items() if value is not None}
        _need_mean_and_std(key, made[key])
    return Statistics(made)


def _listed(value: Any, where: str) -> list[float]:
    if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
        raise StatisticsError(f"norm_stats.{where} must be a list of numbers")
    return value


def read_igris(data: bytes) -> Statistics:
    """The pickle of statistics of the IGRIS engine, read without being run.

    ::

        {"observation.state": {"mean": array, "std": array}, "observation.current": {...}, "action": {...}}

    Args:
        data: the whole pickle: arrays, numbers, texts, dicts, lists and tuples.

    Returns:
        By the pickle's keys, of which the three are there, each with mean and std.

    Raises:
        StatisticsError: it is no such pickle; the message says what one names that is no array of numpy's.
    """
    machine = Machine(memoryview(data), NUMPY, MAX_INSTRUCTIONS)
    try:
        found = plain(machine.load(), MAX_INSTRUCTIONS)
    except PickleError as error:
        raise StatisticsError(
            f"a pickle of statistics may hold arrays, numbers, texts, dicts, lists and tuples only: {error}"
        ) from error
    if machine.at != len(data):
        raise StatisticsError("something follows the pickle of statistics")
    if not isinstance(found, dict) or not all(isinstance(values, dict) for values in found.values()):
        raise StatisticsError("a pickle of statistics must hold a dict of dicts")
    made = Statistics(found)
    for key in IGRIS_KEYS:
        made.need(key, "mean", "std")
        _need_mean_and_std(key, made[key])
    return made


def _need_mean_and_std(key: str, values: Mapping[str, Any]) -> None:
    missing = [name for name in ("mean", "std") if name not in values]
    if missing:
        raise StatisticsError(f"statistics of {key!r} lack {', '.join(missing)}")
    shapes = {np.shape(value) for name, value in values.items() if name != "count"}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise StatisticsError(f"statistics of {key!r} must be lists of one length, have shapes {sorted(shapes)}")


# Ranges -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Finding:
    """A number that training never saw, or not so.

    Attributes:
        key, column: where.
        value: the one that is farthest out.
        low, high: what training knew, with the margin; in the units of the key.
        count: how many there were in this column until now.
    """

    key: str
    column: int
    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        times = f", {self.count} times so far" if self.count > 1 else ""
        known = f"{self.low:g} to {self.high:g}"
        return f"{self.key}[{self.column}] is {self.value:g}, outside {known} of training{times}"


class RangeMonitor:
    """Tells of numbers outside the range of training, without flooding.

    Args:
        statistics: of the keys to watch; those of pictures, which have no columns, are not watched.
        margin: how far beyond is still within, as a part of the range.
        limit: how many findings there are at most, of all keys; those after are counted and not told.

    The range is min to max where they are known, else q01 to q99, else three standard deviations about the mean.
    A column is told of the 1st, 10th, 100th ... time.

    Raises:
        ValueError: the margin or the limit is below zero.

    >>> monitor = RangeMonitor(Statistics({"action": {"min": [0.0, 0.0], "max": [1.0, 2.0]}}))
    >>> [str(finding) for finding in monitor.check({"action": np.array([[0.5, 2.1], [0.5, 3.0]])})]
    ['action[1] is 3, outside -0.2 to 2.2 of training']
    """

    def __init__(self, statistics: Statistics, *, margin: float = 0.1, limit: int = 64) -> None:
        if not (np.isfinite(margin) and margin >= 0) or limit < 0:
            raise ValueError(f"margin and limit must not be below zero, got {margin} and {limit}")
        self.limit = limit
        self.counts: Counter[tuple[str, int]] = Counter()
        self._told = 0
        self._ranges: dict[str, tuple[Numbers, Numbers]] = {}
        for key, values in statistics.items():
            found = _range(values)
            if found is not None and found[0].ndim == 1:
                low, high = found
                room = margin * (high - low)
                self._ranges[key] = low - room, high + room

    def check(self, values: Mapping[str, NDArray[Any]]) -> list[Finding]:
        """What is newly worth telling of some values ``(..., columns)`` by key; keys that are not watched pass.

        Raises:
            StatisticsError: values have another number of columns than training had.
        """
        findings = []
        for key, (low, high) in self._ranges.items():
            if key not in values:
                continue
            rows = np.asarray(values[key], dtype=np.float64)
            if rows.ndim < 1 or rows.shape[-1] != low.size:
                raise StatisticsError(f"{key} must have {low.size} columns, got shape {rows.shape}")
            rows = rows.reshape(-1, low.size)
            # How far out, in either direction; what is not a number is farthest.
            beyond = np.nan_to_num(np.maximum(low - rows, rows - high), nan=np.inf, posinf=np.inf)
            for column in np.flatnonzero((beyond > 0).any(axis=0)).tolist():
                worst = rows[int(beyond[:, column].argmax()), column]
                new = int((beyond[:, column] > 0).sum())
                before = self.counts[key, column]
                self.counts[key, column] += new
                grown = not before or len(str(before + new)) > len(str(before))
                if grown and self._told < self.limit:
                    self._told += 1
                    limits = float(low[column]), float(high[column])
                    findings.append(Finding(key, column, float(worst), *limits, before + new))
        return findings


def _range(values: Mapping[str, Numbers]) -> tuple[Numbers, Numbers] | None:
    for low, high in (("min", "max"), ("q01", "q99")):
        if low in values and high in values:
            return values[low].astype(np.float64), values[high].astype(np.float64)
    if "mean" in values and "std" in values:
        mean, std = values["mean"].astype(np.float64), values["std"].astype(np.float64)
        return mean - 3 * std, mean + 3 * std
    return None
