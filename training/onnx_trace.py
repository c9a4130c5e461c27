"""Writes numpy functions down as ONNX graphs of plain operators, by running them on symbols.

    graph = Graph()
    x = graph.input("x", ("batch", 3))
    graph.output("y", np.tanh(x @ weights) + 1.0, ("batch", 2))
    onnx.save(graph.model("my_graph"), "my_graph.onnx")

A symbol takes part in numpy's arithmetic through the array protocol (NEP 13): each ufunc becomes the operator of
the same meaning, arrays and numbers met on the way become float32 constants, each stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8

OPERATORS = {
    np.add: "Add",
    np.subtract: "Sub",
    np.multiply: "Mul",
    np.true_divide: "Div",
    np.negative: "Neg",
    np.matmul: "MatMul",
    np.sqrt: "Sqrt",
    np.tanh: "Tanh",
    np.cos: "Cos",
}


class Symbol(np.lib.mixins.NDArrayOperatorsMixin):
    """A tensor that will exist once the graph runs."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Symbol:
        if method != "__call__" or options or ufunc not in OPERATORS:
            raise TypeError(f"{ufunc.__name__} cannot be written as an ONNX operator here")
        return self.graph.node(OPERATORS[ufunc], *inputs)

    def mean(self, axis: int, keepdims: bool) -> Symbol:
        return self.graph.node("ReduceMean", self, axes=[axis], keepdims=int(keepdims))

    def transpose(self, *axes: int) -> Symbol:
        return self.graph.node("Transpose", self, perm=axes)

    @property
    def T(self) -> Symbol:  # numpy's name
        """Transpose of a matrix."""
        return self.transpose(1, 0)


class Graph:
    """A graph under construction."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names: dict[tuple[tuple[int, ...], bytes], str] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> Symbol:
        """A float32 input; a name in its shape is a free dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Symbol(self, name)

    def constant(self, value: Any) -> Symbol:
        """An array or number as a float32 constant."""
        array = np.asarray(value, dtype=np.float32)
        name = self._names.setdefault((array.shape, array.tobytes()), f"c{len(self._names)}")
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return Symbol(self, name)

    def node(self, operator: str, *inputs: Any, **attributes: Any) -> Symbol:
        """The result of one operator."""
        symbols = [item if isinstance(item, Symbol) else self.constant(item) for item in inputs]
        name = f"n{len(self._nodes)}"
        names = [symbol.name for symbol in symbols]
        self._nodes.append(helper.make_node(operator, names, [name], **attributes))
        return Symbol(self, name)

    def unsqueeze(self, value: Symbol, axis: int) -> Symbol:
        """`value` with a new axis of length 1."""
        axes = numpy_helper.from_array(np.array([axis], dtype=np.int64), f"axis{axis}")
        self._constants[axes.name] = axes
        return self.node("Unsqueeze", value, Symbol(self, axes.name))

    def output(self, name: str, value: Symbol, shape: Sequence[int | str]) -> None:
        """Make a symbol a float32 output."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def model(self, name: str) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="chunkwise")
        onnx.checker.check_model(model, full_check=True)
        return model
