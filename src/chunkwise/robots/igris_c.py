"""IGRIS-C, as far as its interface is published: what is not known is asked for in its configuration file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from chunkwise.contract import ComponentSpec, InterfaceValidationError
from chunkwise.contract.specs import validate_component_spec
from chunkwise.processing.igris import IgrisFileError, RuntimeParams, Tree
from chunkwise.robots._igris.body import Body, Part, Publication
from chunkwise.robots._igris.bus import Bus
from chunkwise.robots._igris.files import read_params, read_topics, read_yaml
from chunkwise.robots._igris.robot import Stamps, TopicRobot, Transport, links

__all__ = ["IgrisC"]

TOP: Final = ("components", "publish", "cameras")
CAMERAS: Final = ("devices", "mode", "rotate")
COMPONENT: Final = (*("name", "type", "dof", "command", "unit", "state", "lower", "upper", "max_rate", "initial"),)
OPTIONAL: Final = ("joint_names", "current")
PUBLISH: Final = ("topic", "msg_type", "components")
MAX_DOF: Final = 256
MAX_COMPONENTS: Final = 64


class IgrisC(TopicRobot):
    """A robot whose joints, limits, topics and cameras its configuration file says; nothing of it is guessed.

    Args:
        config: what the robot is, as YAML or JSON; every key that is missing is named.
        params: ``inference_runtime_params.json``.
        topics_file: ``inference_runtime_topics.json``.
        topics, simulated, lockstep, stamps, timeout_s, bus, clock, sleep, stamp_clock: as of ``igris_b``.

    Raises:
        IgrisFileError: a file is missing or wrong, or they do not go together.
    """

    def __init__(
        self,
        *,
        config: Path | None = None,
        params: Path | None = None,
        topics_file: Path | None = None,
        topics: Transport = "ros2",
        simulated: bool = False,
        lockstep: bool = False,
        stamps: Stamps = "header",
        timeout_s: float = 10.0,
        bus: Bus | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        stamp_clock: Callable[[], float] = time.time,
    ) -> None:
        files = {"config": config, "params": params, "topics_file": topics_file}
        absent = [name for name, path in files.items() if path is None]
        if config is None or params is None or topics_file is None:
            raise IgrisFileError(
                f"igris_c: its joints, limits, topics and cameras are not published: give {', '.join(absent)}; "
                f"config holds {', '.join(TOP)}, and of every component {', '.join(COMPONENT)}"
            )
        runtime, listened = read_params(params), read_topics(topics_file)
        body, mode, rotate = _body(read_yaml(config, "config"), str(config), runtime)
        made = links(
            *(body, runtime, listened),
            transport=topics,
            simulated=simulated,
            bus=bus,
            camera_mode=mode,
            camera_rotate=rotate,
            clock=clock,
            stamp_clock=stamp_clock,
        )
        super().__init__(
            *(body, runtime, listened, made),
            lockstep=lockstep,
            stamps=stamps,
            timeout_s=timeout_s,
            clock=clock,
            sleep=sleep,
        )


def _body(value: object, where: str, params: RuntimeParams) -> tuple[Body, str, int]:
    """The robot of a configuration file, the mode of its cameras, and how they are turned.

    Raises:
        IgrisFileError: a key is missing, unknown or wrong; all that are missing are named at once.
    """
    tree = Tree(value, where, TOP)
    _need_everything(tree, where)
    parts = tuple(
        _part(item, f"{where}: components[{index}]", params)
        for index, item in enumerate(tree.values["components"])
    )
    names = [part.spec.name for part in parts]
    publications = tuple(
        _publication(item, f"{where}: publish[{index}]") for index, item in enumerate(tree.values["publish"])
    )
    told = [name for item in publications for name in item.components]
    for name in {*names, *told}:
        if names.count(name) != 1 or told.count(name) != 1:
            raise IgrisFileError(
                f"{where}: {name!r} is {names.count(name)} times in components and {told.count(name)} times in "
                "publish: every component is published once"
            )
    cameras = Tree(tree.values["cameras"], f"{where}: cameras", CAMERAS)
    devices = Tree(cameras.values["devices"], f"{where}: cameras.devices")
    found = {name: devices.text(name, "a device") for name in devices.values}
    mode = cameras.text("mode", "WIDTHxHEIGHT@RATE")
    return Body("igris_c", parts, publications, found), mode, cameras.whole("rotate", 270, 0)


def _need_everything(tree: Tree, where: str) -> None:
    """Raise IgrisFileError that names every key that is missing, wherever in the file."""
    missing = [key for key in TOP if key not in tree.values]
    for key, wanted in (("components", COMPONENT), ("publish", PUBLISH)):
        items = tree.values.get(key, [])
        if not isinstance(items, list) or len(items) > MAX_COMPONENTS or (key in tree.values and not items):
            raise tree.wrong(key, f"must be a list of 1 to {MAX_COMPONENTS}")
        for index, item in enumerate(items):
            known = (*wanted, *OPTIONAL) if key == "components" else wanted
            below = Tree(item, f"{where}: {key}[{index}]", known)
            missing += [f"{key}[{index}].{name}" for name in wanted if name not in below.values]
    if "cameras" in tree.values:
        cameras = Tree(tree.values["cameras"], f"{where}: cameras", CAMERAS)
        missing += [f"cameras.{name}" for name in CAMERAS if name not in cameras.values]
    if missing:
        raise IgrisFileError(
            f"{where}: without {', '.join(missing)}; nothing of this robot is guessed: measure it, or ask its "
            "maker (null where there is no limit or no pose)"
        )


def _part(value: object, where: str, params: RuntimeParams) -> Part:
    """A component; what turns [rad] is no faster than the runtime parameters say either."""
    tree = Tree(value, where, (*COMPONENT, *OPTIONAL))
    dof = tree.whole("dof", MAX_DOF)
    max_rate = _row(tree, "max_rate", dof)
    if max_rate is None:
        raise tree.wrong("max_rate", f"must be {dof} numbers: a robot without a limit of speed is not driven")
    unit = _unit(tree)
    if unit == "rad":
        max_rate = [min(rate, params.max_rate) for rate in max_rate]
    command = tree.text("command", "a command kind")
    spec = ComponentSpec(
        tree.text("name"),
        tree.text("type"),
        dof,
        [command],
        joint_names=list(tree.names("joint_names")) if "joint_names" in tree.values else [],
        unit=unit,
        lower=_row(tree, "lower", dof),
        upper=_row(tree, "upper", dof),
        max_rate=max_rate,
        initial=_row(tree, "initial", dof),
    )
    try:
        validate_component_spec(spec)
    except InterfaceValidationError as error:
        raise IgrisFileError(f"{where}: {error}") from error
    if not command.endswith("_position"):
        raise IgrisFileError(f"{where}: command {command!r}: topics of joint targets take positions alone")
    current = tree.text("current", "a key of the topics file") if "current" in tree.values else ""
    return Part(spec, tree.text("state", "a key of the topics file"), current)


def _unit(tree: Tree) -> str:
    unit = tree.values["unit"]
    if not isinstance(unit, str):
        raise tree.wrong("unit", 'must be a unit, or "" for none')
    return unit


def _row(tree: Tree, key: str, dof: int) -> list[float] | None:
    """`dof` numbers, or None where the file says null."""
    value: Any = tree.values[key]
    if value is None:
        return None
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    if not numbers or len(value) != dof or not all(map(math.isfinite, value)):
        raise tree.wrong(key, f"must be {dof} numbers, or null")
    return [float(item) for item in value]


def _publication(value: object, where: str) -> Publication:
    tree = Tree(value, where, PUBLISH)
    msg_type = tree.text("msg_type")
    if msg_type not in ("JointState", "Float32MultiArray"):
        raise tree.wrong("msg_type", "must be JointState or Float32MultiArray")
    return Publication(tree.text("topic", "a topic"), msg_type, tree.names("components"))
