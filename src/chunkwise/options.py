"""A constructor's typed arguments as options, and text or YAML values as what they ask for."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from chunkwise.contract.errors import nearest

SCALARS = (bool, int, float, str, Path)
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class UsageError(ValueError):
    """What was asked for cannot be; the message says what can."""


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a constructor: its name, type and default."""

    name: str
    hint: Any
    default: Any


def options_of(maker: Callable[..., Any]) -> dict[str, Option]:
    """The arguments of a class's constructor that text can express, by name.

    Arguments with neither a default nor a type that text can express are objects that the program hands over.
    """
    try:
        parameters = inspect.signature(maker).parameters.values()
    except ValueError:  # a class of C without a signature
        return {}
    hints = _hints(maker)
    found = {}
    for item in parameters:
        required = item.default is item.empty
        if item.kind in (item.VAR_KEYWORD, item.VAR_POSITIONAL, item.POSITIONAL_ONLY):
            continue
        if required and item.kind is not item.KEYWORD_ONLY and item.name not in hints:
            continue
        guess = type(item.default) if isinstance(item.default, SCALARS) else Any
        hint = hints.get(item.name, guess)
        if _expressible(hint):
            found[item.name] = Option(item.name, hint, item.default)
    return found


def chosen(maker: Callable[..., Any], given: Mapping[str, object], where: str) -> dict[str, Any]:
    """The given options, each converted to what the constructor asks for.

    Args:
        maker: the class.
        given: texts from flags, or values from YAML.
        where: what the options are of, for messages: ``robot mock``.

    Raises:
        UsageError: an option that is not there, or a value of another type.
    """
    known = options_of(maker)
    for name in given:
        if name not in known:
            there = ", ".join(known) or "none"
            raise UsageError(f"{where} has no option {name!r}{nearest(name, known)}; there are: {there}")
    return {name: convert(value, known[name].hint, f"{where}: {name}") for name, value in given.items()}


def convert(value: object, hint: Any, where: str) -> Any:
    """A text or a YAML value as what a type hint asks for; lists may be written ``a,b,c``.

    Raises:
        UsageError: it is not one.

    >>> convert("head,ceiling", tuple[str, ...], "cameras")
    ('head', 'ceiling')
    >>> convert("0.5", float | tuple[float, float], "weight")
    0.5
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return _plain(value, where) if isinstance(value, str) else value
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, inner, where)
    if origin is Literal:
        matching = [choice for choice in inner if str(choice) == str(value)]
        if matching:
            return matching[0]
        listed = ", ".join(map(str, inner))
        raise UsageError(f"{where} must be one of {listed}, got {value!r}{nearest(str(value), map(str, inner))}")
    if origin in (tuple, list):
        return _sequence(value, origin, inner, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(convert(value, Literal[tuple(item.value for item in hint)], where))
    return _scalar(value, hint, where)


def _plain(text: str, where: str) -> Any:
    """What a text is as YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is no YAML: {' '.join(str(error).split())}") from error


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of the constructor's arguments; none where they name what only a type checker imports."""
    signed: Any = maker
    if isinstance(maker, type) and not hasattr(maker, "__dataclass_fields__"):  # those declare on the class
        signed = inspect.getattr_static(maker, "__init__")
    try:
        return get_type_hints(signed)
    except (NameError, TypeError):
        return {}


def _expressible(hint: Any) -> bool:
    if hint is Any or hint in SCALARS or hint is type(None) or get_origin(hint) is Literal:
        return True
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return True
    containers = (Union, types.UnionType, tuple, list)
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    return get_origin(hint) in containers and all(map(_expressible, parts))


def _first_that_fits(value: object, hints: Sequence[Any], where: str) -> Any:
    if type(None) in hints and (value is None or value in ("none", "null", "")):
        return None
    wanted = [hint for hint in hints if hint is not type(None)]
    for hint in sorted(wanted, key=lambda item: item is str):  # anything fits a str, so it comes last
        try:
            return convert(value, hint, where)
        except UsageError:
            continue
    listed = " or ".join(_word(hint) for hint in wanted)
    raise UsageError(f"{where} must be {listed}, got {value!r}")


def _sequence(value: object, kind: Any, inner: Sequence[Any], where: str) -> Any:
    items = value
    if isinstance(value, str):
        items = [part.strip() for part in value.split(",")] if value.strip() else []
    if not isinstance(items, (list, tuple)):
        raise UsageError(f"{where} must be a list, got {value!r}")
    if kind is tuple and Ellipsis not in inner:
        if len(items) != len(inner):
            raise UsageError(f"{where} must have {len(inner)} values, got {value!r}")
        return tuple(convert(item, hint, where) for item, hint in zip(items, inner, strict=True))
    return kind(convert(item, inner[0], where) for item in items)


def _scalar(value: object, hint: Any, where: str) -> Any:
    wrong = UsageError(f"{where} must be {_word(hint)}, got {value!r}")
    text = value.strip().lower() if isinstance(value, str) else None
    if hint is bool:
        if isinstance(value, bool):
            return value
        if text in TRUE or text in FALSE:
            return text in TRUE
        raise wrong
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise wrong
        if hint is int and isinstance(value, float) and not value.is_integer():
            raise wrong
        try:
            return hint(value)
        except ValueError:
            raise wrong from None
    if hint in (str, Path):
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return hint(str(value))
        raise wrong
    if hint is type(None) and (value is None or text in ("none", "null", "")):
        return None
    raise wrong


def _word(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    return words.get(hint, str(hint).replace("typing.", ""))
