"""What a robot offers and what a policy needs, declared before any data exists.

The first fields of every spec are those of the inferaxis interface, in its order.  The fields after ``meta``
go beyond it and are keyword-only: names, units, limits, rates and representations, so that a robot and a
policy can be bound by name and the gate knows what is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from chunkwise.contract.errors import InterfaceValidationError, nearest
from chunkwise.contract.images import ImageRule, validate_image_rule
from chunkwise.contract.kinds import Hold, require_kind
from chunkwise.contract.rotations import Rotation

KNOWN_COMPONENT_TYPES = ("arm", "gripper", "hand", "suction", "base", "custom")


@dataclass(slots=True)
class ComponentSpec:
    """One part of a robot that takes commands.

    Attributes:
        name: the component's name, for example ``right_arm``.
        type: one of :data:`KNOWN_COMPONENT_TYPES`.
        dof: how many joints it has.
        command: the command kinds it takes; the first is its default.
        meta: anything else.
        joint_names: names in the order of its values; empty means ``<name>.0 ...``.
        unit: of its values, ``rad`` or ``m`` (or what a custom kind needs).
        lower, upper: limits of absolute values, per joint; None for no limit.
        max_rate: how fast an absolute value may change, or how large a velocity may be, per joint and
            *second*; None for no limit.  For deltas it bounds the motion per second too.
        hold: overrides what holding still means for the kind; custom kinds must say it.
        rotation: how the rotation of a cartesian value is written.
        initial: where an episode begins, as absolute values per joint; the robot is moved there by a ramp.  None
            for a component that stays where it is.
    """

    name: str
    type: str
    dof: int
    command: list[str]
    meta: dict[str, Any] = field(default_factory=dict)
    joint_names: list[str] = field(default_factory=list, kw_only=True)
    unit: str = field(default="rad", kw_only=True)
    lower: Sequence[float] | None = field(default=None, kw_only=True)
    upper: Sequence[float] | None = field(default=None, kw_only=True)
    max_rate: Sequence[float] | float | None = field(default=None, kw_only=True)
    hold: Hold | str | None = field(default=None, kw_only=True)
    rotation: Rotation | str | None = field(default=None, kw_only=True)
    initial: Sequence[float] | None = field(default=None, kw_only=True)

    def supports_command(self, kind: str) -> bool:
        """Whether the component takes commands of `kind`."""
        return kind in self.command

    def names(self, dim: int) -> list[str]:
        """Names of `dim` values: the joints' where the count fits, else numbered."""
        if len(self.joint_names) == dim:
            return list(self.joint_names)
        return [f"{self.name}.{index}" for index in range(dim)]


@dataclass(slots=True)
class RobotSpec:
    """What a robot offers.

    Attributes:
        name: the robot's name.
        image_keys: its cameras.
        components: its parts, in the order of the flat layout.
        meta: anything else.
        state_keys: state that is not a component's, for example a force sensor.
        control_hz: the rate its commands are meant for, or None where it does not care.
    """

    name: str
    image_keys: list[str]
    components: list[ComponentSpec]
    meta: dict[str, Any] = field(default_factory=dict)
    state_keys: list[str] = field(default_factory=list, kw_only=True)
    control_hz: float | None = field(default=None, kw_only=True)

    def get_component(self, name: str) -> ComponentSpec | None:
        """The component of that name, or None."""
        return next((component for component in self.components if component.name == name), None)

    def all_supported_commands(self) -> list[str]:
        """Every command kind that some component takes, without repeats."""
        return list(dict.fromkeys(kind for component in self.components for kind in component.command))

    def all_state_keys(self) -> list[str]:
        """Names in ``frame.state``: the components', then the further ones."""
        return [component.name for component in self.components] + list(self.state_keys)


@dataclass(slots=True)
class PolicyOutputSpec:
    """One component's share of a policy's rows.

    Attributes:
        target: the robot component it commands.
        command: the command kind.
        dim: how many numbers.
        meta: anything else.
        names: joint names in the policy's order; empty means the robot's order.
        unit: the unit of the numbers; empty means the robot's.
        rotation: how the rotation of a cartesian value is written.
    """

    target: str
    command: str
    dim: int
    meta: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list, kw_only=True)
    unit: str = field(default="", kw_only=True)
    rotation: Rotation | str | None = field(default=None, kw_only=True)


