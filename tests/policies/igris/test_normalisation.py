"""Statistics: applied as in training, changing nothing that is given, and an error where there are none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.policies.igris import MissingFile, PolicyFileError
from chunkwise.policies.igris.normalisation import Normalisation, read_statistics

RNG = np.random.default_rng(0)
STATE = {"mean": RNG.normal(size=24).astype(np.float32), "std": RNG.uniform(0.5, 2, 24).astype(np.float32)}
CURRENT = {"mean": RNG.normal(size=24).astype(np.float32), "std": RNG.uniform(0.5, 2, 24).astype(np.float32)}
ACTION = {"mean": RNG.normal(size=24), "std": RNG.uniform(0.5, 2, 24)}
WHOLE = {"observation.state": STATE, "observation.current": CURRENT, "action": ACTION}


@pytest.fixture
def statistics(tmp_path: Path) -> Normalisation:
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(WHOLE))
    return Normalisation(read_statistics(path))


def test_the_state_is_normalised_and_pictures_are_scaled(statistics: Normalisation) -> None:
    proprio = RNG.normal(size=(3, 48)).astype(np.float32)
    pictures = RNG.integers(0, 256, (1, 3, 4, 5), dtype=np.uint8)
    data = {"proprio": proprio, "head": pictures, "prompt": "fold", "est_delay": 5, "prev_action": proprio}
    before = {key: np.copy(value) for key, value in data.items()}
    made = statistics.normalize_state(data)
    mean = np.concatenate([STATE["mean"], CURRENT["mean"]])
    deviation = np.concatenate([STATE["std"], CURRENT["std"]])
    assert made["proprio"].dtype == made["head"].dtype == np.float32
    np.testing.assert_allclose(made["proprio"], (proprio - mean) / (deviation + 1e-8), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(made["head"], pictures / 255, rtol=1e-6)
    assert made["prompt"] == "fold" and made["est_delay"] == 5 and made["prev_action"] is proprio
    assert all(np.array_equal(data[key], before[key]) for key in data), "the input stays as it was"


def test_positions_alone_are_the_first_columns(statistics: Normalisation) -> None:
    made = statistics.normalize_state({"proprio": np.zeros((1, 24), np.float32)})["proprio"]
    np.testing.assert_allclose(made[0], -STATE["mean"] / STATE["std"], rtol=1e-5)


def test_actions_go_there_and_back(statistics: Normalisation) -> None:
    rows = RNG.normal(size=(50, 24)) * 7
    normalised = statistics.normalize_action(rows)
    np.testing.assert_allclose(normalised, (rows - ACTION["mean"]) / ACTION["std"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics.denormalize_action(normalised), rows, rtol=1e-5, atol=1e-5)


def test_the_inverse_is_exact_also_of_a_column_that_never_changed(tmp_path: Path) -> None:
    flat = {"mean": np.full(24, 0.5), "std": np.zeros(24)}
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps({**WHOLE, "action": flat}))
    made, rows = Normalisation(read_statistics(path)), np.linspace(-7, 7, 48, dtype=np.float32).reshape(2, 24)
    np.testing.assert_allclose(made.denormalize_action(made.normalize_action(rows)), rows, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["normalize_action", "denormalize_action"])
def test_another_number_of_columns_is_refused(statistics: Normalisation, method: str) -> None:
    with pytest.raises(PolicyFileError, match="statistics of action have 24 columns, the values have 16"):
        getattr(statistics, method)(np.zeros((50, 16)))
    with pytest.raises(
        PolicyFileError, match=r"statistics of observation.state have 48 columns, the values have 49"
    ):
        statistics.normalize_state({"proprio": np.zeros((1, 49))})


@pytest.mark.parametrize("call", ["normalize_state", "normalize_action", "denormalize_action"])
def test_without_statistics_every_method_says_so(call: str) -> None:
    values: Any = {"proprio": np.zeros((1, 24))} if call == "normalize_state" else np.zeros((50, 24))
    with pytest.raises(PolicyFileError, match="there are none: name their file by norm_stats_file_path"):
        getattr(Normalisation(None), call)(values)


def test_statistics_of_openpi(tmp_path: Path) -> None:
    tree = {"norm_stats": {key: {"mean": [1.0, 2.0], "std": [2.0, 4.0]} for key in ("state", "actions")}}
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps(tree))
    made = Normalisation(read_statistics(path))
    np.testing.assert_allclose(made.normalize_action(np.array([[3.0, 6.0]])), [[1.0, 1.0]])
    np.testing.assert_allclose(made.normalize_state({"proprio": np.array([[3.0, 2.0]])})["proprio"], [[1.0, 0.0]])


class _Runs:
    def __reduce__(self) -> Any:
        return print, ("a pickle ran",)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps(_Runs()), pickle.dumps({**WHOLE, "more": _Runs()}), pickle.dumps([1])],
)
def test_a_pickle_of_anything_else_is_refused_and_not_run(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stats.pkl"
    path.write_bytes(content)
    with pytest.raises(PolicyFileError, match=r"stats.pkl"):
        read_statistics(path)
    assert not capsys.readouterr().out


def test_missing_statistics_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"norm_stats_file_path: no file .*stats.pkl"):
        read_statistics(tmp_path / "stats.pkl")
