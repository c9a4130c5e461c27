"""What every engine does around a call: checks by name, one call at a time, and warming up."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.engines import Precision, TensorSpec

Array = NDArray[Any]
WARM_RUNS = 2
"""Calls until a network runs at its own speed: the first gets memory, the second finds it there."""


class Network:
    """An :class:`chunkwise.engines.Engine` but for the runtime, which a subclass adds with `_open` and `_call`.

    Args:
        threads: that a call may use.
        dtype: what the network is computed in.

    Attributes:
        device: which one it was loaded for; "" before.

    Raises:
        InterfaceValidationError: `threads` or `dtype` is none.
    """

    precisions: tuple[Precision, ...] = get_args(Precision)
    """What a subclass can compute in."""

    def __init__(self, *, threads: int = 1, dtype: Precision = "float32") -> None:
        if threads < 1:
            raise InterfaceValidationError(f"threads must be at least 1, got {threads}")
        if dtype not in self.precisions:
            name, can = type(self).__name__, " or ".join(self.precisions)
            raise InterfaceValidationError(f"engine {name} computes in {can}, not in {dtype!r}")
        self.inputs: Mapping[str, TensorSpec] = {}
        self.outputs: Mapping[str, TensorSpec] = {}
        self.device = ""
        self._threads = threads
        self._dtype = dtype
        self._loaded = False
        self._turn = threading.RLock()

    def load(self, path: str, device: str = "cpu") -> None:
        with self._turn:
            self.close()
            try:
                self.device = self._open(path, device)
            except BaseException:
                self.close()
                raise
            self._loaded = True

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        with self._turn:
            if not self._loaded:
                raise RuntimeError("no model is loaded: load(path) comes first")
            check(tensors, self.inputs)
            return self._call(tensors)

    def warmup(self) -> None:
        for _ in range(WARM_RUNS):
            self.run(self._nothing())

    def close(self) -> None:
        with self._turn:
            self._loaded = False
            self._release()
            self.inputs = self.outputs = {}
            self.device = ""

    def _open(self, path: str, device: str) -> str:
        """Make the network ready, declare `inputs` and `outputs`, and say for which device."""
        raise NotImplementedError

    def _call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for inputs that match what is declared."""
        raise NotImplementedError

    def _release(self) -> None:
        """Forget the network."""
        raise NotImplementedError

    def _nothing(self) -> dict[str, Array]:
        """Inputs of zeros, for warming up."""
        return {name: zeros(spec) for name, spec in self.inputs.items() if not spec.optional}


def zeros(spec: TensorSpec) -> Array:
    """A tensor of zeros; 1 where a size is free."""
    return np.zeros([size or 1 for size in spec.shape], dtype=spec.dtype)


def check(tensors: Mapping[str, Array], declared: Mapping[str, TensorSpec]) -> None:
    """See that tensors are what a network declares; nothing is converted, for nobody would know that it was.

    Raises:
        InterfaceValidationError: one is missing, unknown, or of another shape or type; the message names it.
    """
    for name in tensors:
        if name not in declared:
            raise InterfaceValidationError(
                f"unknown input {name!r}{nearest(name, declared)}; there are: {', '.join(declared)}"
            )
    for name, spec in declared.items():
        given = tensors.get(name)
        if given is None:
            if spec.optional:
                continue
            raise InterfaceValidationError(f"input {name!r} is missing")
        if not isinstance(given, np.ndarray):
            raise InterfaceValidationError(f"input {name!r} must be a numpy array, got {type(given).__name__}")
        if str(given.dtype) != spec.dtype:
            raise InterfaceValidationError(f"input {name!r} must be {spec.dtype}, got {given.dtype}")
        if not _fits(given.shape, spec.shape):
            wanted = ", ".join("any" if size is None else str(size) for size in spec.shape)
            raise InterfaceValidationError(f"input {name!r} must have the shape ({wanted}), got {given.shape}")


def _fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, declared, strict=False)
    return len(shape) == len(declared) and all(size >= 1 and wanted in (None, size) for size, wanted in pairs)
