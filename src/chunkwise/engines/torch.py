"""Exported programs of torch (``.pt2``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import Precision, TensorSpec
from chunkwise.engines._exported import network_file
from chunkwise.engines._network import Network
from chunkwise.engines._torch import import_torch, inference, numpy_dtype, to_numpy, to_torch, torch_device

__all__ = ["Torch"]


class Torch(Network):
    """One program that ``torch.export.save`` wrote, or an exported directory.

    Args:
        threads: that a call may use; torch has one number of them for the whole process.
        dtype: other than float32, what `torch.autocast` computes matrix products in.
        compile: let `torch.compile` make code of it at the first call, which takes from seconds to a minute.
    """

    def __init__(self, *, threads: int = 1, dtype: Precision = "float32", compile: bool = False) -> None:
        super().__init__(threads=threads, dtype=dtype)
        self._compile = compile
        self._module: Any = None

    def _open(self, path: str, device: str) -> str:
        torch = import_torch()
        chosen = torch_device(device)
        file, exported = network_file(path, "torch", (".pt2",))
        try:
            program = torch.export.load(file)
        except Exception as error:  # a damaged archive raises whatever its parts raise
            raise InterfaceValidationError(f"{file} is no program that torch can load: {error}") from error
        if chosen != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, chosen)
        nodes = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = exported.inputs if exported else _specs(nodes, signature.user_inputs)
        self.outputs = exported.outputs if exported else _specs(nodes, signature.user_outputs)
        module = program.module()
        self._module = torch.compile(module) if self._compile else module
        return chosen

    def _call(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with inference(self.device, self._threads, self._dtype):
            made = self._module(*(to_torch(tensors[name], self.device) for name in self.inputs))
        made = made if isinstance(made, (tuple, list)) else (made,)
        return dict(zip(self.outputs, map(to_numpy, made), strict=True))

    def _release(self) -> None:
        self._module = None


def _specs(nodes: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, TensorSpec]:
    specs = {}
    for name in names:
        value = nodes[name].meta["val"]
        sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
        specs[name] = TensorSpec(sizes, numpy_dtype(value.dtype))
    return specs
