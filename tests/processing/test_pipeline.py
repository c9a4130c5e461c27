"""Steps one after the other, and back."""

from __future__ import annotations

import numpy as np
import pytest

from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.pipeline import Pipeline
from chunkwise.processing.statistics import Statistics
from chunkwise.processing.steps import AddBatch, Feature, Normalise, Rename

FEATURES = {"observation.state": Feature("STATE", (2,))}
STATISTICS = Statistics({"observation.state": {"mean": [1.0, 2.0], "std": [0.5, 4.0]}})
NORMALISE = Normalise(FEATURES, {"STATE": "MEAN_STD"}, STATISTICS)


def test_steps_follow_each_other() -> None:
    pipeline = Pipeline([Rename({"state": "observation.state"}), AddBatch(), NORMALISE])
    given = {"state": np.array([2, 2], np.float32), "task": "pick"}
    made = pipeline(given)
    assert made["observation.state"].round(6).tolist() == [[2.0, 0.0]] and made["task"] == ["pick"]
    assert given["state"].tolist() == [2, 2] and given["task"] == "pick", "what is given stays"


def test_a_pipeline_says_what_it_does() -> None:
    assert Pipeline([Rename({}), NORMALISE], ["beware"]).describe() == [
        "0 rename_observations_processor: no other names",
        "1 normalizer_processor: observation.state by MEAN_STD",
        "! beware",
    ]


def test_what_was_done_is_taken_back() -> None:
    pipeline = Pipeline([Rename({"state": "observation.state"}), NORMALISE])
    state = np.array([[3.5, -7.0]], np.float32)
    assert np.allclose(pipeline.inverse()(pipeline({"state": state}))["state"], state, atol=1e-6)


def test_what_cannot_be_taken_back_is_named() -> None:
    with pytest.raises(ProcessingError, match="taken back: to_batch_processor"):
        Pipeline([NORMALISE, AddBatch()]).inverse()
