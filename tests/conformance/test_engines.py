"""Every engine there is keeps the contract of an engine, on a small network of its own kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.engines import Engine, TensorSpec
from chunkwise.engines import _conversion as conversion
from chunkwise.engines._exported import Exported
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.testing import EngineConformance

INPUTS = {"observation.state": TensorSpec((1, 3), "float32")}
OUTPUTS = {"action": TensorSpec((1, 2), "float32")}


def onnx_file(folder: Path) -> Path:
    """``action = tanh(state @ weights)``, for any batch."""
    onnx = pytest.importorskip("onnx")
    weights = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["observation.state", "weights"], ["product"]),
        onnx.helper.make_node("Tanh", ["product"], ["action"]),
    ]
    ends = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])]
        for name, width in (("observation.state", 3), ("action", 2))
    ]
    graph = onnx.helper.make_graph(nodes, "small", *ends, [onnx.numpy_helper.from_array(weights, "weights")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def openvino_file(folder: Path) -> Path:
    path = folder / "model.xml"
    conversion.write_openvino(onnx_file(folder), path)
    return path


def torch_program() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).eval()
    return conversion.program_of(layers, {"state": np.zeros((1, 3), np.float32)})


def torch_file(folder: Path) -> Path:
    path = folder / "model.pt2"
    conversion.write_torch(torch_program(), path)
    return path


def aoti_folder(folder: Path) -> Path:
    conversion.write_aoti(torch_program(), folder / "model.pt2", threads=1)
    Exported(folder, "aoti", "model.pt2", "small", INPUTS, OUTPUTS, device="cpu").write()
    return folder


def act_checkpoint(folder: Path) -> Path:
    """An ACT without cameras, which is small."""
    import_lerobot("lerobot.policies.factory")
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = ACTConfig(
        device="cpu",
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (2,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        chunk_size=4,
        n_action_steps=4,
        dim_model=16,
        n_heads=2,
        dim_feedforward=16,
        n_encoder_layers=1,
        use_vae=False,
    )
    ACTPolicy(config).save_pretrained(folder)
    return folder


def compiled_folder(folder: Path, backend: str, **artifacts: str) -> Path:
    """A policy's directory beside what was compiled of it."""
    features = {
        "input_features": {"observation.state": {"type": "STATE", "shape": [3]}},
        "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    }
    (folder / "config.json").write_text(json.dumps({"type": "act", "device": "cuda", **features}))
    (folder / "config.om.json").write_text(json.dumps({"backend": backend, "artifacts": artifacts}))
    return folder


def om_folder(folder: Path) -> Path:
    fixed_batch(onnx_file(folder)).rename(folder / "policy.om")
    return compiled_folder(folder, "ascend_om", policy="policy.om")


def rknn_folder(folder: Path) -> Path:
    fixed_batch(onnx_file(folder)).rename(folder / "model.rknn")
    return compiled_folder(folder, "rknn", policy="model.rknn")


def worker_folder(folder: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    with open(folder / "policy.om", "wb") as file:
        np.savez(file, weights=weights, stride=8, dim=2)
    worker = folder / "worker"
    worker.write_text(f"#!{sys.executable}\n{(VENDORS / 'svp_worker.py').read_text()}")
    worker.chmod(0o755)
    return compiled_folder(folder, "ascend_om_3403", policy="policy.om", worker="worker")


def fixed_batch(path: Path) -> Path:
    """Compilers know all sizes."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    return path


NETWORKS: dict[str, Callable[[Path], Path]] = {
    "aoti": aoti_folder,
    "ascend_om": om_folder,
    "ascend_om_3403": worker_folder,
    "lerobot": act_checkpoint,
    "onnx": onnx_file,
    "openvino": openvino_file,
    "rknn": rknn_folder,
    "torch": torch_file,
}
SLOW = ("aoti", "lerobot", "torch")
"""These import torch, which takes seconds."""
VENDORS = Path(__file__).parents[1] / "engines" / "fake_vendors"
"""What stands for the runtimes of accelerators."""


@pytest.fixture(scope="module")
def paths() -> dict[str, Path]:
    """Networks that were made already."""
    return {}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in plugins.names("engines")]
)
def engine(
    request: pytest.FixtureRequest,
    paths: dict[str, Path],
    tmp_path_factory: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The adapter's class and its network, which the test's instance gets."""
    name = request.param
    monkeypatch.syspath_prepend(str(VENDORS))
    if name not in paths:
        paths[name] = NETWORKS[name](tmp_path_factory.mktemp(name))
    request.instance.adapter, request.instance.path = plugins.load("engines", name), paths[name]


@pytest.mark.usefixtures("engine")
class TestEngines(EngineConformance):
    adapter: Any
    path: Path

    def make_engine(self) -> Engine:
        made: Engine = self.adapter()
        return made

    def network(self) -> str:
        return str(self.path)
