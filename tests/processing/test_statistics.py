"""Statistics are read from openpi's JSON and IGRIS's pickle, told apart by their digest, and watched."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.processing.errors import StatisticsError
from chunkwise.processing.statistics import RangeMonitor, Statistics, read_igris, read_openpi

BOTH = {"mean": [0.5, -1.0], "std": [1.0, 2.0]}
OPENPI = {
    "norm_stats": {
        "state": {**BOTH, "q01": [-1, -5], "q99": [2, 3]},
        "actions": {**BOTH, "q01": None, "q99": None},
    }
}
ARRAYS = {name: np.array(values) for name, values in BOTH.items()}
IGRIS = {"observation.state": ARRAYS, "observation.current": ARRAYS, "action": ARRAYS}


def test_statistics_of_openpi() -> None:
    found = read_openpi(json.dumps(OPENPI))
    assert list(found) == ["state", "actions"] and list(found["actions"]) == ["mean", "std"]
    assert found["state"]["q01"].tolist() == [-1, -5] and found["state"]["q01"].dtype == np.float64
    renamed = found.renamed({"state": "observation.state", "actions": "action"})
    assert list(renamed) == ["observation.state", "action"] and renamed.digest() != found.digest()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_statistics_of_igris(protocol: int) -> None:
    found = read_igris(pickle.dumps({**IGRIS, "more": {"count": 7, "min": [0.0]}}, protocol=protocol))
    assert found["action"]["std"].tolist() == [1, 2] and found["more"]["count"] == 7
    assert found["more"]["min"].tolist() == [0]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({**IGRIS, "x": Evil()}, "posix.system' is not allowed"),
        (OrderedDict(IGRIS), "'collections.OrderedDict' is not allowed"),
        ({**IGRIS, "x": {"mean": {1, 2}}}, "instruction 0x8f is not allowed"),
        ({**IGRIS, "x": {"mean": np.array([None])}}, "must hold numbers"),
        ({**IGRIS, "x": {"mean": b"ab"}}, "no array and no plain value"),
        ({**IGRIS, "x": 1}, "a dict of dicts"),
        ([IGRIS], "a dict of dicts"),
        ({**IGRIS, "x": {"mean": "much"}}, "x.mean must be numbers"),
        ({**IGRIS, "x": {"mean": None}}, "x.mean must be"),
        ({key: IGRIS[key] for key in ("observation.state", "action")}, "no statistics of 'observation.current'"),
        ({**IGRIS, "action": {"mean": ARRAYS["mean"]}}, "'action' lack std"),
        ({**IGRIS, "action": {**ARRAYS, "std": np.ones(3)}}, "mean and std have other shapes"),
        ({**IGRIS, "action": {**ARRAYS, "std": np.array([1, -1])}}, "action.std has a spread below zero"),
        (
            {**IGRIS, "action": {**ARRAYS, "std": np.array([1, np.nan])}},
            "action.std has a number that is not finite",
        ),
    ],
)
def test_a_pickle_with_anything_else_is_refused(value: Any, words: str) -> None:
    with pytest.raises(StatisticsError, match=words):
        read_igris(pickle.dumps(value, protocol=4))


def test_a_mean_and_a_spread_of_different_columns_are_refused() -> None:
    with pytest.raises(StatisticsError, match="action: mean and std have other shapes"):
        Statistics({"action": {"mean": np.zeros(3), "std": np.ones(4)}})


def test_a_torn_pickle_is_refused() -> None:
    whole = pickle.dumps(IGRIS, protocol=4)
    for data in (b"", whole[:-20], whole + b"N."):
        with pytest.raises(StatisticsError):
            read_igris(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "must hold norm_stats"),
        ('{"norm_stats": {}}', "must hold norm_stats"),
        ('{"norm_stats": {"state": []}}', "norm_stats.state must be"),
        ('{"norm_stats": {"state": {"mean": [1], "std": [1], "q1": [1]}}}', "'q1' is not known"),
        ('{"norm_stats": {"state": {"mean": [1]}}}', "'state' lack std"),
        ('{"norm_stats": {"state": {"mean": [1], "std": "x"}}}', "state.std must be a list of numbers"),
        ('{"norm_stats": {"state": {"mean": [1], "std": [true]}}}', "state.std must be a list of numbers"),
        ('{"norm_stats": {"state": {"mean": [1], "std": [NaN]}}}', "not finite"),
        ('{"norm_stats": {"state": {"mean": [1, 2], "std": [1]}}}', "lists of one length"),
        ('{"norm_stats": {"state": {"mean": [1], "std": [1], "q01": [2], "q99": [1]}}}', "q01 is above q99"),
        (f'{{"norm_stats": {{"state": {{"mean": [1{"0" * 400}], "std": [1]}}}}}}', "state.mean"),
    ],
)
def test_what_is_no_norm_stats_is_refused(text: str, words: str) -> None:
    with pytest.raises(StatisticsError, match=words):
        read_openpi(text)


def test_a_digest_is_of_the_numbers() -> None:
    one = Statistics({"b": {"mean": [0.5]}, "a": {"std": [0.0, 2.0], "mean": [1, 2]}})
    same = Statistics({"a": {"mean": np.float32([1, 2]), "std": np.array([-0.0, 2.0])}, "b": {"mean": [0.5]}})
    assert one.digest() == same.digest() and len(one.digest()) == 64
    for other in ({"b": {"mean": [0.5]}}, {"b": {"mean": [[0.5]]}, "a": one["a"]}, {"c": one["b"], "a": one["a"]}):
        assert Statistics(other).digest() != one.digest()


def test_what_is_missing_is_named() -> None:
    found = Statistics({"action": BOTH})
    assert [each.tolist() for each in found.need("action", "std", "mean")] == [[1, 2], [0.5, -1]]
    with pytest.raises(
        StatisticsError, match=r"no statistics of 'acton'; there are: action .did you mean 'action'"
    ):
        found.need("acton", "mean")
    with pytest.raises(StatisticsError, match="lack min; there are: mean, std"):
        found.need("action", "mean", "min")
    with pytest.raises(StatisticsError, match="there are: none"):
        Statistics({}).need("a")
    for names in ({"x": "y"}, {"a": "b"}):
        with pytest.raises(StatisticsError, match="cannot be renamed"):
            Statistics({"a": {}, "b": {}}).renamed(names)


# Ranges -------------------------------------------------------------------------------------------------------

RANGE = Statistics({"action": {"min": [0.0, 0.0], "max": [1.0, 2.0]}, "image": {"mean": np.ones((3, 1, 1))}})


def test_numbers_outside_the_range_are_told() -> None:
    monitor = RangeMonitor(RANGE)
    assert monitor.check({"action": np.array([[1.1, 2.2], [-0.1, -0.2]]), "other": np.zeros(9)}) == []
    (found,) = monitor.check({"action": np.array([[[0.5, 2.5], [0.5, -3.0]]])})
    assert (found.key, found.column, found.value, found.count) == ("action", 1, -3.0, 2)
    assert str(found) == "action[1] is -3, outside -0.2 to 2.2 of training, 2 times so far"
    assert monitor.counts == {("action", 1): 2}


def test_what_is_no_number_is_outside() -> None:
    for value in (np.nan, np.inf, -np.inf):
        assert len(RangeMonitor(RANGE).check({"action": np.array([0.5, value])})) == 1


def test_a_column_is_told_of_at_each_power_of_ten() -> None:
    monitor = RangeMonitor(RANGE)
    told = [finding.count for _ in range(250) for finding in monitor.check({"action": np.array([5.0, 1.0])})]
    assert told == [1, 10, 100] and monitor.counts["action", 0] == 250


def test_findings_are_limited() -> None:
    wide = Statistics({"action": {"min": np.zeros(9), "max": np.ones(9)}})
    monitor = RangeMonitor(wide, limit=4)
    assert len(monitor.check({"action": np.full(9, 5.0)})) == 4 and len(monitor.counts) == 9
    assert monitor.check({"action": np.full((99, 9), 5.0)}) == []


def test_without_a_range_quantiles_or_spread_do() -> None:
    quantiles = Statistics({"a": {"q01": [0.0], "q99": [1.0], "mean": [9.0], "std": [1.0]}})
    spread = Statistics({"a": {"mean": [9.0], "std": [1.0]}})
    assert RangeMonitor(quantiles).check({"a": np.array([9.0])})
    assert not RangeMonitor(spread, margin=0).check({"a": np.array([12.0])})
    assert RangeMonitor(spread, margin=0).check({"a": np.array([12.1])})
    assert not RangeMonitor(Statistics({"a": {"count": [3]}})).check({"a": np.array([1e9])})


def test_other_columns_than_in_training_are_refused() -> None:
    for value in (np.zeros(3), np.array(1.0)):
        with pytest.raises(StatisticsError, match="action must have 2 columns"):
            RangeMonitor(RANGE).check({"action": value})
    for options in ({"margin": -1.0}, {"margin": float("nan")}, {"limit": -1}):
        with pytest.raises(ValueError, match="below zero"):
            RangeMonitor(RANGE, **options)  # type: ignore[arg-type]


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=50))
def test_every_number_outside_is_counted(values: list[float]) -> None:
    monitor = RangeMonitor(Statistics({"a": {"min": [-1.0], "max": [1.0]}}), margin=0)
    for value in values:
        monitor.check({"a": np.array([value])})
    assert monitor.counts.total() == sum(abs(value) > 1 for value in values)
