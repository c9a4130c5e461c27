"""Networks on OpenVINO: its own files, and ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._devices import choose
from chunkwise.engines._exported import network_file
from chunkwise.engines._network import Network
from chunkwise.engines._signals import signal_stack_kept
from chunkwise.plugins import require

__all__ = ["Openvino"]

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
TYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32", "u8": "uint8"}
TYPES["boolean"] = "bool"


class Openvino(Network):
    """One network, from a ``.xml`` file (with its ``.bin``), a ``.onnx`` file or an exported directory.

    Left to itself OpenVINO computes in bfloat16 where the processor can, which costs two digits; here `dtype` says
    what is computed in, and nothing else does.

    Args:
        threads: that a call may use.
        dtype: what is computed in.
    """

    _request: Any = None

    def _open(self, path: str, device: str) -> str:
        runtime = require("openvino", extra="openvino")
        chosen = choose(device, ["cpu"], "openvino")
        file, exported = network_file(path, "openvino", (".xml", ".onnx"))
        if file.suffix == ".xml" and not file.with_suffix(".bin").is_file():
            raise FileNotFoundError(f"{file} has no .bin beside it, where its weights are")
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self._dtype],
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # a core of its own would be taken from the control loop
        }
        try:
            core = runtime.Core()
            read = core.read_model(file)
            _give_each_its_weights(read, runtime)
            with signal_stack_kept():
                model = core.compile_model(read, "CPU", settings)
        except RuntimeError as error:
            raise InterfaceValidationError(f"{file} is no model that OpenVINO can run: {error}") from error
        self._request = model.create_infer_request()
        inputs, outputs = _specs(model.inputs), _specs(model.outputs)
        del model, core  # what is kept of them goes with the request, see _release
        self.inputs = exported.inputs if exported else inputs
        self.outputs = exported.outputs if exported else outputs
        return chosen

    def _call(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        made = self._request.infer([tensors[name] for name in self.inputs], share_inputs=True)
        # The arrays that it gives are its own memory, which the next call writes again.
        return {name: np.array(made[place]) for place, name in enumerate(self.outputs)}

    def _release(self) -> None:
        with signal_stack_kept():
            self._request = None


def _give_each_its_weights(model: Any, runtime: Any) -> None:
    """A copy of a matrix for every product that it is used in.

    OpenVINO lays matrices out for the processor, and keeps what it laid out under its address and size alone.  A
    square matrix that is used as it is in one place and transposed in another, as in a gradient, is wrong in the
    second (seen with 2026.4.1, where it makes the demo policy's guidance wrong by half).
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:
            continue
        uses = node.output(0).get_target_inputs()
        for use in [one for one in uses if one.get_node().get_type_name() in ("MatMul", "Transpose")][1:]:
            use.replace_source_output(runtime.op.Constant(np.array(node.data)).output(0))


def _specs(ports: list[Any]) -> dict[str, TensorSpec]:
    """What a model's inputs or outputs are, under the names that they had in ONNX."""
    specs = {}
    for port in ports:
        sizes = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        kind = port.get_element_type().get_type_name()
        specs[_name(port)] = TensorSpec(sizes, TYPES.get(kind, kind))
    return specs


def _name(port: Any) -> str:
    """A tensor may have several names, those of nodes that were merged among them; its node has the first."""
    node: str = port.get_node().get_friendly_name()
    first = node.partition("/sink_port_")[0]
    names: set[str] = port.get_names()
    return first if first in names else min(names, default=first)
