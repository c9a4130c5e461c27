"""Chunkwise: run any robot policy, on any robot, in real time.

Every name here is imported when it is first used; ``import chunkwise`` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chunkwise.chunking import DelayEstimate as DelayEstimate
    from chunkwise.chunking import Scheduler as Scheduler
    from chunkwise.contract import Action as Action
    from chunkwise.contract import ActionChunk as ActionChunk
    from chunkwise.contract import BuiltinCommandKind as BuiltinCommandKind
    from chunkwise.contract import ChunkRequest as ChunkRequest
    from chunkwise.contract import Command as Command
    from chunkwise.contract import CommandKindSpec as CommandKindSpec
    from chunkwise.contract import ComponentSpec as ComponentSpec
    from chunkwise.contract import Frame as Frame
    from chunkwise.contract import InterfaceValidationError as InterfaceValidationError
    from chunkwise.contract import PolicyOutputSpec as PolicyOutputSpec
    from chunkwise.contract import PolicySpec as PolicySpec
    from chunkwise.contract import RobotSpec as RobotSpec
    from chunkwise.contract import coerce_action as coerce_action
    from chunkwise.contract import coerce_frame as coerce_frame
    from chunkwise.contract import connect as connect
    from chunkwise.contract import register_command_kind as register_command_kind
    from chunkwise.plugins import load as load
    from chunkwise.plugins import names as names
    from chunkwise.runtime.session import Session as Session

__version__ = "0.1.0"

_HOMES = {
    "DelayEstimate": "chunkwise.chunking",
    "Scheduler": "chunkwise.chunking",
    "Session": "chunkwise.runtime.session",
    "load": "chunkwise.plugins",
    "names": "chunkwise.plugins",
}
_CONTRACT = [
    "Action",
    "ActionChunk",
    "BuiltinCommandKind",
    "ChunkRequest",
    "Command",
    "CommandKindSpec",
    "ComponentSpec",
    "Frame",
    "InterfaceValidationError",
    "PolicyOutputSpec",
    "PolicySpec",
    "RobotSpec",
    "coerce_action",
    "coerce_frame",
    "connect",
    "register_command_kind",
]
_HOMES.update(dict.fromkeys(_CONTRACT, "chunkwise.contract"))

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chunkwise' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
