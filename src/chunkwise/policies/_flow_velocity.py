"""The velocity field of a policy's directory: the one that was exported there, or one of torch's that is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.contract import MAX_ROWS, InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._exported import is_exported
from chunkwise.engines._lerobot import CONFIG
from chunkwise.policies._checkpoint import Checkpoint
from chunkwise.policies._flow_exported import ExportedVelocity
from chunkwise.policies._flow_torch import TorchVelocity


def velocity_of(
    checkpoint: Checkpoint, field: str, *, device: str = "auto", threads: int = 1
) -> TorchVelocity | ExportedVelocity:
    """The velocity field of a directory.

    Args:
        checkpoint: the directory.
        field: ``module:name`` of a torch field; "" for an exported directory's own.
        device: where it runs.
        threads: of the processor.

    Raises:
        InterfaceValidationError: there is none, or there are two.
    """
    exported = is_exported(checkpoint.folder)
    if exported and field:
        raise InterfaceValidationError(f"{checkpoint.folder} is exported, and has its own field: leave field out")
    if exported:
        return ExportedVelocity(checkpoint.folder, device=device, threads=threads)
    if ":" not in field:
        raise InterfaceValidationError(
            f"field must be module:name or file.py:name of a velocity field, for {checkpoint.folder} is no "
            f"exported directory; got {field!r}"
        )
    found = plugins.load("policies", field)
    call = found() if isinstance(found, type) else found
    if not callable(call):
        raise InterfaceValidationError(f"field {field!r} must be called with x, t and the observation")
    inputs = {name: TensorSpec((None, *one.shape), "float32") for name, one in checkpoint.inputs.items()}
    rows = _chunk_size(checkpoint.folder)
    return TorchVelocity(call, inputs, rows, checkpoint.action_dim, device=device, threads=threads)


def _chunk_size(folder: Path) -> int:
    """Rows of a chunk; `open_checkpoint` has seen that the file is bounded JSON."""
    tree: Mapping[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    size = tree.get("chunk_size")
    if type(size) is not int or not 1 <= size <= MAX_ROWS:
        raise InterfaceValidationError(f"{folder / CONFIG}: chunk_size must be 1 to {MAX_ROWS}, got {size!r:.80}")
    return size
