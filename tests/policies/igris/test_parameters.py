"""The runtime parameters: every key is needed, checked, and nothing else is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chunkwise.policies.igris import MissingFile, PolicyFileError, read_runtime_params


def test_a_file_is_read_wholly(folder: Any) -> None:
    params = read_runtime_params(folder.params(norm_stats_file_path="stats.pkl", camera_names=["head"], HZ=12.5))
    assert params.control_hz == 12.5 and params.max_delta_deg == 5.0 and params.policy_update_period == 50
    assert (params.image_width, params.image_height, params.camera_names) == (32, 24, ("head",))
    assert (params.proprio_state_dim, params.action_dim, params.action_chunk_size) == (16, 16, 50)
    assert (params.proprio_history_size, params.num_img_obs, params.img_obs_every) == (1, 1, 1)
    assert params.norm_stats == str(folder.path / "stats.pkl")
    assert read_runtime_params(folder.params()).norm_stats == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"HZ": ..., "num_img_obs": ...}, "without HZ, num_img_obs; every key is needed"),
        ({"HZZ": 20}, r"unknown key 'HZZ' \(did you mean 'HZ'\?\)"),
        ({"HZ": 0}, "HZ must be above 0 and at most 1000, got 0"),
        ({"HZ": "20"}, "HZ must be above 0"),
        ({"HZ": True}, "HZ must be above 0"),
        ({"max_delta_deg": -5}, "max_delta_deg must be above 0"),
        ({"action_dim": 24.0}, "action_dim must be a whole number from 1 to 4096, got 24.0"),
        ({"action_chunk_size": 5000}, "action_chunk_size must be a whole number from 1 to 4096"),
        ({"proprio_history_size": 0}, "proprio_history_size must be a whole number"),
        ({"num_img_obs": True}, "num_img_obs must be a whole number"),
        ({"mono_image_resize": {"width": 320}}, "height must be a whole number from 1 to 8192, got None"),
        ({"mono_image_resize": {"width": 1, "height": 1, "hight": 1}}, "did you mean 'height'"),
        ({"mono_image_resize": [320, 240]}, "mono_image_resize must be a mapping"),
        ({"camera_names": "head"}, "camera_names must be a list of names"),
        ({"camera_names": ["head", "head"]}, "'head' is taken"),
        ({"camera_names": ["proprio"]}, "'proprio' is taken"),
        ({"norm_stats_file_path": None}, 'must be a path, or "" for none'),
        ({"policy_update_period": 51}, "the plan would end before the next one is made"),
    ],
)
def test_what_cannot_be_is_refused_by_name(folder: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyFileError, match=said):
        read_runtime_params(folder.params(**changes))


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"HZ": 20, "HZ": 30}', '{"HZ": NaN}', '{"HZ": 1e999}', "[" * 9999]
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.json"
    path.write_text(text)
    with pytest.raises(PolicyFileError, match=r"params.json"):
        read_runtime_params(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"runtime parameters: no file .*params.json"):
        read_runtime_params(tmp_path / "params.json")
