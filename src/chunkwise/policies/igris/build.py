"""A policy from its YAML: parts, their weights, and the class that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chunkwise.contract.errors import nearest
from chunkwise.plugins import require
from chunkwise.policies.igris.components import Component, build_component
from chunkwise.policies.igris.documents import MissingFile, PolicyFileError, composed, mapping, refuse_unknown
from chunkwise.policies.igris.layers import call
from chunkwise.policies.igris.registry import PolicyProtocol, find_policy

WEIGHT_FILES = (".pt", ".safetensors")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy YAML, read.

    Attributes:
        path: of the file; relative paths in it begin in its folder.
        components: name -> component file.
        checkpoint: folder with ``<component>.pt`` of every component, or None.
        type: the policy's registered name, ``module:Class`` or ``path.py:Class``.
        params: keyword arguments of its class.
    """

    path: Path
    components: Mapping[str, Path]
    checkpoint: Path | None
    type: str
    params: Mapping[str, Any]


class Components(dict[str, Any]):
    """Parts by name; one that is not there is an error that lists those that are."""

    def __missing__(self, name: str) -> Any:
        there = ", ".join(self) or "none"
        raise KeyError(f"the policy YAML has no component {name!r}{nearest(name, self)}; there are: {there}")


def read_policy_file(path: str | Path) -> PolicyFile:
    """A policy YAML with what its ``defaults`` name.

    Raises:
        MissingFile, PolicyFileError: a file is missing or wrong, or a key is unknown; the message names it.
    """
    path = Path(path).expanduser()
    tree = composed(path, "policy YAML")
    refuse_unknown(tree, ("model", "checkpoint_path", "policy", "defaults"), str(path))
    model = mapping(tree.get("model"), f"{path}: model")
    refuse_unknown(model, ("component_config_paths",), f"{path}: model")
    policy = mapping(tree.get("policy"), f"{path}: policy")
    refuse_unknown(policy, ("type", "params"), f"{path}: policy")
    paths = mapping(model.get("component_config_paths"), f"{path}: model.component_config_paths")
    if not paths:
        raise PolicyFileError(f"{path}: model.component_config_paths must name at least one component")
    for name, value in paths.items():
        _text(value, f"{path}: model.component_config_paths.{name}")
    checkpoint, where = tree.get("checkpoint_path"), f"{path}: checkpoint_path"
    return PolicyFile(
        path,
        {name: path.parent / Path(value).expanduser() for name, value in paths.items()},
        None if checkpoint is None else path.parent / Path(_text(checkpoint, where)).expanduser(),
        _text(policy.get("type"), f"{path}: policy.type"),
        mapping(policy.get("params"), f"{path}: policy.params"),
    )


def build_policy(
    policy_yaml_path: str | Path, *, map_location: str = "cpu", untrained: bool = False
) -> PolicyProtocol:
    """The policy that a YAML describes, its parts on one device, their weights loaded and frozen.

    Args:
        policy_yaml_path: the YAML.
        map_location: device of the parts.
        untrained: let layers of ``torch.nn`` that nobody loaded weights into keep their random ones.

    Raises:
        KeyError: no such policy, or a component that it wants is not in the YAML.
        TypeError: the class lacks a method of `PolicyProtocol`.
        MissingFile: a file, the checkpoint's folder, or the weights of a component are not there.
        PolicyFileError: a key is unknown, a value is wrong, weights do not fit or are missing.
        MissingExtra: a component needs torch, or another package, that is not installed.
    """
    file = read_policy_file(policy_yaml_path)
    made_of = find_policy(file.type, file.path.parent)
    built = {name: build_component(name, path, map_location) for name, path in file.components.items()}
    for name, component in built.items():
        folder = _weights_folder(name, component, file)
        if folder is not None:
            load_weights(component.part, weights_file(folder, name), map_location)
            built[name] = replace(component, fresh={})
        if hasattr(component.part, "parameters"):
            component.part.to(map_location).eval()
    parts = Components({name: component.part for name, component in built.items()})
    drawn = _versions(built)
    policy: PolicyProtocol = call(made_of, [], {"components": parts, **file.params}, f"{file.path}: policy.params")
    random = [key for key, version in _versions(built).items() if drawn[key] == version]
    if random and not untrained:
        raise PolicyFileError(
            f"{file.path}: nothing loads weights into {len(random)} tensors, as {random[0]}: they are random.  "
            "Name a folder with <component>.pt by checkpoint_path (or by ckpt_dir in the component's params), "
            "load them in the policy's __init__, or say untrained"
        )
    policy.freeze_all_model_params()
    return policy


def weights_file(folder: Path, component: str) -> Path:
    """The one file of a component's weights.

    Raises:
        MissingFile: there is none.
        PolicyFileError: there are two.
    """
    if not folder.is_dir():
        raise MissingFile(f"component {component!r}: no checkpoint folder {folder}")
    candidates = [folder / f"{component}{suffix}" for suffix in WEIGHT_FILES]
    there = [path for path in candidates if path.is_file()]
    if not there:
        raise MissingFile(f"component {component!r}: no weights: neither {' nor '.join(map(str, candidates))}")
    if len(there) > 1:
        raise PolicyFileError(f"component {component!r}: weights twice: {' and '.join(map(str, there))}; keep one")
    return there[0]


def load_weights(part: Any, path: Path, map_location: str = "cpu") -> None:
    """Load a file's weights into a network: every one, and nothing else.

    A ``.pt`` file is read with ``weights_only=True``, so that nothing in it is run.

    Raises:
        PolicyFileError: it is no such file, or its weights are not the network's; the message lists those.
    """
    if not hasattr(part, "load_state_dict"):
        raise PolicyFileError(f"{path}: its component is {type(part).__name__}, which has no load_state_dict()")
    torch = require("torch", extra="torch")
    safetensors = require("safetensors.torch", extra="torch") if path.suffix == ".safetensors" else None
    try:
        if safetensors is not None:
            weights = safetensors.load_file(str(path), device=map_location)
        else:
            weights = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        said = " ".join(str(error).split())[:300]
        raise PolicyFileError(f"{path} holds no weights that are safe to load: {said}") from error
    if not isinstance(weights, Mapping):
        raise PolicyFileError(f"{path} holds {type(weights).__name__}, not weights by name")
    try:
        part.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise PolicyFileError(f"{path}: {' '.join(str(error).split())}") from error


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyFileError(f"{where} must be a text, got {value!r}")
    return value


def _weights_folder(name: str, component: Component, file: PolicyFile) -> Path | None:
    if component.ckpt_dir is None:
        return file.checkpoint
    if file.checkpoint is not None:
        raise PolicyFileError(
            f"component {name!r}: its weights are named twice, by checkpoint_path of {file.path} and by ckpt_dir "
            f"of {file.components[name]}; keep one"
        )
    return component.ckpt_dir


def _versions(built: Mapping[str, Component]) -> dict[str, tuple[bool, int]]:
    """What changes when a drawn parameter is written or replaced, by ``component.parameter``."""
    versions = {}
    for name, component in built.items():
        now = dict(component.part.named_parameters()) if component.fresh else {}
        for key, tensor in component.fresh.items():
            versions[f"{name}.{key}"] = (now.get(key) is tensor, tensor._version)
    return versions
