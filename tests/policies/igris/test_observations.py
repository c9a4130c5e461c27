"""History newest first, by control step and without a zero; and the running plan as a policy gets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest
from chunkwise.policies.igris import read_runtime_params
from chunkwise.policies.igris.observations import History, Sight, running_plan


def sight(value: int) -> Sight:
    return Sight(
        np.full(16, value, dtype=np.float32),
        {name: np.full((3, 24, 32), value, dtype=np.uint8) for name in ("head", "left", "right")},
    )


def history(folder: Any, **changes: Any) -> History:
    return History(read_runtime_params(folder.params(**changes)))


def column(data: dict[str, Any], key: str = "proprio") -> list[int]:
    return [int(row.flat[0]) for row in data[key]]


def test_shapes_and_dtypes(folder: Any) -> None:
    data = history(folder, proprio_history_size=4, num_img_obs=2).input_data(0, sight(7))
    assert data["proprio"].shape == (4, 16) and data["proprio"].dtype == np.float32
    for name in ("head", "left", "right"):
        assert data[name].shape == (2, 3, 24, 32) and data[name].dtype == np.uint8


def test_the_newest_comes_first_and_the_first_repeats(folder: Any) -> None:
    seen = history(folder, proprio_history_size=4, num_img_obs=2, img_obs_every=2)
    data = [seen.input_data(step, sight(step + 10)) for step in range(6)]
    assert column(data[0]) == [10, 10, 10, 10] and column(data[0], "head") == [10, 10]
    assert column(data[2]) == [12, 11, 10, 10] and column(data[2], "left") == [12, 10]
    assert column(data[5]) == [15, 14, 13, 12] and column(data[5], "right") == [15, 13]


def test_steps_without_an_observation_count_as_the_last_one_before(folder: Any) -> None:
    seen = history(folder, proprio_history_size=6)
    for step in (0, 3):
        seen.input_data(step, sight(step))
    assert column(seen.input_data(5, sight(5))) == [5, 3, 3, 0, 0, 0]


def test_a_step_that_comes_again_begins_again_from_there(folder: Any) -> None:
    seen = history(folder, proprio_history_size=3)
    for step in (0, 1, 2):
        seen.input_data(step, sight(step))
    assert column(seen.input_data(1, sight(9))) == [9, 0, 0]
    seen.clear()
    assert column(seen.input_data(1, sight(4))) == [4, 4, 4]


def test_only_what_is_looked_back_at_is_kept(folder: Any) -> None:
    seen = history(folder, proprio_history_size=2, num_img_obs=3, img_obs_every=5)
    for step in range(1000):
        seen.input_data(step, sight(step % 200))
    assert len(seen._seen) == 11


def test_inputs_are_fresh_arrays(folder: Any) -> None:
    seen = history(folder, proprio_history_size=2)
    first = seen.input_data(0, sight(1))
    first["proprio"][:] = 99
    first["head"][:] = 99
    again = seen.input_data(1, sight(2))
    assert column(again) == [2, 1] and column(again, "head") == [2]


def request(rows: int, delay: int | None, latency: int = 0) -> ChunkRequest:
    plan = np.arange(rows, dtype=np.float64)[:, None] + np.array([[10.0, 20.0]])
    return ChunkRequest(7, latency_steps=latency, inference_delay=delay, prefix=plan)


def test_the_plan_is_padded_by_its_last_row_and_never_by_zeros() -> None:
    data = running_plan(request(3, 1), 8)
    assert data["prev_action"][:, 0].tolist() == [10, 11, 12, 12, 12, 12, 12, 12]
    assert data["action"][:, 1].tolist() == [20, 20, 20, 20, 20, 20, 21, 22]
    assert data["prev_action"].dtype == data["action"].dtype == np.float32
    assert data["num_control_iters"] == 5


@pytest.mark.parametrize(("rows", "delay", "says"), [(3, 1, 1), (3, 3, 3), (3, 60, 3), (8, 60, 8), (3, -1, 0)])
def test_the_delay_never_exceeds_what_is_left_of_the_plan(rows: int, delay: int, says: int) -> None:
    data = running_plan(request(rows, delay), 8)
    assert data["est_delay"] == says <= 8 - data["num_control_iters"]


def test_the_delay_is_the_measured_one_where_the_request_plans_with_none() -> None:
    assert running_plan(request(6, None, latency=4), 8)["est_delay"] == 4


def test_a_plan_longer_than_a_chunk_is_cut() -> None:
    data = running_plan(request(9, 2), 4)
    assert data["prev_action"][:, 0].tolist() == [10, 11, 12, 13] and data["num_control_iters"] == 0
