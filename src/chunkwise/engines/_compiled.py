"""What the compiled back ends have in common: the policy's ``config.json``, and what goes wrong with a back end.

A compiled network says little about itself, so the directory says it: which family, which inputs, how wide an
action is.  The ``device`` there is the machine that trained it, and decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.processing.lerobot import Feature, features

CONFIG = "config.json"
FAMILIES = ("act", "pi05")
"""Policies that a compiled back end runs."""
STATE, IMAGES, ACTION = "observation.state", "observation.images.", "action"
ORDERS = ("compiled_runtime_input_order", "runtime_input_order", "input_order")
"""Keys that may say in which order the network takes its inputs; the first that is a list with items counts."""
MOST_BYTES = 1 << 20
"""Of a JSON file; LeRobot's have about two thousand."""


class BackendError(InterfaceValidationError, RuntimeError):
    """A back end's runtime failed, or what it holds or answers does not fit the policy."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One input or output of a compiled network: its name there, its shape, its numpy type."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Of all its numbers."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What a compiled back end reads of ``config.json``.

    Attributes:
        folder: the directory.
        policy_type: one of :data:`FAMILIES`.
        inputs: features by LeRobot's names, in the file's order.
        action_dim: columns of an action.
        order: names of the inputs in the network's order, where the file says it; else empty.
        tree: the whole file.
    """

    folder: Path
    policy_type: str
    inputs: Mapping[str, Feature]
    action_dim: int
    order: tuple[str, ...]
    tree: Mapping[str, Any]

    def whole(self, key: str, default: int) -> int:
        """A whole number above zero.

        Raises:
            InterfaceValidationError: it is none.
        """
        value = self.tree.get(key, default)
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise InterfaceValidationError(
                f"{self.folder / CONFIG}: {key} must be a whole number above 0, got {value!r:.80}"
            )
        return value


def read_policy(path: str | Path, backend: str) -> PolicyConfig:
    """What there is to know of a compiled policy.

    Args:
        path: its directory, or the ``config.json`` in it.
        backend: which is to run it.

    Raises:
        FileNotFoundError: there is none.
        InterfaceValidationError: it is no policy's, or of a family that the back end does not run.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == CONFIG else folder
    where = folder / CONFIG
    if not where.is_file():
        raise FileNotFoundError(
            f"Compiled backend {backend} requires policy_path/{CONFIG} with policy type metadata: {path}"
        )
    tree = read_json(where)
    if not isinstance(tree, dict):
        raise InterfaceValidationError(f"Compiled backend {backend} policy config must be a JSON object: {where}")
    kind = tree.get("type")
    if not isinstance(kind, str) or not kind:
        raise InterfaceValidationError(
            f"Compiled backend {backend} policy config is missing required type metadata: {where}"
        )
    if kind not in FAMILIES:
        raise InterfaceValidationError(f"Compiled backend {backend} does not support policy type {kind!r}")
    if kind == "pi05" and backend != "ascend_om":
        raise InterfaceValidationError(f"Compiled backend {backend} does not support PI05 OM policy")
    inputs = _inputs(tree, where)
    return PolicyConfig(folder, kind, inputs, _action_dim(tree, where), _order(tree, inputs, where), tree)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InterfaceValidationError: it is none, or larger than such a file is.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InterfaceValidationError(f"{path} has more than {MOST_BYTES} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InterfaceValidationError(f"{path} is no JSON: {error}") from None


def _inputs(tree: Mapping[str, Any], where: Path) -> dict[str, Feature]:
    given = tree.get("input_features")
    if not isinstance(given, dict) or not given:
        raise InterfaceValidationError(f"compiled policy config must define non-empty input_features: {where}")
    try:
        return features(given, "input_features")
    except InterfaceValidationError as error:
        raise InterfaceValidationError(f"{where}: {error}") from error


def _action_dim(tree: Mapping[str, Any], where: Path) -> int:
    """Columns of an action; nobody guesses them."""
    outputs = tree.get("output_features")
    action = outputs.get(ACTION) if isinstance(outputs, dict) else None
    shape = action.get("shape") if isinstance(action, dict) else None
    found = shape[-1] if isinstance(shape, list) and shape else tree.get("action_dim")
    if type(found) is not int or not 1 <= found <= 1 << 16:
        raise InterfaceValidationError(
            f"{where} does not say how many numbers an action has: output_features.action.shape or action_dim"
        )
    return found


def _order(tree: Mapping[str, Any], inputs: Mapping[str, Feature], where: Path) -> tuple[str, ...]:
    for key in ORDERS:
        listed = tree.get(key)
        if listed is None or listed == []:
            continue
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise InterfaceValidationError(f"{where}: {key} must be a list of input names, got {listed!r:.200}")
        for name in listed:
            if name not in inputs:
                there = ", ".join(inputs)
                raise InterfaceValidationError(
                    f"{where}: {key} names no input {name!r}{nearest(name, inputs)}; there are: {there}"
                )
        if len(set(listed)) < len(listed):
            raise InterfaceValidationError(f"{where}: {key} names an input twice: {', '.join(listed)}")
        return tuple(listed)
    return ()
