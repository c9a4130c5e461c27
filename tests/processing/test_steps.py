"""Each step does what its words say, and refuses what it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.processing.errors import ProcessingError, StatisticsError
from chunkwise.processing.statistics import Statistics
from chunkwise.processing.steps import MODES, AddBatch, Cast, Clamp, Feature, Normalise, Rename

FEATURES = {
    "observation.state": Feature("STATE", (2,)),
    "observation.images.top": Feature("VISUAL", (3, 4, 5)),
    "action": Feature("ACTION", (2,)),
}
COLUMNS = {
    "mean": [1.0, 2.0],
    "std": [0.5, 0.0],
    "min": [0.0, 3.0],
    "max": [4.0, 3.0],
    "q01": [0.0, -1.0],
    "q99": [2.0, 1.0],
    "q10": [0.5, -0.5],
    "q90": [1.5, 0.5],
}
STATISTICS = Statistics({"observation.state": COLUMNS, "action": COLUMNS})


def normalise(mode: str, **options: Any) -> Normalise:
    return Normalise(FEATURES, {"STATE": mode, "ACTION": mode}, STATISTICS, **options)


def floats(*values: float) -> Any:
    return np.array([values], np.float32)


@pytest.mark.parametrize(
    ("mode", "state", "expected"),
    [
        ("IDENTITY", (3.0, 4.0), [3.0, 4.0]),
        ("MEAN_STD", (2.0, 2.0), [2.0, 0.0]),
        ("MIN_MAX", (1.0, 3.0), [-0.5, -1.0]),
        ("QUANTILES", (2.0, 0.5), [1.0, 0.5]),
        ("QUANTILE10", (1.5, 0.0), [1.0, 0.0]),
    ],
)
def test_numbers_are_normalised(mode: str, state: Any, expected: Any) -> None:
    made = normalise(mode)({"observation.state": floats(*state)})["observation.state"]
    assert made.dtype == np.float32 and made.tolist() == [pytest.approx(expected, abs=1e-6)]


def test_a_range_of_zero_is_taken_for_epsilon() -> None:
    made = normalise("MIN_MAX", eps=0.5)({"action": floats(0.0, 3.5)})["action"]
    assert made.tolist() == [[-1.0, 1.0]]
    assert normalise("MEAN_STD", eps=0.5)({"action": floats(1.0, 3.0)})["action"].tolist() == [[0.0, 2.0]]


@given(
    st.sampled_from(sorted(MODES)),
    st.lists(st.tuples(*[st.floats(-10, 10, width=32)] * 2), min_size=1, max_size=4),
)
def test_what_was_normalised_comes_back(mode: str, rows: list[tuple[float, float]]) -> None:
    step = normalise(mode, eps=1e-5)
    values = np.array(rows, np.float32)
    if mode == "MEAN_STD":  # a spread of zero loses its column, as in LeRobot
        values[:, 1] = 2
    back = step.inverse()(step({"action": values[None]}))["action"][0]
    assert np.allclose(back, values, atol=1e-3)


def test_what_has_no_statistics_passes_and_is_named() -> None:
    step = Normalise(FEATURES, {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX"}, STATISTICS)
    image = np.ones((1, 3, 4, 5), np.float32)
    assert step({"observation.images.top": image})["observation.images.top"] is image
    assert step.unknown == {"observation.images.top": "MEAN_STD"} and list(step.normalised) == [
        "observation.state"
    ]
    assert step.describe() == "observation.state by MIN_MAX; no statistics of observation.images.top"


def test_pictures_have_statistics_by_channel() -> None:
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
    step = Normalise(
        FEATURES, {"VISUAL": "MEAN_STD"}, Statistics({"observation.images.top": {"mean": mean, "std": mean}})
    )
    image = np.broadcast_to(mean, (1, 3, 4, 5))
    assert abs(step({"observation.images.top": image})["observation.images.top"]).max() == 0


def test_only_the_observations_that_are_named_are_normalised() -> None:
    step = normalise("MIN_MAX", only=["observation.images.top"])
    assert list(step.normalised) == ["action"], "actions always are"


@pytest.mark.parametrize(
    ("doing", "words"),
    [
        (lambda: normalise("MEANSTD"), "'MEANSTD' is not known.*did you mean 'MEAN_STD'"),
        (lambda: normalise("MIN_MAX")({"action": np.zeros((1, 2), int)}), "action must be floats, got int64"),
        (lambda: normalise("MIN_MAX")({"action": np.zeros((1, 3))}), r"shape \(1, 3\), its statistics .*\(2,\)"),
        (lambda: normalise("MIN_MAX")({"action": np.zeros(())}), r"shape \(\)"),
        (lambda: Rename({"a": "b"})({"a": 1, "b": 2}), "the same name"),
        (lambda: Clamp({"action": (1, 0)}), "lowest must not be above"),
        (lambda: Clamp({"action": (float("nan"), 0)}), "lowest must not be above"),
        (lambda: Clamp({"action": ([0, 0, 0], [1, 1, 1])})({"action": floats(1, 2)}), "do not match"),
        (lambda: Clamp({"action": ([[0], [0]], [[1], [1]])})({"action": floats(1, 2)}), "has limits of shape"),
    ],
)
def test_what_cannot_be_done_is_refused(doing: Any, words: str) -> None:
    with pytest.raises(ProcessingError, match=words):
        doing()


def test_statistics_that_a_mode_needs_and_lacks_are_named() -> None:
    with pytest.raises(StatisticsError, match="'action' lack q01, q99"):
        Normalise(FEATURES, {"ACTION": "QUANTILES"}, Statistics({"action": {"mean": [0.0], "std": [1.0]}}))


def test_one_moment_becomes_a_batch() -> None:
    given = {
        "observation.state": np.zeros(2),
        "observation.environment_state": np.zeros((4, 2)),
        "observation.image": np.zeros((3, 4, 5)),
        "observation.images.top": np.zeros((3, 4, 5)),
        "observation.other": np.zeros(2),
        "action": np.zeros(2),
        "index": np.array(1),
        "task": "pick",
    }
    shapes = {key: np.shape(value) for key, value in AddBatch()(given).items()}
    assert shapes == {
        "observation.state": (1, 2),
        "observation.environment_state": (4, 2),
        "observation.image": (1, 3, 4, 5),
        "observation.images.top": (1, 3, 4, 5),
        "observation.other": (2,),
        "action": (1, 2),
        "index": (1,),
        "task": (1,),
    }
    assert AddBatch()(AddBatch()(given))["task"] == ["pick"]


def test_floats_get_another_type_and_nothing_else_does() -> None:
    batch = {"a": np.zeros(2, np.float32), "tokens": np.zeros(2, np.int64), "task": "pick"}
    made = Cast("cuda", "float16")(batch)
    assert made["a"].dtype == np.float16 and made["tokens"] is batch["tokens"] and made["task"] == "pick"
    assert Cast("cuda")(batch) is batch and "own device" in Cast().describe()


def test_actions_stay_within_limits_and_those_beyond_are_counted() -> None:
    step = Clamp({"action": ([-1, 0], [1, 2])})
    batch = {"action": np.array([[[-2, 0.5], [0.5, 9]]], np.float32)}
    assert step(batch)["action"].tolist() == [[[-1, 0.5], [0.5, 2]]] and step.outside(batch) == 2
    assert step(batch)["action"].dtype == np.float32 and step.outside(step(batch)) == 0
    assert Clamp({"action": (-1, 1)}).outside(batch) == 2 and step.describe() == "action within limits"
