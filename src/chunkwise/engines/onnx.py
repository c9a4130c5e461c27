"""ONNX networks on onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._devices import DeviceError, choose
from chunkwise.engines._exported import network_file, require_told
from chunkwise.engines._network import Network
from chunkwise.plugins import require

__all__ = ["Onnx"]

PROVIDERS = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider", "cpu": "CPUExecutionProvider"}
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class Onnx(Network):
    """One ONNX model, from a ``.onnx`` file or an exported directory.

    Calls never spin while idle, so that a control loop on the same cores keeps its time.  The model's own types
    are what is computed in.

    Args:
        threads: that a call may use.
        dtype: ``float32``.
    """

    precisions = ("float32",)
    _session: Any = None
    _names: tuple[str, ...] = ()

    def _open(self, path: str, device: str) -> str:
        runtime = require("onnxruntime", extra="onnx")
        providers = runtime.get_available_providers()
        there = [word for word, provider in PROVIDERS.items() if provider in providers]
        if "cuda" in there:  # which cards there are, onnxruntime does not say until it is asked to use one
            there.insert(0, device.strip().lower() if ":" in device else "cuda:0")
        chosen = choose(device, there, "onnxruntime")
        kind, _, number = chosen.partition(":")
        file, exported = network_file(path, "onnx", (".onnx",))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; what it cannot do it raises
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider = PROVIDERS[kind]
        which = (provider, {"device_id": number}) if number else provider
        try:  # the path, not the bytes: weights may stand in a file beside it
            self._session = runtime.InferenceSession(str(file), options, providers=[which])
        except Exception as error:  # onnxruntime has a dozen kinds and no common one
            raise InterfaceValidationError(f"{file} is no model that onnxruntime can run: {error}") from error
        if provider not in self._session.get_providers():  # what it cannot load it only logs
            raise DeviceError(f"onnxruntime cannot use {device!r}: {provider} does not load here")
        self._names = tuple(output.name for output in self._session.get_outputs())
        self.inputs, self.outputs = _specs(self._session.get_inputs()), _specs(self._session.get_outputs())
        if exported is not None:
            require_told(exported, self.inputs, self.outputs)
            self.inputs, self.outputs = exported.inputs, exported.outputs
        return chosen

    def _call(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(self._names, dict(tensors)), strict=True))

    def _release(self) -> None:
        self._session = None


def _specs(values: list[Any]) -> dict[str, TensorSpec]:
    return {
        value.name: TensorSpec(
            tuple(size if isinstance(size, int) else None for size in value.shape),
            TYPES.get(value.type, value.type),
        )
        for value in values
    }
