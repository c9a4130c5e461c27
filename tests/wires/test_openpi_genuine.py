"""The genuine openpi client against a server of ours; `make openpi-env` makes the environment it lives in."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec
from chunkwise.server import Settings

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-openpi"
CLIENT = Path(__file__).with_name("genuine_openpi.py")
HORIZON = 12
PARTS = {"right_arm": 6, "right_gripper": 1, "left_arm": 6, "left_gripper": 1}
Serve = Callable[..., Any]


@pytest.fixture
def genuine() -> Callable[..., Any]:
    """Runs the genuine client; what it printed."""
    if not (VENV / ".ready").exists():
        pytest.skip(f"no {VENV.name}; make it with `make openpi-env`")

    def run(*words: Any) -> Any:
        done = subprocess.run(
            [str(VENV / "bin" / "python"), str(CLIENT), *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)

    return run


class Reads:
    """Three cameras and fourteen numbers of an ALOHA, its right side first; stays where it is.

    Attributes:
        seen: every frame.
    """

    def __init__(self) -> None:
        names = {part: [f"{part}{index}" for index in range(size)] for part, size in PARTS.items()}
        outputs = [
            PolicyOutputSpec(part, "joint_position" if size > 1 else "gripper_position", size)
            for part, size in PARTS.items()
        ]
        cameras = ["cam_high", "cam_left_wrist", "cam_right_wrist"]
        self.spec = PolicySpec("reads", cameras, list(PARTS), outputs=outputs, state_names=names, action_horizon=5)
        self.seen: list[Frame] = []

    def session(self) -> Reads:
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        self.seen.append(frame)
        row = np.concatenate([frame.state[part] for part in PARTS])
        return ActionChunk(np.tile(row, (5, 1)))


def test_the_genuine_client_gets_what_it_needs(serve: Serve, genuine: Any) -> None:
    policy = Reads()
    found = genuine("talk", serve(policy, "openpi").ports["openpi"])
    assert found["metadata"]["action_keys"] == ["left_arm", "left_gripper", "right_arm", "right_gripper"]
    assert found["dtype"] == "<f4" and found["policy_ms"] >= 0
    for row in found["actions"]:
        assert np.allclose(row, np.arange(14) / 10)  # as it was sent: its left side first
    assert found["timings"] == [["infer_ms"], ["infer_ms", "prev_total_ms"], ["infer_ms", "prev_total_ms"]]
    assert "camera 'cam_high' is missing" in found["error"]  # told, and the connection went on
    for frame in policy.seen:
        assert frame.task == {"prompt": "transfer cube"} and list(frame.images) == policy.spec.required_image_keys
        for image in frame.images.values():
            assert image.shape == (224, 224, 3)
            assert (image[:112] == (255, 0, 0)).all() and not image[112:].any()


def test_the_genuine_client_shows_its_key(serve: Serve, genuine: Any) -> None:
    port = serve(Reads(), "openpi", settings=Settings(token="s3cret")).ports["openpi"]
    assert "HTTP 401" in genuine("knock", port, "another")["error"]
    assert genuine("knock", port, "s3cret")["metadata"]["policy"] == "reads"


def test_the_genuine_client_and_its_broker_drive_the_simulated_robot(serve: Serve, genuine: Any) -> None:
    demo = plugins.load("policies", "demo")()
    asked = itertools.count()

    class Numbered:
        """The demo policy with requests numbered by count: its noise hangs on that, and not on the clock."""

        spec = demo.spec

        def session(self) -> Numbered:
            return self

        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            return demo.infer(frame, replace(request, request_step=HORIZON * next(asked)))

    episodes = 2
    found = genuine("drive", serve(Numbered(), "openpi").ports["openpi"], HORIZON, episodes)
    assert found["steps"] == episodes * 325
    for score in found["scores"]:
        assert score["passed"] == 10 and score["hits"] == 0 and not score["failed"], found
