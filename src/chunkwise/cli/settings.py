"""What a run is made of: from flags, from a YAML file, and back to YAML."""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from chunkwise import plugins
from chunkwise.cli.parser import Parser, dotted
from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError, chosen, convert
from chunkwise.policies import find_policy
from chunkwise.workers import host_of

ADAPTERS = {"robot": "robots", "policy": "policies", "strategy": "strategies", "worker": "workers"}
"""Settings that name an adapter, and the kind of it."""

MAX_CONFIG_BYTES = 1 << 20
MAX_WRITTEN_OUT = 4 * MAX_CONFIG_BYTES
"""Values and letters of a file, with each alias for all that it stands for."""
OBSERVATION_AGE_S = 1.0
"""Of every sensor that has no limit of its own."""


@dataclass(slots=True)
class Choice:
    """An adapter by name, and options of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> str | dict[str, Any]:
        """As it stands in a configuration: the name alone where there is no option."""
        if not self.options:
            return self.name
        return {"name": self.name} | {key: _plain(value) for key, value in self.options.items()}


def _number(default: float | None, help: str, *, least: float = 0.0, above: bool = True) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "above": above})


@dataclass(slots=True)
class Settings:
    """Everything that ``chunkwise run`` can be told; flags and configuration keys have these names."""

    robot: Choice | None = None
    policy: Choice | None = None
    execution_mode: str = field(
        default="monolithic",
        metadata={
            "help": "monolithic (default): the policy's network runs here; distributed: it runs at --network, and "
            "what stands before and after it here"
        },
    )
    network: str | None = field(
        default=None,
        metadata={"help": "where `chunkwise engine` serves the policy's network: native://HOST:7777"},
    )
    fallback: str | None = field(
        default=None, metadata={"help": "another policy, by name, which answers while --policy cannot"}
    )
    strategy: Choice = field(default_factory=lambda: Choice("rtc"))
    worker: Choice = field(default_factory=lambda: Choice("thread"))
    seconds: float | None = _number(None, "how long to run; until Ctrl-C by default")
    control_hz: float | None = _number(None, "commands per second; the robot's own rate by default")
    latency_ms: float = _number(
        0.0, "every answer takes at least this long; to see what a slow policy does", above=False
    )
    inference_timeout_s: float = _number(5.0, "after this a request counts as lost and is made again")
    start_timeout_s: float = _number(120.0, "the same for the first request, when a policy may still compile")
    max_plan_age_s: float = _number(3.0, "rows predicted from an older observation are refused")
    observation_age_s: float | dict[str, float] = field(
        default=OBSERVATION_AGE_S,
        metadata={
            "help": "a camera's picture or a state older than this holds the robot; for each its own: 1.0,head=0.2"
        },
    )
    hold_s: float | None = _number(30.0, "a hold that lasts longer ends the run")
    watchdog_s: float = _number(1.0, "a control loop that stands still for longer is reported")
    realtime: bool = field(
        default=False,
        metadata={"help": "ask for real-time scheduling (SCHED_FIFO), a core for the loop, locked memory"},
    )
    json: str | None = field(default=None, metadata={"help": "write the report to this file"})

    def to_yaml(self) -> str:
        """As a configuration file that says the same."""
        plain = {}
        for item in fields(self):
            value = getattr(self, item.name)
            plain[item.name] = value.plain() if isinstance(value, Choice) else _plain(value)
        return yaml.safe_dump(plain, sort_keys=False)


HINTS = get_type_hints(Settings)
HELP = {
    "robot": "NAME, module:Class or path/to/file.py:Class; options as --robot.OPTION VALUE",
    "policy": "the same, an infer(frame, request) function, the directory or the hub id (organisation/name) of a "
    "LeRobot or exported policy, or a server: native+unix:///run/x.sock, native://host:7777, "
    "ark+http://host:8000; options as --policy.OPTION VALUE",
    "strategy": "how chunks are run (default rtc); options as --strategy.OPTION VALUE",
    "worker": "where inference runs (default thread); options as --worker.OPTION VALUE",
}
DEVICE_HELP = (
    "where the policy's network runs, as --policy.device: auto, cpu, cuda, cuda:1, mps, "
    "ascend_om, ascend_om_3403 or rknn"
)


def add_flags(parser: Parser, names: Sequence[str] | None = None) -> None:
    """Give a parser the flags of the settings, or of some of them."""
    for item in fields(Settings):
        if names is not None and item.name not in names:
            continue
        flag = f"--{item.name.replace('_', '-')}"
        help = HELP.get(item.name) or item.metadata["help"]
        if HINTS[item.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help)
        else:
            metavar = "NAME" if item.name in ADAPTERS else "FILE" if item.name == "json" else "X"
            parser.add_argument(flag, metavar=metavar, help=help)
        if item.name == "policy":
            parser.add_argument("--device", metavar="X", help=DEVICE_HELP)


def on_device(choice: Choice, device: str | None, flags: Mapping[str, str]) -> Choice:
    """The policy with the device that ``--device`` names, over the one that a configuration file has.

    Args:
        choice: the policy.
        device: the flag's word; None where it was not given.
        flags: the options that were given as ``--policy.OPTION``.

    Raises:
        UsageError: ``--policy.device`` is given too and says something else.
    """
    if device is None:
        return choice
    if flags.get("device", device) != device:
        raise UsageError(f"--device {device} and --policy.device {flags['device']} are two; leave one out")
    return Choice(choice.name, choice.options | {"device": device})


def read(
    parser: Parser, argv: Sequence[str], defaults: Settings | None = None
) -> tuple[Settings, argparse.Namespace]:
    """The settings that a command line asks for: the configuration file's, then the flags'.

    Args:
        parser: with the flags of the settings.
        argv: the command's arguments.
        defaults: where neither says anything; changed and returned.

    Raises:
        UsageError: an unknown flag, key, adapter option, or a value of another type.
        UnknownAdapter, MissingExtra: an adapter that is not there.
    """
    settings = defaults or Settings()
    words, options = dotted(argv, ADAPTERS)
    parsed = parser.parse(words)
    path = getattr(parsed, "config", None)
    given: dict[str, Any] = _from_file(Path(path)) if path else {}
    for name, value in vars(parsed).items():
        if name in ADAPTERS:
            before = given.get(name) or getattr(settings, name)
            given[name] = _merged(name, before, value, options[name])
        elif value is not None and name in {item.name for item in fields(Settings)}:
            given[name] = value
    if getattr(parsed, "device", None) is not None:
        policy = given.get("policy") or settings.policy
        if policy is None:
            raise UsageError("--device needs --policy NAME")
        given["policy"] = on_device(policy, parsed.device, options["policy"])
    for item in fields(Settings):
        value = given.get(item.name)
        if value is None:
            if item.name in given and item.name not in ADAPTERS and type(None) in get_args(HINTS[item.name]):
                setattr(settings, item.name, None)  # a file says so
            continue
        if isinstance(value, Choice):
            elsewhere = item.name == "policy" and is_hosted(given.get("worker") or settings.worker)
            value = value if elsewhere else resolved(item.name, value)
        else:
            value = plain_value(item.name, value)
        setattr(settings, item.name, value)
    return settings, parsed


def plain_value(name: str, value: object) -> Any:
    """A setting that names no adapter, as the run wants it.

    Raises:
        UsageError: it is of another type, or out of range.
    """
    if name == "observation_age_s":
        return _ages(value, name)
    item = next(item for item in fields(Settings) if item.name == name)
    return _in_range(name, convert(value, HINTS[name], name), item.metadata)


NAMES = tuple(item.name for item in fields(Settings))
"""Of all settings."""


def check(name: str, value: object) -> None:
    """See that a setting of this name can have this value, as far as that is known without its adapter.

    Raises:
        UsageError: it cannot.
    """
    if value is not None:
        _choice(name, value) if name in ADAPTERS else plain_value(name, value)


def adapter(setting: str, name: str) -> Callable[..., Any]:
    """The class (or, for a policy, the function or object) behind a name.

    Raises:
        UsageError: a directory that holds no policy, a URI, or a file that does not say which class.
        UnknownAdapter, MissingExtra: it is not there.
    """
    found: Callable[..., Any]
    if setting == "policy":
        found = find_policy(name)
        return found
    if "://" in name or (Path(name).is_dir() and name not in plugins.names(ADAPTERS[setting])):
        what = "a URI" if "://" in name else "a directory"
        raise UsageError(
            f"{setting} {name!r} is {what}, which is not supported; give a name that `chunkwise list` shows, "
            "module:Class or path/to/file.py:Class"
        )
    if name.endswith(".py"):
        raise UsageError(f"{setting} {name!r} does not say which class: {name}:Class")
    found = plugins.load(ADAPTERS[setting], name)
    return found


def is_hosted(worker: Choice) -> bool:
    """Whether the worker makes the policy in another process: then this one does not even import it."""
    return host_of(adapter("worker", worker.name)) is not None


def resolved(setting: str, choice: Choice) -> Choice:
    """The choice with its options as the constructor wants them; imports the adapter."""
    maker = adapter(setting, choice.name)
    if isinstance(maker, functools.partial):
        for option in choice.options.keys() & maker.keywords.keys():
            raise UsageError(f"{setting} {choice.name} is its {option} already; leave --{setting}.{option} out")
        return Choice(choice.name, chosen(maker.func, choice.options, f"{setting} {choice.name}"))
    if isinstance(maker, type):
        return Choice(choice.name, chosen(maker, choice.options, f"{setting} {choice.name}"))
    if choice.options:
        raise UsageError(
            f"{setting} {choice.name} is no class and has no options, got {', '.join(choice.options)}"
        )
    return choice


def _from_file(path: Path) -> dict[str, Any]:
    loaded = read_mapping(path)
    known = [item.name for item in fields(Settings)]
    for key in loaded:
        if key not in known:
            raise UsageError(
                f"{path}: unknown key {key!r}{nearest(str(key), known)}; there are: {', '.join(known)}"
            )
    return {key: _choice(key, value) if key in ADAPTERS else value for key, value in loaded.items()}


def read_mapping(path: Path) -> Mapping[Any, Any]:
    """What a YAML file says; ``-`` is what comes in from the keyboard, or from the program that started this one.

    Raises:
        UsageError: it cannot be read, is too large, or holds something else than a mapping.
    """
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none; a thousand brackets
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not _written_out_within(MAX_WRITTEN_OUT, loaded):
        raise UsageError(f"{path}: its aliases (*name) repeat more than {MAX_WRITTEN_OUT} values and letters")
    if not isinstance(loaded, Mapping):
        raise UsageError(f"{path} must hold a mapping of settings, got {type(loaded).__name__}")
    return loaded


def _written_out_within(most: int, loaded: Any) -> bool:
    """Whether a value has at most so many values and letters in it; one that holds itself has not."""
    count, waiting = 1, [loaded]
    while waiting and count <= most:
        item = waiting.pop()
        if isinstance(item, (str, bytes)):
            count += len(item)
        elif isinstance(item, (Mapping, list, set)):
            count += len(item)
            waiting += [*item, *item.values()] if isinstance(item, Mapping) else item
    return count <= most


def _choice(setting: str, value: object) -> Choice | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Choice(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UsageError(f"{setting} must be a name, or a mapping with a name and options; got {value!r}")
    return Choice(value["name"], {str(key): item for key, item in value.items() if key != "name"})


def _merged(setting: str, before: Choice | None, name: str | None, options: Mapping[str, str]) -> Choice | None:
    """The flags over the configuration; another adapter does not inherit the options of the one before."""
    base = before
    if name is not None and (before is None or before.name != name):
        base = Choice(name)
    if options and base is None:
        raise UsageError(f"--{setting}.{next(iter(options))} needs --{setting} NAME")
    return None if base is None else Choice(base.name, base.options | dict(options))


def _ages(value: object, where: str) -> float | dict[str, float]:
    """Ages of sensors: a number, ``1.0,head=0.2``, or a mapping with ``""`` for those that are not named.

    Raises:
        UsageError: it is none of them.
    """
    items = value.items() if isinstance(value, Mapping) else _named(value, where)
    ages: dict[str, float] = {}
    for name, text in items:
        age = convert(text, float, f"{where}: {name}" if name else where)
        if not age > 0 or name in ages:
            raise UsageError(f"{where} must be one time above 0 for each sensor, got {value!r}")
        ages[str(name)] = age
    return ages[""] if set(ages) == {""} else {"": OBSERVATION_AGE_S} | ages


def _named(value: object, where: str) -> list[tuple[str, object]]:
    """The pieces of ``1.0,head=0.2``; the one for all has no name."""
    if not isinstance(value, str):
        return [("", value)]
    made: list[tuple[str, object]] = []
    for piece in value.split(","):
        name, equals, age = piece.rpartition("=")
        if equals and not name.strip():
            raise UsageError(f"{where}: {piece!r} names no sensor")
        made.append((name.strip(), age))
    return made


def _in_range(name: str, value: Any, limits: Mapping[str, Any]) -> Any:
    if value is None or "least" not in limits:
        return value
    least, above = limits["least"], limits["above"]
    if not math.isfinite(value) or value < least or (above and value == least):
        raise UsageError(f"{name} must be {'above' if above else 'at least'} {least:g}, got {value:g}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
