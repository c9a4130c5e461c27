"""Component YAML (schema version 1) as the parts that a policy is made of.

A component is a network written down: a chain of layers, or a graph of modules and operations; or, where the file
has nothing but ``params``, one registered class of the file's own name.  Layers are those of ``torch.nn``, and
what is in ``COMPONENT_REGISTRY``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.contract.errors import nearest
from chunkwise.policies.igris.documents import Filler, PolicyFileError, composed, mapping, refuse_unknown
from chunkwise.policies.igris.layers import Maker, Settings, require_allowed
from chunkwise.policies.igris.networks import build_model
from chunkwise.policies.igris.registry import COMPONENT_REGISTRY

KEYS = ("schema_version", "params", "settings", "defaults", "imports", "templates", "model")
SETTINGS = ("strict", "allow_imports", "allowed_import_prefixes", "allow_target")


@dataclass(frozen=True, slots=True)
class Component:
    """A component as built.

    Attributes:
        part: what the policy gets.
        fresh: names of parameters that are as ``torch.nn`` drew them, and their tensors.
        ckpt_dir: folder of its weights where its own file names one that nothing else uses.
    """

    part: Any
    fresh: Mapping[str, Any]
    ckpt_dir: Path | None


def build_component(name: str, path: Path, map_location: str = "cpu") -> Component:
    """What a component file describes, on no weights yet.

    Args:
        name: of the component, for messages.
        path: of its file.
        map_location: device, for the classes that ask for an argument of that name.

    Raises:
        MissingFile, PolicyFileError: a file is missing, or says what cannot be; the message names the key.
        MissingExtra: a layer is torch's, and torch is not installed.
    """
    where = f"component {name!r} ({path})"
    tree = composed(path, f"component {name!r}")
    refuse_unknown(tree, KEYS, where)
    filler = Filler(mapping(tree.get("params"), f"{where}: params"), where)
    settings = _settings(filler.fill(tree.get("settings")), f"{where}: settings")
    _import(filler.fill(tree.get("imports")), settings, f"{where}: imports")
    if tree.get("templates"):
        raise PolicyFileError(f"{where}: templates are not known here; write out what they stand for")
    maker = Maker(settings, map_location)
    if "model" not in tree:
        return Component(_named_like_its_file(maker, path, filler, tree, where), {}, None)
    if tree.get("schema_version") != 1:
        raise PolicyFileError(f"{where}: needs schema_version: 1, has {tree.get('schema_version')!r}")
    part = build_model(maker, mapping(filler.fill(tree["model"]), f"{where}: model"), f"{where}: model")
    folder = mapping(tree.get("params"), where).get("ckpt_dir")
    own = folder is not None and "ckpt_dir" not in filler.used
    weights = path.parent / Path(str(filler.fill(folder))).expanduser() if own else None
    return Component(part, _drawn(part, maker.layers), weights)


def _named_like_its_file(maker: Maker, path: Path, filler: Filler, tree: Mapping[str, Any], where: str) -> Any:
    """One registered class, made of ``params``; the form that the engine's own documents print."""
    if not COMPONENT_REGISTRY.has(path.stem):
        known = COMPONENT_REGISTRY.keys()
        raise PolicyFileError(
            f"{where}: it has no model, and no component type is registered as {path.stem!r}"
            f"{nearest(path.stem, known)}; there are: {', '.join(known)}"
        )
    if tree.get("schema_version", 1) != 1:
        raise PolicyFileError(f"{where}: schema_version must be 1, got {tree['schema_version']!r}")
    params = mapping(filler.fill(tree.get("params")), f"{where}: params")
    return maker.make({"_type_": path.stem, "_kwargs_": params}, f"{where}: params")


def _settings(tree: object, where: str) -> Settings:
    given = mapping(tree, where)
    refuse_unknown(given, SETTINGS, where)
    if given.pop("strict", True) is not True:
        raise PolicyFileError(f"{where}: strict is always true here: unknown keys are refused")
    prefixes = given.pop("allowed_import_prefixes", [])
    if not isinstance(prefixes, list) or not all(isinstance(item, str) and item for item in prefixes):
        raise PolicyFileError(f"{where}: allowed_import_prefixes must be a list of module names, got {prefixes!r}")
    for key, value in given.items():
        if not isinstance(value, bool):
            raise PolicyFileError(f"{where}: {key} must be true or false, got {value!r}")
    return Settings(allowed_import_prefixes=tuple(prefixes), **given)


def _import(modules: object, settings: Settings, where: str) -> None:
    """Import what registers component types."""
    if not isinstance(modules or [], list):
        raise PolicyFileError(f"{where} must be a list of modules, got {modules!r}")
    for module in modules or []:  # type: ignore[attr-defined]
        if not settings.allow_imports:
            raise PolicyFileError(f"{where}: importing {module!r} needs settings: {{allow_imports: true}}")
        require_allowed(str(module), settings, where)
        try:
            importlib.import_module(str(module))
        except ImportError as error:
            raise PolicyFileError(f"{where}: {module!r}: {error}") from error


def _drawn(part: Any, layers: Sequence[Any]) -> Mapping[str, Any]:
    """The parameters of `part` that belong to `layers`, by name."""
    if not layers:
        return {}
    drawn = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return {name: parameter for name, parameter in part.named_parameters() if id(parameter) in drawn}
