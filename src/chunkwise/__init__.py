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
    from chunkwise.contract import BindingError as BindingError
    from chunkwise.contract import BuiltinCommandKind as BuiltinCommandKind
    from chunkwise.contract import ChunkRequest as ChunkRequest
    from chunkwise.contract import Command as Command
    from chunkwise.contract import CommandKindSpec as CommandKindSpec
    from chunkwise.contract import ComponentSpec as ComponentSpec
    from chunkwise.contract import Frame as Frame
    from chunkwise.contract import InterfaceValidationError as InterfaceValidationError
    from chunkwise.contract import PolicyFailed as PolicyFailed
    from chunkwise.contract import PolicyOutputSpec as PolicyOutputSpec
    from chunkwise.contract import PolicySpec as PolicySpec
    from chunkwise.contract import PolicyTimedOut as PolicyTimedOut
    from chunkwise.contract import RobotFailed as RobotFailed
    from chunkwise.contract import RobotSpec as RobotSpec
    from chunkwise.contract import RtcArgs as RtcArgs
    from chunkwise.contract import action_to_dict as action_to_dict
    from chunkwise.contract import coerce_action as coerce_action
    from chunkwise.contract import coerce_frame as coerce_frame
    from chunkwise.contract import connect as connect
    from chunkwise.contract import frame_to_dict as frame_to_dict
    from chunkwise.contract import register_command_kind as register_command_kind
    from chunkwise.contract import validate_action as validate_action
    from chunkwise.contract import validate_command as validate_command
    from chunkwise.contract import validate_component_spec as validate_component_spec
    from chunkwise.contract import validate_frame as validate_frame
    from chunkwise.contract import validate_policy_output_spec as validate_policy_output_spec
    from chunkwise.contract import validate_policy_spec as validate_policy_spec
    from chunkwise.contract import validate_robot_spec as validate_robot_spec
    from chunkwise.plugins import load as load
    from chunkwise.plugins import names as names
    from chunkwise.policies import Recipe as Recipe
    from chunkwise.recording import EpisodeReader as EpisodeReader
    from chunkwise.recording import EpisodeWriter as EpisodeWriter
    from chunkwise.recording import Recorder as Recorder
    from chunkwise.runtime.checks import check_pair as check_pair
    from chunkwise.runtime.checks import check_policy as check_policy
    from chunkwise.runtime.checks import check_robot as check_robot
    from chunkwise.runtime.inference import InferenceMode as InferenceMode
    from chunkwise.runtime.inference import InferenceRuntime as InferenceRuntime
    from chunkwise.runtime.pacing import RealtimeController as RealtimeController
    from chunkwise.runtime.profiling import profile_sync_inference as profile_sync_inference
    from chunkwise.runtime.profiling import recommend_inference_mode as recommend_inference_mode
    from chunkwise.runtime.session import Session as Session
    from chunkwise.runtime.step import StepResult as StepResult
    from chunkwise.runtime.step import run_step as run_step
    from chunkwise.safety import Limits as Limits

__version__ = "0.1.0"

_NAMES = {
    "chunkwise.chunking": (
        "DelayEstimate",
        "Scheduler",
    ),
    "chunkwise.contract": (
        "Action",
        "ActionChunk",
        "BindingError",
        "BuiltinCommandKind",
        "ChunkRequest",
        "Command",
        "CommandKindSpec",
        "ComponentSpec",
        "Frame",
        "InterfaceValidationError",
        "PolicyFailed",
        "PolicyOutputSpec",
        "PolicySpec",
        "PolicyTimedOut",
        "RobotFailed",
        "RobotSpec",
        "RtcArgs",
        "action_to_dict",
        "coerce_action",
        "coerce_frame",
        "connect",
        "frame_to_dict",
        "register_command_kind",
        "validate_action",
        "validate_command",
        "validate_component_spec",
        "validate_frame",
        "validate_policy_output_spec",
        "validate_policy_spec",
        "validate_robot_spec",
    ),
    "chunkwise.plugins": (
        "load",
        "names",
    ),
    "chunkwise.policies": ("Recipe",),
    "chunkwise.recording": (
        "EpisodeReader",
        "EpisodeWriter",
        "Recorder",
    ),
    "chunkwise.runtime.checks": (
        "check_pair",
        "check_policy",
        "check_robot",
    ),
    "chunkwise.runtime.inference": (
        "InferenceMode",
        "InferenceRuntime",
    ),
    "chunkwise.runtime.pacing": ("RealtimeController",),
    "chunkwise.runtime.profiling": (
        "profile_sync_inference",
        "recommend_inference_mode",
    ),
    "chunkwise.runtime.session": ("Session",),
    "chunkwise.runtime.step": (
        "StepResult",
        "run_step",
    ),
    "chunkwise.safety": ("Limits",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chunkwise' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
