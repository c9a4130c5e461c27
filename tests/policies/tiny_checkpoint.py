"""Writes exported policies of a few kilobytes: LeRobot's own files and a network of one matrix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines import TensorSpec
from chunkwise.engines._exported import Exported
from chunkwise.processing import safetensors

STATE, FRONT, ACTION = "observation.state", "observation.images.front", "action"
KINDS = {"observation.state": "STATE", "observation.environment_state": "ENV", "action": "ACTION"}
PRE_STATE = "policy_preprocessor_step_3_normalizer_processor.safetensors"
POST_STATE = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"


class Tiny:
    """What was written, and what it should answer.

    Attributes:
        folder: the directory.
        weights: of the network, (numbers of all inputs, rows * dim).
        statistics: feature -> mean, std, min, max.
    """

    def __init__(self, folder: Path, weights: NDArray[Any], statistics: Mapping[str, Any], rows: int) -> None:
        self.folder, self.weights, self.statistics, self.rows = folder, weights, statistics, rows

    def actions(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """The network's and the processors' arithmetic on normalised inputs, in numpy and in float64."""
        known = np.concatenate([np.ravel(item) for item in inputs])
        chunk = np.tanh(known @ self.weights.astype(np.float64)).reshape(self.rows, -1)
        return chunk * self.statistics[ACTION]["std"] + self.statistics[ACTION]["mean"]

    def normalised(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """As the preprocessor should."""
        return (value - self.statistics[name]["mean"]) / (self.statistics[name]["std"] + 1e-8)


def write(
    folder: Path,
    inputs: Mapping[str, tuple[int, ...]],
    dim: int,
    *,
    rows: int = 10,
    kind: str = "act",
    n_obs_steps: int = 1,
    hold: NDArray[Any] | None = None,
    spread: float = 0.3,
    seed: int = 0,
    network: Callable[[Path], None] | None = None,
) -> Tiny:
    """An exported policy.

    Args:
        folder: where; made here.
        inputs: features and their shapes.
        dim: columns of a row.
        rows: rows of a chunk.
        kind: the policy's type.
        n_obs_steps: observations that it reads together, for kinds that read several.
        hold: mean of the actions, (dim,); random by default.
        spread: their standard deviation.
        seed: of weights and statistics.
        network: writes another network, of numbers that nobody scales.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    statistics = {name: _statistics(rng, shape) for name, shape in inputs.items()}
    statistics[ACTION] = _statistics(rng, (dim,))
    statistics[ACTION]["std"] = np.full(dim, spread, np.float32)
    if network is not None:
        statistics = {name: _unscaled(each) for name, each in statistics.items()}
    if hold is not None:
        statistics[ACTION]["mean"] = np.asarray(hold, np.float32)
    features = {name: {"type": KINDS.get(name, "VISUAL"), "shape": list(shape)} for name, shape in inputs.items()}
    action = {ACTION: {"type": "ACTION", "shape": [dim]}}
    _write_processors(folder, features, action, statistics)
    config = {"type": kind, "n_obs_steps": n_obs_steps, "input_features": features, "output_features": action}
    _write_json(folder / "config.json", {**config, "device": "cuda", "chunk_size": rows})
    before = (1, n_obs_steps) if kind == "diffusion" else (1,)
    sizes = {name: (*before, *shape) for name, shape in inputs.items()}
    weights = rng.normal(0, 0.2, (sum(map(int, map(np.prod, sizes.values()))), rows * dim)).astype(np.float32)
    if network is None:
        write_network(folder / "model.onnx", sizes, weights, (1, rows, dim))
    else:
        network(folder / "model.onnx")
    Exported(
        folder,
        "onnx",
        "model.onnx",
        kind,
        {name: TensorSpec(size, "float32") for name, size in sizes.items()},
        {ACTION: TensorSpec((1, rows, dim), "float32")},
    ).write()
    return Tiny(folder, weights, statistics, rows)


def write_network(
    path: Path, inputs: Mapping[str, tuple[int, ...]], weights: NDArray[Any], output: tuple[int, ...]
) -> None:
    """``action = tanh(all inputs side by side @ weights)``, as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Flatten", [name], [f"flat{i}"], axis=1) for i, name in enumerate(inputs)]
    nodes += [
        helper.make_node("Concat", [f"flat{i}" for i in range(len(inputs))], ["known"], axis=1),
        helper.make_node("MatMul", ["known", "weights"], ["sums"]),
        helper.make_node("Tanh", ["sums"], ["bounded"]),
        helper.make_node("Reshape", ["bounded", "shape"], [ACTION]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(ACTION, TensorProto.FLOAT, output)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(output, np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def _statistics(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    shape = shape if len(shape) == 1 else (shape[0], 1, 1)
    mean = rng.uniform(0.2, 0.6, shape).astype(np.float32)
    std = rng.uniform(0.2, 0.4, shape).astype(np.float32)
    return {"mean": mean, "std": std, "min": mean - 2, "max": mean + 2}


def _unscaled(of: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    zero = np.zeros_like(of["mean"])
    return {"mean": zero, "std": zero + 1, "min": zero - 10, "max": zero + 10}


def _write_processors(folder: Path, inputs: Any, action: Any, statistics: Mapping[str, Any]) -> None:
    norm_map = dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), "MEAN_STD")
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
        {
            "registry_name": "normalizer_processor",
            "config": {"eps": 1e-8, "features": {**inputs, **action}, "norm_map": norm_map},
            "state_file": PRE_STATE,
        },
    ]
    after = [
        {
            "registry_name": "unnormalizer_processor",
            "config": {"eps": 1e-8, "features": action, "norm_map": norm_map},
            "state_file": POST_STATE,
        },
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
    ]
    _write_json(folder / "policy_preprocessor.json", {"name": "policy_preprocessor", "steps": before})
    _write_json(folder / "policy_postprocessor.json", {"name": "policy_postprocessor", "steps": after})
    flat = {f"{name}.{stat}": value for name, stats in statistics.items() for stat, value in stats.items()}
    for file in (PRE_STATE, POST_STATE):
        (folder / file).write_bytes(safetensors.write(flat))


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2), encoding="utf-8")
