"""Trees with ``_type_`` or ``_target_`` as what they describe: layers of torch, and registered component types."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkwise.contract.errors import nearest
from chunkwise.plugins import require
from chunkwise.policies.igris.documents import MissingFile, PolicyFileError, mapping, refuse_unknown
from chunkwise.policies.igris.registry import COMPONENT_REGISTRY

MARKS = ("_type_", "_target_", "_args_", "_kwargs_")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a component file may do beyond naming layers; nothing by default."""

    allow_imports: bool = False
    allowed_import_prefixes: tuple[str, ...] = ()
    allow_target: bool = False


def require_allowed(module: str, settings: Settings, where: str) -> None:
    """Raise PolicyFileError where the file confines its imports and `module` is not within."""
    prefixes = settings.allowed_import_prefixes
    if prefixes and not any(module == item or module.startswith(item.rstrip(".") + ".") for item in prefixes):
        raise PolicyFileError(f"{where}: {module!r} is not within allowed_import_prefixes: {', '.join(prefixes)}")


class Maker:
    """Makes what trees with ``_type_`` or ``_target_`` describe.

    Attributes:
        layers: what it made of ``torch.nn``, with random weights.
    """

    def __init__(self, settings: Settings, map_location: str) -> None:
        self._settings, self._map_location = settings, map_location
        self.layers: list[Any] = []

    def make(self, tree: object, where: str) -> Any:
        """The object of one tree.

        Raises:
            PolicyFileError: a type or an argument is unknown, or its constructor refuses.
        """
        if not isinstance(tree, Mapping) or ("_type_" in tree) is ("_target_" in tree):
            raise PolicyFileError(f"{where} must be a mapping with a _type_, got {tree!r}")
        marks = {key for key in tree if key.startswith("_") and key.endswith("_")}
        refuse_unknown(dict.fromkeys(sorted(marks)), MARKS, where)
        made_of, layer = self._class(tree, where)
        given = tree.get("_args_", [])
        if not isinstance(given, list):
            raise PolicyFileError(f"{where}: _args_ must be a list, got {given!r}")
        named = {key: value for key, value in tree.items() if key not in marks}
        named |= mapping(tree.get("_kwargs_"), f"{where}: _kwargs_")
        args = [self._inner(value, f"{where}._args_[{index}]") for index, value in enumerate(given)]
        kwargs = {key: self._inner(value, f"{where}.{key}") for key, value in named.items()}
        made = call(made_of, args, kwargs, where, offered={"map_location": self._map_location})
        if layer:
            self.layers.append(made)
        return made

    def _inner(self, value: object, where: str) -> Any:
        """An argument, which may be an object itself."""
        if isinstance(value, Mapping) and ("_type_" in value or "_target_" in value):
            return self.make(value, where)
        if isinstance(value, list):
            return [self._inner(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return value

    def _class(self, tree: Mapping[str, Any], where: str) -> tuple[Callable[..., Any], bool]:
        """What to call, and whether it is a layer of torch's."""
        if "_target_" in tree:
            return self._target(str(tree["_target_"]), where), False
        name = tree["_type_"]
        if not isinstance(name, str):
            raise PolicyFileError(f"{where}: _type_ must be a name, got {name!r}")
        if COMPONENT_REGISTRY.has(name):
            return COMPONENT_REGISTRY.get(name), False
        torch = require("torch", extra="torch")
        short = name.removeprefix("torch.").removeprefix("nn.")
        layers = {key: value for key, value in vars(torch.nn).items() if _is_layer(value, torch.nn.Module)}
        if short in layers:
            return layers[short], True
        registered = COMPONENT_REGISTRY.keys()
        raise PolicyFileError(
            f"{where}: no type {name!r}{nearest(short, [*registered, *layers])}; there are torch.nn's layers, and "
            f"registered: {', '.join(registered)}"
        )

    def _target(self, target: str, where: str) -> Callable[..., Any]:
        if not self._settings.allow_target:
            raise PolicyFileError(f"{where}: _target_ {target!r} needs settings: {{allow_target: true}}")
        module, _, attribute = target.rpartition(".")
        require_allowed(target, self._settings, where)
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise PolicyFileError(f"{where}: _target_ {target!r}: {error}") from error
        return found


def _is_layer(value: object, module: type) -> bool:
    return inspect.isclass(value) and issubclass(value, module) and value is not module


def call(
    made_of: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    where: str,
    offered: Mapping[str, Any] | None = None,
) -> Any:
    """``made_of(*args, **kwargs)``, whose refusals are errors that say where.

    Args:
        made_of: a class or function.
        args, kwargs: as the file gives them.
        where: the file and key, for messages.
        offered: further arguments, for a signature that has them by name.

    Raises:
        PolicyFileError: an argument is unknown, missing, or refused.
    """
    try:
        parameters = inspect.signature(made_of).parameters
    except (TypeError, ValueError):  # a class of C without a signature
        parameters = {}  # type: ignore[assignment]
    if parameters and all(item.kind is not item.VAR_KEYWORD for item in parameters.values()):
        refuse_unknown(kwargs, [key for key in parameters if key not in (offered or {})], where)
    given = {key: value for key, value in (offered or {}).items() if key in parameters} | dict(kwargs)
    try:
        return made_of(*args, **given)
    except MissingFile:
        raise
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        name = getattr(made_of, "__name__", str(made_of))
        raise PolicyFileError(f"{where}: {name}: {error}") from error
