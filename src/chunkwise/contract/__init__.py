"""What a frame, an action and a robot are: names, units, limits, order, hold rule.

Pure: numpy and the standard library; no clock, thread, process, socket, file or log.
"""

from chunkwise.contract.binding import Binding, connect, robot_for, spec_of_answer
from chunkwise.contract.chunk import MAX_ROWS, ActionChunk, ChunkRequest, RtcArgs, checked_rows
from chunkwise.contract.commands import commanded
from chunkwise.contract.errors import (
    BindingError,
    InterfaceValidationError,
    PolicyFailed,
    PolicyTimedOut,
    RobotFailed,
    nearest,
)
from chunkwise.contract.images import ImageRule
from chunkwise.contract.kinds import (
    COMMAND_KIND_REGISTRY,
    CUSTOM_COMMAND_KIND_PREFIX,
    BuiltinCommandKind,
    CommandKindSpec,
    Hold,
    Motion,
    get_command_kind_spec,
    is_custom_command_kind_name,
    is_known_command_kind,
    register_command_kind,
)
from chunkwise.contract.layout import Layout, Slot, robot_layout
from chunkwise.contract.observation import observation_problems
from chunkwise.contract.rotations import Rotation
from chunkwise.contract.specs import (
    KNOWN_COMPONENT_TYPES,
    ComponentSpec,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    policy_differences,
    policy_spec_from_dict,
    robot_spec_from_dict,
    spec_to_dict,
    validate_component_spec,
    validate_policy_output_spec,
    validate_policy_spec,
    validate_robot_spec,
)
from chunkwise.contract.values import (
    Action,
    Command,
    Frame,
    action_to_dict,
    coerce_action,
    coerce_frame,
    frame_to_dict,
    validate_action,
    validate_command,
    validate_frame,
)

__all__ = [
    "COMMAND_KIND_REGISTRY",
    "CUSTOM_COMMAND_KIND_PREFIX",
    "KNOWN_COMPONENT_TYPES",
    "MAX_ROWS",
    "Action",
    "ActionChunk",
    "Binding",
    "BindingError",
    "BuiltinCommandKind",
    "ChunkRequest",
    "Command",
    "CommandKindSpec",
    "ComponentSpec",
    "Frame",
    "Hold",
    "ImageRule",
    "InterfaceValidationError",
    "Layout",
    "Motion",
    "PolicyFailed",
    "PolicyOutputSpec",
    "PolicySpec",
    "PolicyTimedOut",
    "RobotFailed",
    "RobotSpec",
    "Rotation",
    "RtcArgs",
    "Slot",
    "action_to_dict",
    "checked_rows",
    "coerce_action",
    "coerce_frame",
    "connect",
    "frame_to_dict",
    "get_command_kind_spec",
    "is_custom_command_kind_name",
    "is_known_command_kind",
    "nearest",
    "commanded",
    "observation_problems",
    "policy_differences",
    "policy_spec_from_dict",
    "register_command_kind",
    "robot_for",
    "robot_layout",
    "robot_spec_from_dict",
    "spec_of_answer",
    "spec_to_dict",
    "validate_action",
    "validate_command",
    "validate_component_spec",
    "validate_frame",
    "validate_policy_output_spec",
    "validate_policy_spec",
    "validate_robot_spec",
]
