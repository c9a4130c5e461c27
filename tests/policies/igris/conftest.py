"""A policy of the IGRIS protocol that answers what it saw, as files in a folder of the test's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import Frame, RobotSpec
from chunkwise.policies.igris import COMPONENT_REGISTRY, POLICY_REGISTRY

POLICY = """
import numpy as np
from chunkwise.policies.igris.registry import COMPONENT_REGISTRY, POLICY_REGISTRY

@COMPONENT_REGISTRY.register("{name}_part")
class Part:
    def __init__(self, gain=1.0):
        self.gain = gain

@POLICY_REGISTRY.register("{name}")
class Echo:
    def __init__(self, components, rows=50):
        self.part, self.rows, self.calls, self.frozen = components["main"], rows, [], False

    def predict(self, input_data, data_normalization_interface):
        self.calls.append(("predict", input_data))
        return np.tile(self.part.gain * input_data["proprio"][0], (self.rows, 1))

    def guided_inference(self, input_data, normalization, min_num_actions_executed, action_chunk_size):
        seen = {{**input_data, "s": min_num_actions_executed, "H": action_chunk_size}}
        self.calls.append(("guided_inference", seen))
        return input_data["prev_action"]

    def warmup(self):
        self.calls.append(("warmup", {{}}))

    def freeze_all_model_params(self):
        self.frozen = True
"""

PARAMS: dict[str, Any] = {
    "HZ": 20,
    "max_delta_deg": 5,
    "policy_update_period": 50,
    "mono_image_resize": {"width": 32, "height": 24},
    "camera_names": ["head", "left", "right"],
    "proprio_state_dim": 16,
    "action_dim": 16,
    "action_chunk_size": 50,
    "proprio_history_size": 1,
    "num_img_obs": 1,
    "img_obs_every": 1,
    "norm_stats_file_path": "",
}


class Folder:
    """Files of one policy, and what it looks at.

    Attributes:
        path: the folder.
        yaml: the policy YAML.
    """

    def __init__(self, path: Path, name: str = "echo") -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.yaml = path, path / f"{name}.yaml"
        self.write(f"{name}.py", POLICY.format(name=name))
        self.write(f"{name}_part.yaml", "params: {}")
        self.write(
            f"{name}.yaml",
            f"model: {{component_config_paths: {{main: {name}_part.yaml}}}}\npolicy: {{type: {name}}}",
        )
        self.params()

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def params(self, **changes: Any) -> Path:
        """The runtime parameters with changes; a key whose value is `...` is left out."""
        kept = {key: value for key, value in (PARAMS | changes).items() if value is not ...}
        return self.write("inference_runtime_params.json", json.dumps(kept))

    @staticmethod
    def robot() -> RobotSpec:
        """Two arms with grippers, 16 columns, right first, and three cameras."""
        spec: RobotSpec = plugins.load("robots", "mock")(cameras=("head", "left", "right"), control_hz=20.0).spec
        return spec

    def frame(self, seed: int = 0) -> Frame:
        """An observation of it."""
        rng = np.random.default_rng(seed)
        state = {part.name: rng.uniform(-0.05, 0.05, part.dof) for part in self.robot().components}
        images = {name: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for name in ("head", "left", "right")}
        return Frame(images, state)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "policies" / "echo")


@pytest.fixture(autouse=True)
def _nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins with the registries as they ship."""
    for registry in (POLICY_REGISTRY, COMPONENT_REGISTRY):
        ours = {key: item for key, item in registry._there.items() if item.__module__.startswith("chunkwise.")}
        monkeypatch.setattr(registry, "_there", ours)
    for name in [name for name in sys.modules if name.startswith("igris_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("igris_"):
            del sys.modules[name]
