"""Policy and component YAML as plain trees: read within bounds, composed, their references filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from chunkwise.contract.errors import InterfaceValidationError, nearest

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""In one file, aliases counted as often as they are used."""

REFERENCE = re.compile(r"\$\{([^{}]*)\}")
ENVIRONMENT = re.compile(r"env:(\w+):(\w+)(?:,(.*))?")


class PolicyFileError(InterfaceValidationError):
    """A policy YAML, a file that it names, or a key in one is wrong; the message says which."""


class MissingFile(PolicyFileError, FileNotFoundError):
    """A file that is named is not there."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which does not let a key that stands twice win silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in getattr(node, "value", ()) if isinstance(key, yaml.ScalarNode)]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice.pop()!r} twice", node.start_mark)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_bytes(path: Path, what: str, most: int = MAX_BYTES) -> bytes:
    """A file's content.

    Raises:
        MissingFile: it is not there.
        PolicyFileError: it cannot be read, or is larger than `most` bytes.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise MissingFile(f"{what}: no file {path}") from None
    except OSError as error:
        raise PolicyFileError(f"{what}: cannot read {path}: {error.strerror}") from error
    if len(data) > most:
        raise PolicyFileError(f"{what}: {path} is larger than {most} bytes")
    return data


def composed(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping over those that its ``defaults`` name.

    ``defaults`` is a list of mappings ``{label: path}``, paths from the file's own folder.  Later ones win over
    earlier ones, the file's own keys over all; mappings are merged, lists and values replaced.

    Raises:
        MissingFile, PolicyFileError: a file is missing, too large, no YAML, no mapping, or part of a circle.
    """
    return _composed(path, what, ())


def _composed(path: Path, what: str, chain: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in chain:
        circle = " -> ".join(item.name for item in (*chain[chain.index(path) :], path))
        raise PolicyFileError(f"{what}: defaults go in a circle: {circle}")
    own = _read_yaml(path, what)
    tree: dict[str, Any] = {}
    defaults = own.pop("defaults", None)
    for index, item in enumerate(_list(defaults, f"{path}: defaults")):
        where = f"{path}: defaults[{index}]"
        if not isinstance(item, Mapping) or len(item) != 1 or not all(isinstance(v, str) for v in item.values()):
            raise PolicyFileError(f"{where} must be one label with a path, got {item!r}")
        (relative,) = item.values()
        tree = merged(tree, _composed(path.parent / relative, f"{what}, {where}", (*chain, path)))
    return merged(tree, own)


def _read_yaml(path: Path, what: str) -> dict[str, Any]:
    data = read_bytes(path, what)
    try:
        tree = yaml.load(data, _Loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PolicyFileError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, Mapping):
        raise PolicyFileError(f"{path} must hold a mapping, got {type(tree).__name__}")
    _count(tree, path)
    return dict(tree)


def _count(tree: object, path: Path) -> None:
    """Refuse what grows beyond bounds once its aliases are followed, and keys that are no names."""
    left, count = [tree], 0
    while left:
        count += 1
        if count > MAX_VALUES:
            raise PolicyFileError(f"{path} holds more than {MAX_VALUES} values")
        item = left.pop()
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise PolicyFileError(f"{path}: keys must be names, got {key!r}")
            left += item.values()
        elif isinstance(item, list):
            left += item


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings are merged, everything else is replaced.

    >>> merged({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}})
    {'a': {'b': 1, 'c': [3]}}
    """
    made = dict(below)
    for key, value in above.items():
        under = made.get(key)
        made[key] = merged(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return made


def refuse_unknown(tree: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise PolicyFileError for a key that is not known, with the nearest that is."""
    names = list(known)
    for key in tree:
        if key not in names:
            raise PolicyFileError(
                f"{where}: unknown key {key!r}{nearest(key, names)}; there are: {', '.join(names) or 'none'}"
            )


def mapping(value: object, where: str) -> dict[str, Any]:
    """`value` as a mapping; None is an empty one.

    Raises:
        PolicyFileError: it is neither.
    """
    if value is not None and not isinstance(value, Mapping):
        raise PolicyFileError(f"{where} must be a mapping, got {value!r}")
    return dict(value or {})


def _list(value: object, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise PolicyFileError(f"{where} must be a list, got {value!r}")
    return list(value or [])


class Filler:
    """Fills references in: ``${params.a.b}``, and ``${env:TYPE:VARIABLE,default}`` with int, float, bool or str.

    A text that is one reference becomes the value itself; one within a longer text becomes text.

    Args:
        params: what ``params.`` refers to; they may refer to each other.
        where: the file, for messages.
        environ: the environment.

    Attributes:
        used: parameters that were referred to.
    """

    def __init__(self, params: Mapping[str, Any], where: str, environ: Mapping[str, str] = os.environ) -> None:
        self._params, self._where, self._environ = params, where, environ
        self._open: list[str] = []
        self.used: set[str] = set()

    def fill(self, tree: Any) -> Any:
        """`tree` with every reference in it filled in.

        Raises:
            PolicyFileError: a reference is unknown, in a circle, or of another form.
        """
        if isinstance(tree, Mapping):
            return {key: self.fill(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.fill(value) for value in tree]
        if not isinstance(tree, str) or "${" not in tree:
            return tree
        whole = REFERENCE.fullmatch(tree)
        if whole:
            return self._value(whole[1])
        filled = REFERENCE.sub(lambda found: str(self._value(found[1])), tree)
        if "${" in REFERENCE.sub("", tree):
            raise PolicyFileError(f"{self._where}: {tree!r} has a reference that does not end")
        return filled

    def _value(self, reference: str) -> Any:
        if reference.startswith("params."):
            return self._parameter(reference.removeprefix("params."))
        found = ENVIRONMENT.fullmatch(reference)
        if found is None:
            raise PolicyFileError(
                f"{self._where}: ${{{reference}}} is no reference; write ${{params.NAME}} or "
                "${env:TYPE:VARIABLE,default}"
            )
        return self._variable(*found.groups())

    def _parameter(self, name: str) -> Any:
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise PolicyFileError(f"{self._where}: params go in a circle: {circle}")
        value: Any = self._params
        for part in name.split("."):
            known = list(value) if isinstance(value, Mapping) else []
            if part not in known:
                there = ", ".join(known) or "none"
                raise PolicyFileError(
                    f"{self._where}: ${{params.{name}}}: no parameter {part!r}{nearest(part, known)}; "
                    f"there are: {there}"
                )
            value = value[part]
        self.used.add(name.partition(".")[0])
        self._open.append(name)
        try:
            return self.fill(value)
        finally:
            self._open.pop()

    def _variable(self, kind: str, name: str, default: str | None) -> Any:
        text = self._environ.get(name, default)
        if text is None:
            raise PolicyFileError(f"{self._where}: the environment has no {name}, and no default is given")
        return _converted(kind, text, f"{self._where}: {name}")


def _converted(kind: str, text: str, where: str) -> Any:
    truths = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        if kind == "bool":
            return truths[text.strip().lower()]
        return {"int": int, "float": float, "str": str}[kind](text)
    except (KeyError, ValueError):
        known = ("int", "float", "bool", "str")
        if kind not in known:
            raise PolicyFileError(f"{where}: type {kind!r} is none of {', '.join(known)}") from None
        raise PolicyFileError(f"{where} must be {kind}, got {text!r}") from None
