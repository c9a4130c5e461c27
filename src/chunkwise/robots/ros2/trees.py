"""YAML and JSON that describe a robot, within bounds; every key is asked for by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest

MAX_BYTES: Final = 1 << 20
MAX_NAMES: Final = 4096


class Ros2FileError(InterfaceValidationError):
    """A file that describes a robot, or a key in it, is wrong; the message says which."""


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases, which may grow without bound, and without keys that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in getattr(node, "value", ()) if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} twice", node.start_mark)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read(path: Path) -> Any:
    """What stands in a YAML or JSON file.

    Raises:
        FileNotFoundError: there is none.
        Ros2FileError: it is too large, or neither.
    """
    with open(path.expanduser(), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Ros2FileError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return yaml.load(data, _Loader)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Ros2FileError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


class Tree:
    """A mapping of a file.

    Args:
        value: what stands there.
        where: in which file, at which key, for messages.
        known: the keys that it may have; any where None.

    Raises:
        Ros2FileError: it is no mapping of names, or has a key that is not known.
    """

    def __init__(self, value: object, where: str, known: Iterable[str] | None = None) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise Ros2FileError(f"{where} must be a mapping of names, got {_shown(value)}")
        self.values: dict[str, Any] = dict(value)
        self.where = where
        names = list(known) if known is not None else list(self.values)
        for key in self.values:
            if key not in names:
                there = ", ".join(names)
                raise Ros2FileError(f"{where}: unknown key {key!r}{nearest(key, names)}; there are: {there}")

    def below(self, key: str, known: Iterable[str] | None = None) -> Tree:
        """The mapping at a key; an empty one where the key is not there."""
        value = self.values.get(key)
        return Tree({} if value is None else value, f"{self.where}: {key}", known)

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "must be a text")
        return value

    def choice(self, key: str, known: Sequence[str], default: str) -> str:
        """One of some words."""
        value = self.values.get(key, default)
        if value not in known:
            raise self.wrong(key, f"must be one of {', '.join(known)}{nearest(str(value), known)}")
        return str(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value: Any = self.values.get(key, default)
        if not _is_number(value) or not value > 0:
            raise self.wrong(key, "must be a number above 0")
        return float(value)

    def whole(self, key: str, default: int) -> int:
        """A whole number above zero."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "must be a whole number above 0")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Names, each once; none where the key is not there."""
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not 0 < len(value) <= MAX_NAMES:
            raise self.wrong(key, f"must be a list of 1 to {MAX_NAMES} names")
        if not all(isinstance(name, str) and name for name in value):
            raise self.wrong(key, "must be a list of names")
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise Ros2FileError(f"{self.where}: {key}: {twice[0]!r} twice; each name once")
        return tuple(value)

    def numbers(self, key: str, count: int) -> list[float] | None:
        """As many numbers, or one for all of them; None where the key is not there."""
        value = self.values.get(key)
        if value is None:
            return None
        given = [value] * count if _is_number(value) else value
        if not isinstance(given, list) or len(given) != count or not all(map(_is_number, given)):
            raise self.wrong(key, f"must be a number, or {count} of them")
        return [float(item) for item in given]

    def span(self, key: str) -> tuple[int, int] | None:
        """A half-open range ``[start, end)``; None where the key is not there."""
        value = self.values.get(key)
        if value is None:
            return None
        whole = isinstance(value, list) and len(value) == 2 and all(type(end) is int for end in value)
        if not whole or not 0 <= value[0] < value[1] <= MAX_NAMES:
            raise self.wrong(key, f"must be [start, end), 0 <= start < end <= {MAX_NAMES}")
        return value[0], value[1]

    def wrong(self, key: str, rule: str) -> Ros2FileError:
        """The error that says what a key must be, and what it is."""
        if key not in self.values:
            return Ros2FileError(f"{self.where}: without {key}, which {rule}")
        return Ros2FileError(f"{self.where}: {key} {rule}, got {_shown(self.values[key])}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
