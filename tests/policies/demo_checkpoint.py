"""Writes the demo policy as one network with LeRobot's files: joints and posts in, a chunk of joints out.

What `chunkwise.policies.demo` does in numpy around its velocity is in the graph here: forward kinematics,
features, the steps of the flow from one noise that never changes, rows between knots, the way back to joints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from chunkwise import plugins
from chunkwise.policies.demo import KNOT_STEPS, KNOTS, LANE_SCALE, ROWS, Demo
from chunkwise.tasks import lanes
from chunkwise.tasks.two_belts import FEATURE_SCALE

write_tiny: Any = plugins.load("policies", f"{Path(__file__).with_name('tiny_checkpoint.py')}:write")
STATE, BELTS, ACTION = "observation.state", "observation.environment_state", "action"
STEPS = 5


def write(folder: Path) -> None:
    """An exported policy of the demo task."""
    write_tiny(folder, {STATE: (16,), BELTS: (8,)}, 16, rows=ROWS, network=network)


class Graph:
    """Nodes one after another; every call gives the name of what it makes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        made = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [made], **attributes))
        return made

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def column(self, tensor: str, index: int) -> str:
        """The last axis at `index`."""
        return self("Gather", tensor, index, axis=-1)

    def inline(self, model: Any, **inputs: str) -> str:
        """The nodes of another graph, whose one output it gives."""
        names = dict(inputs)
        for tensor in model.graph.initializer:
            names[tensor.name] = self.constant(numpy_helper.to_array(tensor))
        for node in model.graph.node:
            given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            names[node.output[0]] = self(node.op_type, *(names[each] for each in node.input), **given)
        return names[model.graph.output[0].name]


def hands(graph: Graph, joints: str) -> str:
    """Lane coordinates (1, 2) of joints (1, 16): `lanes.joints_to_lanes`."""
    order = np.array([range(7), range(8, 15)])
    arms = graph(
        "Mul", graph("Gather", joints, order, axis=-1), np.stack([lanes.TURNS, lanes.TURNS * lanes.MIRROR])
    )
    cosines, sines, offsets = graph("Cos", arms), graph("Sin", arms), lanes._table()[3]
    point: list[Any] = [np.full((1, 2), each) for each in offsets[7]]
    for joint in range(6, -1, -1):
        a, b = (lanes.AXES[joint] + 1) % 3, (lanes.AXES[joint] + 2) % 3
        c, s = graph.column(cosines, joint), graph.column(sines, joint)
        old = point[a], point[b]
        point[a] = graph("Sub", graph("Mul", c, old[0]), graph("Mul", s, old[1]))
        point[b] = graph("Add", graph("Mul", s, old[0]), graph("Mul", c, old[1]))
        point = [
            graph("Add", each, np.full((1, 2), shift)) for each, shift in zip(point, offsets[joint], strict=True)
        ]
    return graph("Mul", graph("Sub", point[1], lanes.LANE_CENTRES[0]), np.array([1.0, -1.0]))


def features(graph: Graph, hand: str, posts: str) -> str:
    """(1, 2, 4) of lane coordinates (1, 2) and posts (1, 2, 2, 2): `two_belts.features`."""
    apart = graph("Reshape", posts, np.array([1, 2, 4]))  # x, y of the next, x, y of the one after it
    centres = graph("Add", hand, np.array(lanes.LANE_CENTRES))
    ahead = graph("Sub", graph.column(apart, 0), lanes.GRIP_X)
    beside = [graph("Sub", graph.column(apart, index), centres) for index in (1, 3)]
    known = [graph("Unsqueeze", each, np.array([2])) for each in (ahead, *beside, hand)]
    return graph("Div", graph("Concat", *known, axis=2), FEATURE_SCALE)


def joints(graph: Graph, places: str) -> str:
    """Joints (1, rows, 16) of lane coordinates (1, rows, 2): `lanes.lanes_to_joints`."""
    per_metre, table, steps, _ = lanes._table()
    limit = lanes.LANE_LIMIT
    arms = []
    for lane, mirror in enumerate((np.ones(7), lanes.MIRROR)):
        place = graph("Mul", graph.column(places, lane), 1.0 - 2.0 * lane)
        place = graph("Mul", graph("Add", graph("Clip", place, -limit, limit), limit), per_metre)
        row = graph("Min", graph("Floor", place), len(steps) - 1.0)
        index = graph("Cast", row, to=TensorProto.INT64)
        share = graph("Unsqueeze", graph("Sub", place, row), np.array([2]))
        step = graph("Mul", share, graph("Gather", steps, index, axis=0))
        arms.append(graph("Mul", graph("Add", graph("Gather", table, index, axis=0), step), mirror))
    finger = np.full((1, ROWS, 1), lanes.FINGER)
    return graph("Concat", arms[0], -finger, arms[1], finger, axis=2)


def network(path: Path, seed: int = 0) -> None:
    """The whole as one graph."""
    graph = Graph()
    known = features(graph, hands(graph, STATE), BELTS)
    velocity = onnx.load(Demo.networks["velocity"])
    x = graph.constant(np.random.default_rng(seed).standard_normal((1, KNOTS, 2)))
    for step in range(STEPS):
        speed = graph.inline(velocity, x=x, tau=graph.constant(np.array([step / STEPS])), features=known)
        x = graph("Add", x, graph("Div", speed, float(STEPS)))
    between = np.zeros((ROWS, KNOTS))
    for row in range(ROWS):
        knot, share = divmod(row, KNOT_STEPS)
        between[row, knot] = 1 - share / KNOT_STEPS
        if share:
            between[row, knot + 1] = share / KNOT_STEPS
    rows = graph("MatMul", between, graph("Mul", x, LANE_SCALE))
    graph.nodes.append(helper.make_node("Identity", [joints(graph, rows)], [ACTION]))
    sizes = {STATE: (1, 16), BELTS: (1, 8)}
    made = helper.make_graph(
        graph.nodes,
        "demo",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()],
        [helper.make_tensor_value_info(ACTION, TensorProto.FLOAT, (1, ROWS, 16))],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
