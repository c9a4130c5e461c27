"""Observations become tensors, or are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.steps import Feature
from chunkwise.processing.tensors import tensors

FEATURES = {
    "observation.state": Feature("STATE", (2,)),
    "observation.images.top": Feature("VISUAL", (3, 4, 5)),
    "observation.language.tokens": Feature("LANGUAGE", (3,)),
    "action": Feature("ACTION", (2,)),
}
SEEN: dict[str, Any] = {
    "observation.state": np.array([1.0, 2.0]),
    "observation.images.top": np.full((4, 5, 3), 51, np.uint8),
    "observation.language.tokens": np.array([5, 6, 7]),
    "task": "pick",
}


def test_an_observation_becomes_tensors() -> None:
    made = tensors(SEEN, FEATURES)
    assert list(made) == [*list(SEEN)[:3], "task"] and made["task"] == "pick"
    assert made["observation.state"].dtype == np.float32 and made["observation.state"].tolist() == [1, 2]
    assert made["observation.images.top"].shape == (3, 4, 5)
    assert np.unique(made["observation.images.top"]) == np.float32(0.2)
    assert made["observation.language.tokens"].dtype == np.int64
    assert "task" not in tensors({key: SEEN[key] for key in SEEN if key != "task"}, FEATURES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observation.state": None}, "observation.state must be numbers, got object"),
        ({"observation.state": [[1, 2], [3]]}, "observation.state must be an array"),
        ({"observation.state": np.zeros(3)}, r"observation.state must have shape \(2,\), got \(3,\)"),
        ({"observation.state": np.array([0, np.nan])}, "not finite"),
        ({"observation.state": np.array([0, 1e300])}, "not finite"),
        (
            {"observation.images.top": np.zeros((4, 6, 3), np.uint8)},
            r"must have shape \(3, 4, 5\), got \(3, 4, 6\)",
        ),
        ({"observation.images.top": np.full((3, 4, 5), 255.0)}, "within 0 to 1"),
        (
            {"observation.images.tip": 1},
            "takes no 'observation.images.tip' .did you mean 'observation.images.top'",
        ),
        ({"task": 7}, "task must be a text, got int"),
    ],
)
def test_what_does_not_match_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with np.errstate(over="ignore"), pytest.raises(ProcessingError, match=words):
        tensors({**SEEN, **change}, FEATURES)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(
        ProcessingError, match=r"lacks observation.state, observation.images.top; it has: task, obs"
    ):
        tensors({"task": "x", "observation.language.tokens": [1, 2, 3]}, FEATURES)
    with pytest.raises(ProcessingError, match="it has: nothing"):
        tensors({}, FEATURES)