@dataclass(slots=True)
class PolicySpec:
    """What a policy needs and answers.

    Attributes:
        name: the policy's name.
        required_image_keys: cameras it reads.
        required_state_keys: state it reads.
        required_task_keys: task entries it reads.
        outputs: its rows' columns, in order.
        meta: anything else.
        state_names: state key -> joint names in the order the policy wants them; a key that is not listed
            is passed on in the robot's order.
        action_horizon: rows in a chunk (``H``), or None where it varies.
        control_hz: the rate its rows are meant for, or None.
        supports_prefix: it can take the running plan into account (real-time chunking).
        images: camera -> what its pictures must be like; a camera that is not listed is taken as it comes.
        normalisation: a hash of the statistics that states and actions are normalised with; empty for none.
    """

    name: str
    required_image_keys: list[str]
    required_state_keys: list[str]
    required_task_keys: list[str] = field(default_factory=list)
    outputs: list[PolicyOutputSpec] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    state_names: dict[str, list[str]] = field(default_factory=dict, kw_only=True)
    action_horizon: int | None = field(default=None, kw_only=True)
    control_hz: float | None = field(default=None, kw_only=True)
    supports_prefix: bool = field(default=False, kw_only=True)
    images: dict[str, ImageRule] = field(default_factory=dict, kw_only=True)
    normalisation: str = field(default="", kw_only=True)

    def get_output(self, target: str) -> PolicyOutputSpec | None:
        """The output that commands `target`, or None."""
        return next((output for output in self.outputs if output.target == target), None)

    @property
    def action_dim(self) -> int:
        """Columns of a row."""
        return sum(output.dim for output in self.outputs)


def validate_component_spec(spec: ComponentSpec) -> None:
    """Check one component: name, type, size, kinds, limits.

    Raises:
        InterfaceValidationError: naming the field.
    """
    where = f"component {spec.name!r}"
    _name(spec.name, "component.name")
    if spec.type not in KNOWN_COMPONENT_TYPES:
        raise InterfaceValidationError(
            f"{where}: type must be one of {', '.join(KNOWN_COMPONENT_TYPES)}, got {spec.type!r}"
            + nearest(str(spec.type), KNOWN_COMPONENT_TYPES)
        )
    _positive(spec.dof, f"{where}: dof")
    if not spec.command:
        raise InterfaceValidationError(f"{where}: takes no command kind")
    for name in spec.command:
        kind = require_kind(name, f"{where}: command")
        if kind.allowed_component_types and spec.type not in kind.allowed_component_types:
            raise InterfaceValidationError(f"{where}: a component of type {spec.type!r} cannot take {name!r}")
    if spec.joint_names:
        _length(spec.joint_names, spec.dof, f"{where}: joint_names")
        _distinct(spec.joint_names, f"{where}: joint_names")
    for label, limit in (("lower", spec.lower), ("upper", spec.upper), ("max_rate", spec.max_rate)):
        if limit is None:
            continue
        if not isinstance(limit, (int, float)):
            _length(limit, spec.dof, f"{where}: {label}")
        if np.isnan(limit).any():
            raise InterfaceValidationError(f"{where}: {label} holds a NaN")
    if spec.lower is not None and spec.upper is not None and np.any(np.greater(spec.lower, spec.upper)):
        raise InterfaceValidationError(f"{where}: a lower limit is above its upper limit")
    if spec.max_rate is not None and not np.all(np.greater(spec.max_rate, 0)):
        raise InterfaceValidationError(f"{where}: max_rate must be above zero, got {spec.max_rate}")
    if spec.hold is not None:
        _member(Hold, spec.hold, f"{where}: hold")
    if spec.rotation is not None:
        _member(Rotation, spec.rotation, f"{where}: rotation")
    if spec.initial is not None:
        _length(spec.initial, spec.dof, f"{where}: initial")
        lower, upper = (
            inf if limit is None else limit for limit, inf in ((spec.lower, -np.inf), (spec.upper, np.inf))
        )
        if not (np.isfinite(spec.initial).all() and np.all(np.clip(spec.initial, lower, upper) == spec.initial)):
            raise InterfaceValidationError(f"{where}: initial is not within the limits, got {spec.initial}")


def validate_robot_spec(spec: RobotSpec) -> None:
    """Check a robot's spec and each of its components.

    Raises:
        InterfaceValidationError: naming the field.
    """
    _name(spec.name, "robot.name")
    for component in spec.components:
        validate_component_spec(component)
    _distinct(spec.all_state_keys(), "robot: component and state names")
    _distinct(spec.image_keys, "robot: image_keys")
    if spec.control_hz is not None and not spec.control_hz > 0:
        raise InterfaceValidationError(f"robot.control_hz must be above zero, got {spec.control_hz}")


def validate_policy_output_spec(spec: PolicyOutputSpec) -> None:
    """Check one output of a policy.

    Raises:
        InterfaceValidationError: naming the field.
    """
    _name(spec.target, "output.target")
    where = f"output {spec.target!r}"
    kind = require_kind(spec.command, f"{where}: command")
    _positive(spec.dim, f"{where}: dim")
    if kind.default_dim is not None and spec.dim != kind.default_dim:
        raise InterfaceValidationError(f"{where}: {kind.name} has {kind.default_dim} numbers, not {spec.dim}")
    if spec.names:
        _length(spec.names, spec.dim, f"{where}: names")
        _distinct(spec.names, f"{where}: names")
    if spec.rotation is not None:
        _member(Rotation, spec.rotation, f"{where}: rotation")


