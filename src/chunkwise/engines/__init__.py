"""The engine port: tensors to tensors on one runtime.  Every other file here is one engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray


@runtime_checkable
class Engine(Protocol):
    """A loaded network; stateless."""

    def load(self, path: str, device: str = "cpu") -> None:
        """Read the network at `path` for `device`."""
        ...

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs to named outputs."""
        ...

    def close(self) -> None:
        """Let go of it.  Twice is fine."""
        ...
