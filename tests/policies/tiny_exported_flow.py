"""Writes an exported flow by hand, without torch: v = (observation.state - x) / 2, and its product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.engines import TensorSpec
from chunkwise.engines._exported import Exported

TINY = Path(__file__).with_name("tiny_checkpoint.py")
STATE, ACTION = "observation.state", "action"


def write(folder: Path, dim: int, rows: int = 10) -> None:
    """A directory for chunks of `rows` rows of `dim` numbers, each of which goes where the state is."""
    import onnx
    from onnx import TensorProto, helper

    plugins.load("policies", f"{TINY}:write")(folder, {STATE: (dim,)}, dim, rows=rows, kind="flow")
    (folder / "model.onnx").unlink()
    chunk, given = (1, rows, dim), {"x": (1, rows, dim), "t": (1, 1)}
    guided = {**given, "target": chunk, "weights": (1, rows), STATE: (1, dim)}
    velocity = [
        _constant("half", [], [0.5]),
        _constant("rows", [1], [1], whole=True),
        helper.make_node("Unsqueeze", [STATE, "rows"], ["goal"]),
        helper.make_node("Sub", ["goal", "x"], ["away"]),
        helper.make_node("Mul", ["away", "half"], ["velocity"]),
    ]
    pull = [
        *velocity,
        _constant("one", [], [1.0]),
        _constant("minus_half", [], [-0.5]),
        _constant("last", [1], [2], whole=True),
        helper.make_node("Sub", ["one", "t"], ["left"]),
        helper.make_node("Unsqueeze", ["left", "last"], ["left_wide"]),
        helper.make_node("Mul", ["left_wide", "velocity"], ["ahead"]),
        helper.make_node("Add", ["x", "ahead"], ["clean"]),
        helper.make_node("Sub", ["target", "clean"], ["missing"]),
        helper.make_node("Unsqueeze", ["weights", "last"], ["weights_wide"]),
        helper.make_node("Mul", ["weights_wide", "missing"], ["error"]),
        helper.make_node("Mul", ["error", "minus_half"], ["pulled"]),
    ]
    for name, nodes, takes, answers in (
        ("velocity", velocity, {**given, STATE: (1, dim)}, ["velocity"]),
        ("pull", pull, guided, ["velocity", "error", "pulled"]),
    ):
        ports = [
            [helper.make_tensor_value_info(port, TensorProto.FLOAT, shape) for port, shape in side.items()]
            for side in (takes, dict.fromkeys(answers, chunk))
        ]
        graph = helper.make_graph(nodes, name, *ports)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{name}.onnx")
    Exported(
        folder,
        "onnx",
        "velocity.onnx",
        "flow",
        {STATE: TensorSpec((1, dim), "float32")},
        {ACTION: TensorSpec(chunk, "float32")},
    ).write()


def _constant(name: str, shape: list[int], values: list[float], *, whole: bool = False) -> Any:
    from onnx import TensorProto, helper

    kind = TensorProto.INT64 if whole else TensorProto.FLOAT
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values))
