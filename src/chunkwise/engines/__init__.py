"""The engine port: tensors to tensors on one runtime.  Every other file here is one engine.

The names are LeRobot's: ``observation.state`` (B, N), ``observation.images.NAME`` (B, C, H, W), ``action``
(B, rows, N), all float32 and normalised; ``observation.language.tokens`` (B, L) int64 and
``observation.language.attention_mask`` (B, L) bool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

Precision = Literal["float32", "bfloat16", "float16"]
"""What a network is computed in.  What goes in and comes out is float32 whatever it is."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a network.

    Attributes:
        shape: None for a size that the network leaves free, as the batch often is.
        dtype: numpy's name of its type.
        optional: an input that may be left out.
    """

    shape: tuple[int | None, ...]
    dtype: str
    optional: bool = False


@runtime_checkable
class Engine(Protocol):
    """A network on one runtime; stateless.

    An engine that is made is empty; `load` fills it.  Options are the constructor's, every engine has
    ``threads``, what a call may use of the processor, 1 by default, for there is a control loop on the same cores;
    and ``dtype``, a :data:`Precision`.
    """

    inputs: Mapping[str, TensorSpec]
    """What `run` takes, in the network's order; nothing before `load`."""
    outputs: Mapping[str, TensorSpec]
    """What `run` gives."""

    def load(self, path: str, device: str = "cpu") -> None:
        """Read the network at `path`.

        Args:
            path: of the file, or of a directory that ``chunkwise export`` made.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for the fastest that is there.

        Raises:
            DeviceError: the device is not there, or is none that this runtime can use.
            FileNotFoundError: there is no such file.
            InterfaceValidationError: it holds no network that this engine can run.
            MissingExtra: the runtime is not installed.
        """
        ...

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output by name, for the inputs by name; may be called from any thread, and answers one at a time.

        The inputs are only read, and the outputs are the caller's own.

        Raises:
            InterfaceValidationError: an input is missing, unknown, or of another shape or type than declared.
            RuntimeError: nothing is loaded, or the runtime failed.
        """
        ...

    def warmup(self) -> None:
        """Run on zeros, for the first calls are slow: memory is got, kernels are chosen, graphs are compiled."""
        ...

    def close(self) -> None:
        """Let go of the network.  Twice is fine."""
        ...
