"""From options to an object of LeRobot's: which class, which configuration, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import yaml

from chunkwise import plugins
from chunkwise.contract.errors import nearest
from chunkwise.engines._lerobot import import_lerobot

MAX_CONFIG_BYTES: Final = 1 << 20
SDKS: Final = {
    "can": "python-can",
    "dynamixel_sdk": "dynamixel-sdk",
    "reachy2_sdk": "reachy2-sdk",
    "scservo_sdk": "feetech-servo-sdk",
    "unitree_sdk2py": "unitree-sdk2py",
    "zmq": "pyzmq",
}
"""What LeRobot's robots import late, and what it is called where it is installed from."""


def make(kind: str, given: Mapping[str, Any]) -> Any:
    """A robot of LeRobot's, not yet connected.

    Args:
        kind: LeRobot's name of it: ``so101_follower``.
        given: fields of its configuration, as plain values.

    Raises:
        ValueError: no such robot, camera or field, a value that is none, or a calibration file that is none.
        MissingExtra: LeRobot, or what this robot needs, is not installed.
    """
    where = f"lerobot {kind}"
    robots, cameras = import_lerobot("lerobot.robots"), import_lerobot("lerobot.cameras")
    draccus = plugins.require("draccus", extra="lerobot")
    _register(robots, cameras)
    made = _class_of(robots.RobotConfig, kind, "robot", "lerobot")
    _refuse_unknown(made, given, where)
    try:
        config = draccus.decode(robots.RobotConfig, {**given, "type": kind})
    except draccus.utils.ParsingError as error:
        raise ValueError(f"{where}: {' '.join(str(error.__cause__ or error).split())}") from error
    _refuse_other_colours(config, where)
    try:
        return robots.make_robot_from_config(config)
    except Exception as error:  # whatever a constructor of others raises, as of a damaged calibration
        missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__  # as LeRobot wraps it
        if not isinstance(missing, ModuleNotFoundError):
            what = " ".join(str(error).split())
            raise ValueError(f"{where} cannot be made: {type(error).__name__}: {what}") from error
        package = SDKS.get(missing.name or "", missing.name)
        raise plugins.MissingExtra(f"{where} needs {missing.name}: pip install {package}") from error


def fields_of(config: object) -> dict[str, Any]:
    """What a configuration holds: a mapping itself, or the YAML file of that name.

    Raises:
        ValueError: it is neither.
    """
    if config is None:
        return {}
    loaded: object = config
    if isinstance(config, (str, Path)):
        path = Path(config).expanduser()
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"lerobot: config {path} is larger than {MAX_CONFIG_BYTES} bytes")
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"lerobot: cannot read config {path}: {error}") from error
        except yaml.YAMLError as error:
            raise ValueError(f"lerobot: config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise ValueError(f"lerobot: config must be a mapping of fields, or a YAML file of one, got {config!r}")
    return dict(loaded)


def _register(*packages: Any) -> None:
    """Import every robot and camera there is, LeRobot's own and plugins': that is how they make themselves known.

    One that needs a package that is not installed stays unknown.
    """
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__):
            if module.ispkg:
                try:
                    import_lerobot(f"{package.__name__}.{module.name}")
                except ImportError:
                    continue
    importlib.import_module("lerobot.utils.import_utils").register_third_party_plugins()


def _class_of(registry: Any, kind: object, what: str, where: str) -> Any:
    known: Mapping[str, Any] = registry.get_known_choices()
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(
            f"{where}: no {what} {kind!r}{nearest(str(kind), known)}; this LeRobot has: {', '.join(sorted(known))}"
        )
    return known[kind]


def _refuse_unknown(hint: Any, given: object, where: str) -> None:
    """Look through a configuration for fields that its class does not have, cameras and arms included."""
    if not isinstance(given, Mapping):
        return
    if get_origin(hint) is dict:
        for name, value in given.items():
            _refuse_unknown(get_args(hint)[1], value, f"{where}: {name}")
    elif dataclasses.is_dataclass(hint):
        made = hint
        if "type" in given and hasattr(hint, "get_known_choices"):
            made = _class_of(hint, given["type"], "type", where)
        hints = get_type_hints(made)
        known = [field.name for field in dataclasses.fields(made) if field.init]
        for name, value in given.items():
            if name in known:
                _refuse_unknown(hints[name], value, f"{where}: {name}")
            elif name != "type":
                there = ", ".join(known)
                raise ValueError(f"{where} has no field {name!r}{nearest(str(name), known)}; there are: {there}")


def _refuse_other_colours(config: Any, where: str) -> None:
    for name, camera in _cameras(config):
        if str(getattr(getattr(camera, "color_mode", None), "value", "rgb")) != "rgb":
            raise ValueError(
                f"{where}: camera {name} has another color_mode than rgb, which is what images are here"
            )


def _cameras(config: Any) -> Iterable[tuple[str, Any]]:
    """Every camera's configuration, of the robot or of its arms."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "cameras":
            yield from value.items()
        elif dataclasses.is_dataclass(value):
            yield from _cameras(value)
