"""ONNX networks on onnxruntime, one thread to a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from chunkwise.plugins import require

__all__ = ["Onnx"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Onnx:
    """One ONNX model.

    Calls run on the caller's thread and never spin while idle, so that a control loop on the same cores keeps its
    time; small networks are fastest this way too.
    """

    def __init__(self) -> None:
        self._session: Any = None

    def load(self, path: str, device: str = "cpu") -> None:
        """Read the model at `path` for `device`, ``cpu`` or ``cuda``.

        Raises:
            MissingExtra: onnxruntime is not installed.
            ValueError: this onnxruntime cannot use the device.
            FileNotFoundError: there is no such file.
        """
        runtime = require("onnxruntime", extra="onnx")
        provider = PROVIDERS.get(device)
        if provider not in runtime.get_available_providers():
            raise ValueError(f"onnxruntime cannot run on {device!r}; it has {runtime.get_available_providers()}")
        with open(path, "rb") as file:
            model = file.read()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(model, options, providers=[provider])

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name, for all inputs by name.

        Raises:
            RuntimeError: nothing is loaded.
        """
        if self._session is None:
            raise RuntimeError("no model is loaded")
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(tensors)), strict=True))

    def close(self) -> None:
        self._session = None
