"""IB-Robot's ``robot_config`` YAML: which policy runs where, and how its actions are dispatched."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError, convert

MAX_BYTES: Final = 1 << 20
STATE: Final = "observation.state"
MODES: Final = ("monolithic", "distributed")
NORMS: Final = ("none", "range_m100_100", "degrees")
MODEL: Final = ("path", "policy_type", "device", "lerobot_norm_mode")
INFERENCE: Final = (
    *("enabled", "execution_mode", "model", "request_timeout", "cloud_inference_topic", "cloud_result_topic"),
)
EXECUTOR: Final = (
    *("type", "mode", "queue_size", "watermark_threshold", "control_frequency", "temporal_smoothing_enabled"),
    "temporal_ensemble_coeff",
)
ROBOT: Final = (
    *("name", "type", "robot_type", "models", "joints", "default_control_mode", "control_modes", "ros2_control"),
    *("peripherals", "contract"),
)
MODE: Final = ("controllers", "inference", "executor")
CONTROL: Final = (
    *("hardware_plugin", "port", "calib_file", "joint_names", "gripper_joints", "velocity_joints"),
    "base_vel_max_rad",
)
ALIKE: Final = 0.85
"""How alike two keys are, of 1, so that one is taken for the other misspelt."""
UNUSED: Final = {
    "action_server": "there is no action between policy and robot",
    "publish_attention": "attention is not published",
    "attention_viz": "attention is not published",
    "chunk_size": "a chunk has as many rows as the policy answers",
    "navigation_mode": "there is no navigation mode; stop the run instead",
    "policy_reset_timeout_sec": "a policy is reset between two episodes, and the robot does not wait for it",
}
"""Keys that the original has and that change nothing here, and why."""


@dataclass(frozen=True, slots=True)
class RobotConfig:
    """What such a file asks for.

    Attributes:
        name: of the robot.
        path: the policy's directory.
        device: where its network runs; empty where nothing is said.
        execution_mode: ``monolithic`` or ``distributed``.
        request_timeout_s: after which an answer is given up.
        input, output: the topics of a distributed network.
        queue_size, watermark, control_hz: of the dispatcher.
        smoothing: the ensemble's coefficient; None for no smoothing.
        task: what is to be done; empty where nothing is said.
        whole_state: the policy's state is ``observation.state`` of the robot as a whole.
        state_names: its joints, in order.
        units: the change of units; None for none.
        notes: what is in the file and changes nothing.
    """

    name: str
    path: str
    device: str
    execution_mode: str
    request_timeout_s: float
    input: str
    output: str
    queue_size: int
    watermark: int
    control_hz: float
    smoothing: float | None
    task: str
    whole_state: bool
    state_names: tuple[str, ...]
    units: Mapping[str, Any] | None
    notes: tuple[str, ...]


def read_robot_config(
    path: Path, control_mode: str = "", environment: Mapping[str, str] = os.environ
) -> RobotConfig:
    """What a file asks for in one of its control modes.

    Args:
        path: of the file.
        control_mode: its ``default_control_mode`` by default.
        environment: of the process: relative paths are below ``WORKSPACE``, or else beside the file.

    Raises:
        UsageError: there is no such file, or a key is unknown, missing, or not what it must be.
    """
    robot = _below(_loaded(path), "robot", str(path), required=True)
    where = f"{path}: robot"
    _not_misspelt(robot, ROBOT, where)
    modes = _below(robot, "control_modes", where, required=True)
    chosen = control_mode or str(robot.get("default_control_mode") or "model_inference")
    mode = _below(modes, chosen, f"{where}: control_modes", required=True)
    where = f"{where}: control_modes: {chosen}"
    _not_misspelt(mode, MODE, where)
    notes: list[str] = []
    inference = _known(_below(mode, "inference", where, required=True), INFERENCE, f"{where}: inference", notes)
    executor = _known(_below(mode, "executor", where), EXECUTOR, f"{where}: executor", notes)
    if not _typed(inference, "enabled", bool, True, where):
        raise UsageError(f"{where}: inference is not enabled: nothing to run")
    if _typed(executor, "type", str, "topic", where) != "topic":
        raise UsageError(f"{where}: executor: type must be topic: commands go to the topics of the contract")
    models = _below(robot, "models", str(path), required=True)
    name = _typed(inference, "model", str, "", where)
    model = _below(models, name, f"{path}: robot: models", required=True)
    model = _known(model, MODEL, f"{path}: robot: models: {name}", notes)
    contract = _below(robot, "contract", str(path), required=True)
    names, parts = _state_names(contract)
    units = _units(robot, model, path, environment, notes)
    for text in names:
        field, _, joint = text.partition(".")
        if units is not None and field == "velocity" and joint not in units["velocities"]:
            raise UsageError(
                f"{path}: robot: contract: {text} of {STATE}: LeRobot has no unit for the speed of a joint that "
                "is none of ros2_control: velocity_joints"
            )
    smooth = _typed(executor, "temporal_smoothing_enabled", bool, False, where)
    made = RobotConfig(
        name=_typed(robot, "name", str, "robot", str(path)),
        path=str(_path(_typed(model, "path", str, "", f"{path}: robot: models: {name}"), path, environment)),
        device=_typed(model, "device", str, "", where),
        execution_mode=_one_of(inference, "execution_mode", MODES, "monolithic", where),
        request_timeout_s=_typed(inference, "request_timeout", float, 5.0, where),
        input=_typed(inference, "cloud_inference_topic", str, "/preprocessed/batch", where),
        output=_typed(inference, "cloud_result_topic", str, "/inference/action", where),
        queue_size=_typed(executor, "queue_size", int, 100, where),
        watermark=_typed(executor, "watermark_threshold", int, 20, where),
        control_hz=_typed(executor, "control_frequency", float, 100.0, where),
        smoothing=_typed(executor, "temporal_ensemble_coeff", float, 0.01, where) if smooth else None,
        task=_typed(contract, "default_task", str, "", f"{path}: robot: contract"),
        whole_state=parts > 0,
        state_names=tuple(name.removeprefix("position.").removeprefix("velocity.") for name in names),
        units=units,
        notes=tuple(notes),
    )
    if made.request_timeout_s <= 0 or made.control_hz <= 0:
        raise UsageError(f"{where}: request_timeout and control_frequency must be above 0")
    return made


def _units(
    robot: Mapping[str, Any],
    model: Mapping[str, Any],
    path: Path,
    environment: Mapping[str, str],
    notes: list[str],
) -> dict[str, Any] | None:
    """Options of the change of units; None where there is none to make."""
    control = _below(robot, "ros2_control", str(path))
    where = f"{path}: robot: ros2_control"
    _not_misspelt(control, CONTROL, where)
    calibration = _typed(control, "calib_file", str, "", where)
    mode = _one_of(model, "lerobot_norm_mode", NORMS, NORMS[1] if calibration else NORMS[0], f"{path}: models")
    if mode == "none":
        if not calibration:
            notes.append("no calib_file: states and actions stay as the robot has them, in radians")
        return None
    if not calibration:
        raise UsageError(f"{where}: without calib_file, which lerobot_norm_mode {mode} needs")
    options: dict[str, Any] = {"calibration": str(_path(calibration, path, environment)), "mode": mode}
    options["grippers"] = _joints(control, "gripper_joints", where)
    options["velocities"] = _joints(control, "velocity_joints", where)
    if not control.get("gripper_joints"):
        options["grippers"] = _joints(_below(robot, "joints", str(path)), "gripper", f"{path}: robot: joints")
        if not options["grippers"]:
            notes.append(f"{where}: no gripper_joints: every joint is -100 to 100, or has degrees")
    options["max_velocity"] = _typed(control, "base_vel_max_rad", float, 0.0, where)
    return options


def _joints(tree: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    given = tree.get(key) or []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UsageError(f"{where}: {key} must be a list of joints")
    return tuple(given)


def _state_names(contract: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """What ``observation.state`` has, as the selectors say it, and of how many observations it is made."""
    names: list[str] = []
    parts = 0
    observations = contract.get("observations")
    for item in observations if isinstance(observations, list) else []:
        if isinstance(item, Mapping) and item.get("key") == STATE:
            parts += 1
            selector = item.get("selector")
            chosen = selector.get("names") if isinstance(selector, Mapping) else None
            names += map(str, chosen or ())
    return tuple(names), parts


def _path(text: str, beside: Path, environment: Mapping[str, str]) -> Path:
    found = Path(os.path.expandvars(text)).expanduser()
    base = environment.get("WORKSPACE")
    return found if found.is_absolute() else (Path(base) if base else beside.resolve().parent) / found


def _loaded(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES} bytes")
        return yaml.safe_load(data)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _below(tree: Any, key: str, where: str, *, required: bool = False) -> Mapping[str, Any]:
    if not isinstance(tree, Mapping):
        raise UsageError(f"{where} must be a mapping")
    if required and key not in tree:
        there = ", ".join(map(str, tree)) or "nothing"
        raise UsageError(f"{where} has no {key!r}{nearest(key, map(str, tree))}; there are: {there}")
    found = tree.get(key)
    if found is None and not required:
        return {}
    if not isinstance(found, Mapping):
        raise UsageError(f"{where}: {key} must be a mapping")
    return found


def _not_misspelt(tree: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse a key that is nearly one of those that are read; others may be for other programs."""
    for key in map(str, tree):
        found = [] if key in known else difflib.get_close_matches(key, known, 1, ALIKE)
        if found:
            raise UsageError(f"{where}: unknown key {key!r} (did you mean {found[0]!r}?)")


def _known(tree: Mapping[str, Any], keys: Iterable[str], where: str, notes: list[str]) -> Mapping[str, Any]:
    """The keys that mean something; those that mean nothing here are noted, others refused."""
    known = list(keys)
    for key in tree:
        if key in UNUSED:
            notes.append(f"{where}: {key} is not used: {UNUSED[key]}")
        elif key not in known:
            there = ", ".join(known)
            raise UsageError(f"{where}: unknown key {key!r}{nearest(str(key), known)}; there are: {there}")
    return tree


def _typed(tree: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = tree.get(key)
    return default if value is None else convert(value, kind, f"{where}: {key}")


def _one_of(tree: Mapping[str, Any], key: str, choices: tuple[str, ...], default: str, where: str) -> str:
    value = tree.get(key)
    text = default if value is None else str(value)
    if text not in choices:
        raise UsageError(
            f"{where}: {key} must be one of {', '.join(choices)}{nearest(text, choices)}, got {text!r}"
        )
    return text
