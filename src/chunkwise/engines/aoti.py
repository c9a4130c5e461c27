"""Networks that torch compiled ahead of time (AOTInductor)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import Precision
from chunkwise.engines._devices import DeviceError
from chunkwise.engines._exported import network_file
from chunkwise.engines._network import Network
from chunkwise.engines._torch import import_torch, inference, to_numpy, to_torch, torch_device

__all__ = ["Aoti"]


class Aoti(Network):
    """An exported directory with a package of AOTInductor: machine code for one kind of device and processor.

    It is a program, and loading it runs it: load what you or somebody whom you trust made.  What it computes in,
    and with how many threads, was settled when it was compiled; `threads` limits what it leaves to torch.

    Args:
        threads: that a call may use of torch's.
        dtype: ``float32``.
    """

    precisions = ("float32",)

    def __init__(self, *, threads: int = 1, dtype: Precision = "float32") -> None:
        super().__init__(threads=threads, dtype=dtype)
        self._package: Any = None

    def _open(self, path: str, device: str) -> str:
        torch = import_torch()
        chosen = torch_device(device)
        file, exported = network_file(path, "aoti", ())
        assert exported is not None  # no suffix is taken for a file
        if chosen.partition(":")[0] != exported.device:
            raise DeviceError(f"{path} was compiled for {exported.device!r}, not for {chosen!r}; export it there")
        number = int(chosen.partition(":")[2] or -1)
        try:
            self._package = torch._inductor.aoti_load_package(str(file), device_index=number)
        except Exception as error:  # a damaged archive raises whatever its parts raise
            raise InterfaceValidationError(f"{file} is no package that torch can load: {error}") from error
        self.inputs, self.outputs = exported.inputs, exported.outputs
        return chosen

    def _call(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with inference(self.device, self._threads, "float32"):
            made = self._package(*(to_torch(tensors[name], self.device) for name in self.inputs))
        made = made if isinstance(made, (tuple, list)) else (made,)
        return dict(zip(self.outputs, map(to_numpy, made), strict=True))

    def _release(self) -> None:
        self._package = None
