"""The files of an IGRIS-C with two arms of seven joints; the numbers are a test's, not the robot's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def arm(side: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": f"{side}_arm",
        "type": "arm",
        "dof": 7,
        "command": "joint_position",
        "unit": "rad",
        "state": f"/observation/joint_pos/{side}",
        "lower": [-2.0] * 7,
        "upper": [2.0] * 7,
        "max_rate": [1.0] * 7,
        "initial": [0.1] * 7,
    }
    return made | changes


CONFIG: dict[str, Any] = {
    "components": [arm("left"), arm("right", initial=None, lower=None, upper=None)],
    "publish": [
        {
            "topic": "/igris_c/{robot_id}/target_joints",
            "msg_type": "JointState",
            "components": ["right_arm", "left_arm"],
        }
    ],
    "cameras": {"devices": {"head": "/dev/video0"}, "mode": "640x480@30", "rotate": 0},
}
TOPICS: dict[str, Any] = {
    "joints": {
        "topic": "/igris_c/one/joint_states",
        "msg_type": "JointState",
        "fields": {
            "/observation/joint_pos/left": {"attr": "position", "slice": [7, 14]},
            "/observation/joint_pos/right": {"attr": "position", "slice": [0, 7]},
        },
    }
}
PARAMS: dict[str, Any] = {
    "HZ": 20,
    "max_delta_deg": 5,
    "policy_update_period": 50,
    "mono_image_resize": {"width": 32, "height": 24},
    "camera_names": ["head"],
    "proprio_state_dim": 14,
    "action_dim": 14,
    "action_chunk_size": 50,
    "proprio_history_size": 1,
    "num_img_obs": 1,
    "img_obs_every": 1,
    "norm_stats_file_path": "",
}


@contextmanager
def described(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The arguments of a simulated one, whose files are in `folder`."""
    trees = {"config": CONFIG, "params": PARAMS, "topics_file": {"robot_id": "one", "HZ": 20, "topics": TOPICS}}
    for name, tree in trees.items():
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    yield {"simulated": True} | {name: folder / f"{name}.json" for name in trees}