def validate_policy_spec(spec: PolicySpec) -> None:
    """Check a policy's spec and each of its outputs.

    Raises:
        InterfaceValidationError: naming the field.
    """
    _name(spec.name, "policy.name")
    for output in spec.outputs:
        validate_policy_output_spec(output)
    _distinct([output.target for output in spec.outputs], "policy: output targets")
    if spec.action_horizon is not None:
        _positive(spec.action_horizon, "policy.action_horizon")
    if spec.control_hz is not None and not spec.control_hz > 0:
        raise InterfaceValidationError(f"policy.control_hz must be above zero, got {spec.control_hz}")
    for camera, rule in spec.images.items():
        if camera not in spec.required_image_keys:
            known = spec.required_image_keys
            there = ", ".join(known) or "none"
            raise InterfaceValidationError(
                f"policy.images: no camera {camera!r}{nearest(camera, known)}; it reads {there}"
            )
        validate_image_rule(rule, f"policy.images[{camera!r}]")


def spec_to_dict(spec: RobotSpec | PolicySpec) -> dict[str, Any]:
    """A spec as plain values, from which `robot_spec_from_dict` or `policy_spec_from_dict` makes it again."""
    plain: dict[str, Any] = _plain(asdict(spec))
    return plain


def _plain(value: Any) -> Any:
    """The same with lists in the place of arrays and tuples."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def robot_spec_from_dict(tree: Mapping[str, Any]) -> RobotSpec:
    """The robot spec that `spec_to_dict` took apart, checked; what a later version added is left aside.

    Raises:
        InterfaceValidationError: it is none.
    """

    def make() -> RobotSpec:
        spec = _made(
            RobotSpec, {**tree, "components": [_made(ComponentSpec, item) for item in tree["components"]]}
        )
        validate_robot_spec(spec)
        return spec

    return _trusting_nothing(make, "a robot spec")


def policy_spec_from_dict(tree: Mapping[str, Any]) -> PolicySpec:
    """The policy spec that `spec_to_dict` took apart, checked; what a later version added is left aside.

    Raises:
        InterfaceValidationError: it is none.
    """

    def make() -> PolicySpec:
        parts: dict[str, Any] = {
            "outputs": [_made(PolicyOutputSpec, item) for item in tree["outputs"]],
            "images": {str(name): _made(ImageRule, rule) for name, rule in tree.get("images", {}).items()},
        }
        spec = _made(PolicySpec, {**tree, **parts})
        validate_policy_spec(spec)
        return spec

    return _trusting_nothing(make, "a policy spec")


def policy_differences(here: PolicySpec, there: PolicySpec) -> list[str]:
    """Where two policies differ in what a robot must know of them, each named; empty where they agree."""
    named: list[tuple[str, Any, Any]] = [
        ("cameras", here.required_image_keys, there.required_image_keys),
        ("states", here.required_state_keys, there.required_state_keys),
        ("outputs", [item.target for item in here.outputs], [item.target for item in there.outputs]),
        ("action_horizon", here.action_horizon, there.action_horizon),
        ("control_hz", here.control_hz, there.control_hz),
        ("normalisation", here.normalisation or None, there.normalisation or None),
    ]
    found = [f"{name}: {one!r} here, {other!r} there" for name, one, other in named if one != other]
    found += [
        f"state_names[{key!r}]: another order or other joints"
        for key in sorted(here.state_names.keys() & there.state_names.keys())
        if here.state_names[key] != there.state_names[key]
    ]
    for mine in here.outputs:
        theirs = there.get_output(mine.target)
        if theirs is not None and asdict(mine) != asdict(theirs):
            names = [name for name, value in asdict(mine).items() if value != getattr(theirs, name)]
            found.append(f"output {mine.target!r}: {', '.join(names)} differ")
    for camera in sorted(here.images.keys() | there.images.keys()):
        rules = here.images.get(camera, ImageRule()), there.images.get(camera, ImageRule())
        found += [f"images[{camera!r}].{text}" for text in rules[0].differences(rules[1])]
    return found


T = TypeVar("T")


def _made(kind: type[T], tree: Mapping[str, Any]) -> T:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _plain(value) for name, value in tree.items() if name in known})


def _trusting_nothing(make: Callable[[], T], what: str) -> T:
    try:
        return make()
    except InterfaceValidationError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InterfaceValidationError(f"not {what}: {type(error).__name__}: {error}") from error


def _name(value: object, where: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InterfaceValidationError(f"{where} must be a name, got {value!r}")


def _positive(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise InterfaceValidationError(f"{where} must be an int above zero, got {value!r}")


def _length(values: Sequence[Any], size: int, where: str) -> None:
    if len(values) != size:
        raise InterfaceValidationError(f"{where} must have {size} entries, got {len(values)}")


def _distinct(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InterfaceValidationError(f"{where} must be distinct, twice: {', '.join(twice)}")


def _member(enum: type[Hold] | type[Rotation], value: str, where: str) -> None:
    if value not in [member.value for member in enum]:
        raise InterfaceValidationError(
            f"{where} must be one of {', '.join(member.value for member in enum)}, got {value!r}"
        )
