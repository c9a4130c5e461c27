"""A policy by name: what can be written down, sent to another process, and made there."""

from __future__ import annotations

import enum
import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame, InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError, chosen, options_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A model on Hugging Face's hub."""


class FunctionPolicy:
    """A bare ``infer(frame, request)`` as a policy; its spec comes from its first answer."""

    def __init__(self, infer: Callable[[Frame, ChunkRequest], Any]) -> None:
        self._infer = infer

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        """What the function answers."""
        return self._infer(frame, request)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A policy that is not made yet.

    Where inference runs in another process, the policy is made there and nowhere else: its weights are loaded
    once, and the control loop's process never touches the accelerator::

        Session(robot, Recipe("my_policy.py:MyPolicy", {"path": "weights/"}), worker="process")

    Args:
        name: a name that ``chunkwise list policies`` shows, ``module:Class``, ``path/to/file.py:Class`` (or a
            function ``infer(frame, request)`` in the place of the class), the directory or hub id of a
            checkpoint, or a server's URL.
        options: of its constructor; what JSON can say, with paths and names for the rest.
        offered: options that a constructor gets if it has them and `options` does not say otherwise.

    Raises:
        InterfaceValidationError: an option is not a plain value.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    offered: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (("options", self.options), ("offered", self.offered)):
            plain = {str(key): _plain(value, f"{self.name}: {key}") for key, value in values.items()}
            object.__setattr__(self, name, plain)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Recipe:
        """The recipe of a function ``infer(frame, request)`` that stands at the top of a module.

        Raises:
            InterfaceValidationError: it cannot be found again by its name; the message says what can.
        """
        return cls(_name_of(function))

    def make(self) -> Any:
        """The policy; a function becomes one.

        Raises:
            UsageError: the name or an option is wrong; the message says what there is.
            UnknownAdapter, MissingExtra: it is not there.
            Exception: whatever its constructor raises.
        """
        found = find(self.name)
        if isinstance(found, (type, functools.partial)):
            return self._made(found)
        if self.options:
            listed = ", ".join(self.options)
            raise UsageError(f"policy {self.name} is no class and has no options, got {listed}")
        if hasattr(found, "infer"):
            return found
        if callable(found):
            return FunctionPolicy(found)
        raise UsageError(f"policy {self.name} is neither a class, a function nor an object with infer()")

    def _made(self, maker: Callable[..., Any]) -> Any:
        options = resolved(maker, self.options, f"policy {self.name}")
        known = options_of(maker)
        offered = {key: value for key, value in self.offered.items() if key in known and key not in options}
        try:
            return maker(**options, **offered)
        except (TypeError, ValueError, FileNotFoundError) as error:
            where = (
                "" if str(error).startswith(self.name) else f"{self.name}: "
            )  # a server's errors name it already
            raise UsageError(f"policy {where}{error}") from error

    def to_dict(self) -> dict[str, Any]:
        """As plain values, from which `Recipe(**...)` makes it again."""
        return {"name": self.name, "options": dict(self.options), "offered": dict(self.offered)}


def find(name: str) -> Any:
    """The class, the function or the object behind a policy's name.

    Raises:
        UsageError: a directory that holds no policy, a URI of no wire, or a file that does not say which class.
        UnknownAdapter, MissingExtra: it is not there.
    """
    if "://" in name:
        wire, known = name.partition(":")[0].partition("+")[0], plugins.names("wires")
        if wire not in known:
            raise UsageError(
                f"policy {name!r}: no wire {wire!r}{nearest(wire, known)}; there are: {', '.join(known)}"
            )
        return functools.partial(plugins.load("policies", "remote"), url=name)
    if _is_checkpoint(name):
        return functools.partial(plugins.load("policies", "lerobot"), path=name)
    if name.endswith(".py"):
        raise UsageError(f"policy {name!r} does not say which class: {name}:Class")
    return plugins.load("policies", name)


def resolved(maker: Callable[..., Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options as the maker wants them, less what a partial has said already.

    Raises:
        UsageError: an option that is not there, that is said already, or a value of another type.
    """
    if isinstance(maker, functools.partial):
        for option in options.keys() & maker.keywords.keys():
            raise UsageError(f"{where} is its {option} already; leave {option} out")
        return chosen(maker.func, options, where)
    return chosen(maker, options, where)


def _is_checkpoint(name: str) -> bool:
    """Whether a policy is a directory with a LeRobot or exported policy, or the hub id of one.

    Raises:
        UsageError: it looks like a path, and there is no policy there.
    """
    folder = Path(name).expanduser()
    if name in plugins.names("policies"):
        return False
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return True
        below = sorted(found.parent for found in folder.glob("**/pretrained_model/config.json"))
        cure = (
            f"; did you mean {below[-1]}?" if below else ": LeRobot's checkpoints and exported policies have one"
        )
        raise UsageError(f"policy {name!r} is a directory without config.json{cure}")
    if "/" not in name or ":" in name or name.endswith(".py"):
        return False
    if HUB_ID.fullmatch(name) and not folder.parent.is_dir():
        return True
    raise UsageError(f"policy {name!r}: there is no such directory, and it is no hub id, as organisation/name is")


def _plain(value: Any, where: str) -> Any:
    """A value that JSON can say."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    raise InterfaceValidationError(
        f"{where} is a {type(value).__name__}; a recipe is written down, and has plain values and paths alone"
    )


def _name_of(function: Callable[..., Any]) -> str:
    """``module:name`` or ``file.py:name`` of a function, once it is known that it leads back to it."""
    name = getattr(function, "__qualname__", "")
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    cure = "write it as a function at the top of a module, or give a Recipe: Recipe('my_policy.py:MyPolicy')"
    code = getattr(function, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    if not name.isidentifier() or not _same(getattr(module, name, None), function):
        raise InterfaceValidationError(
            f"{name or type(function).__name__}{where} cannot be found by its name in another process; {cure}"
        )
    file = getattr(module, "__file__", None)
    if _is_importable(function.__module__, file):
        return f"{function.__module__}:{name}"
    if file is None or not file.endswith(".py"):
        raise InterfaceValidationError(f"{name}: its module {function.__module__!r} is in no file; {cure}")
    return f"{Path(file).resolve()}:{name}"


def _same(found: Any, function: Any) -> bool:
    """Whether two are the same function; a module that was loaded again has another object for it."""
    places = [(code.co_filename, code.co_firstlineno) for code in _codes(found, function)]
    return found is function or (len(places) == 2 and places[0] == places[1])


def _codes(*functions: Any) -> list[Any]:
    return [code for each in functions if (code := getattr(each, "__code__", None)) is not None]


def _is_importable(module: str, file: str | None) -> bool:
    """Whether another process that imports `module` gets this file; what is imported here already says nothing."""
    path, found = None, None
    parts = module.split(".")
    for number in range(len(parts)):
        name = ".".join(parts[: number + 1])
        specs = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        found = next((spec for spec in specs if spec is not None), None)
        if found is None:
            return False
        path = found.submodule_search_locations
    return found is not None and found.origin == file and module != "__main__"
