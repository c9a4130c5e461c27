"""A directory that ``chunkwise export`` made: a network for one runtime, and all that LeRobot keeps beside it.

::

    chunkwise.json               this file's part: what there is, and what it should hash to
    model.onnx                   or model.xml and model.bin, or model.pt2
    config.json                  LeRobot's own, as are the following; nobody needs LeRobot to read them
    policy_preprocessor.json     and its safetensors
    policy_postprocessor.json    and its safetensors
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.engines import TensorSpec

MANIFEST = "chunkwise.json"
SCHEMA = 1
FORMATS = {"onnx": "model.onnx", "openvino": "model.xml", "aoti": "model.pt2", "torch": "model.pt2"}
"""Formats, each named like the engine that runs it, and the file that an export writes."""
MOST_BYTES = 1 << 20
"""Of a manifest; one of ours has two thousand."""
_KEYS = (
    *("schema", "format", "file", "policy_type", "device", "inputs", "outputs"),
    *("sha256", "made_with", "parity"),
)


@dataclass(frozen=True)
class Exported:
    """What the manifest of an exported directory says.

    Attributes:
        folder: the directory.
        format: one of :data:`FORMATS`.
        file: the network's, in `folder`; of several networks, the one that is asked first.
        policy_type: LeRobot's word for the family, or ``demo``.
        device: what the network was made for, where that is fixed; else "".
        inputs: of the network, in its order, by LeRobot's names.
        outputs: of the network.
        sha256: of every file beside the manifest, in hexadecimal.
        made_with: versions of the packages that made it.
        parity: how far it was from the original, and on what.
    """

    folder: Path
    format: str
    file: str
    policy_type: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    device: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """The engine that runs it."""
        return self.format

    @property
    def model(self) -> Path:
        """The network's file."""
        return self.folder / self.file

    def check(self) -> None:
        """See that the files are those that were exported.

        This finds what was damaged, cut off or mixed up.  It is no signature: who can write the files can write
        the manifest too.

        Raises:
            FileNotFoundError: one is missing.
            InterfaceValidationError: one differs.
        """
        for name, wanted in self.sha256.items():
            path = self.folder / name
            if not path.is_file():
                raise FileNotFoundError(f"{self.folder} lacks {name!r}, which its {MANIFEST} lists: copy it whole")
            if sha256(path) != wanted:
                raise InterfaceValidationError(f"{path} is not the file that was exported: its hash differs")

    def write(self) -> None:
        """Hash the files of the folder, and write the manifest beside them."""
        hashes = {path.name: sha256(path) for path in sorted(self.folder.iterdir()) if path.name != MANIFEST}
        tree = {
            "schema": SCHEMA,
            "format": self.format,
            "file": self.file,
            "policy_type": self.policy_type,
            "device": self.device,
            "inputs": _listed(self.inputs),
            "outputs": _listed(self.outputs),
            "sha256": hashes,
            "made_with": dict(self.made_with),
            "parity": dict(self.parity),
        }
        (self.folder / MANIFEST).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_exported(folder: str | Path) -> bool:
    """Whether there is a directory with a manifest."""
    return (Path(folder) / MANIFEST).is_file()


def read_exported(folder: str | Path) -> Exported:
    """What the manifest says; the files beside it are not looked at, see :meth:`Exported.check`.

    Raises:
        FileNotFoundError: there is no manifest.
        InterfaceValidationError: it is none; the message says which key is wrong.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}; `chunkwise export` makes such a directory")
    if path.stat().st_size > MOST_BYTES:
        raise InterfaceValidationError(f"{path} has more than {MOST_BYTES} bytes")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InterfaceValidationError(f"{path} is no JSON: {error}") from None
    try:
        return _exported(Path(folder), tree)
    except InterfaceValidationError as error:
        raise InterfaceValidationError(f"{path}: {error}") from None


def network_file(path: str, engine: str, suffixes: tuple[str, ...]) -> tuple[Path, Exported | None]:
    """The file of a network, and what is known of it where `path` is an exported directory, which is checked.

    Raises:
        FileNotFoundError: there is no such file or directory.
        InterfaceValidationError: it is not for this engine, or not what was exported.
    """
    there = Path(path).expanduser()
    if there.is_dir():
        exported = read_exported(there)
        if exported.format != engine:
            raise InterfaceValidationError(
                f"{there} was exported for the engine {exported.format!r}, not for {engine!r}: "
                f"load it with {exported.format!r}, or export it again with --to {engine}"
            )
        exported.check()
        return exported.model, exported
    if not there.is_file():
        raise FileNotFoundError(f"there is no {path}")
    if there.suffix not in suffixes:
        reads = " and ".join([*suffixes, "directories that `chunkwise export` made"])
        raise InterfaceValidationError(f"{path} is nothing for the engine {engine!r}: it reads {reads}")
    return there, None


def require_told(exported: Exported, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
    """See that a network is what its manifest says: no hash is of the manifest itself.

    Args:
        exported: what the manifest says.
        inputs, outputs: what the network says.

    Raises:
        InterfaceValidationError: they differ; the message names the tensor.
    """
    for what, told, found in (("input", exported.inputs, inputs), ("output", exported.outputs, outputs)):
        for name in {**told, **found}:
            here, there = told.get(name), found.get(name)
            if here is None or there is None or (here.shape, here.dtype) != (there.shape, there.dtype):
                raise InterfaceValidationError(
                    f"{exported.folder / MANIFEST} does not fit {exported.file}: {what} {name!r} is "
                    f"{_said(here)} by the one and {_said(there)} by the other; export it again"
                )


def _said(spec: TensorSpec | None) -> str:
    return "not there" if spec is None else f"{spec.dtype} {list(spec.shape)}"


def _exported(folder: Path, tree: Any) -> Exported:
    _need(isinstance(tree, dict), "must be a JSON object")
    for key in tree:
        _need(key in _KEYS, f"unknown key {key!r}{nearest(key, _KEYS)}")
    for key in _KEYS:
        _need(key in tree, f"{key!r} is missing")
    schema = tree["schema"]
    _need(
        schema == SCHEMA,
        f"schema {schema!r} is not {SCHEMA}, the one that this version reads: export again, or update chunkwise",
    )
    _need(tree["format"] in [*FORMATS], f"format {tree['format']!r} is none of {', '.join(FORMATS)}")
    for key in ("policy_type", "device", "file"):
        _need(isinstance(tree[key], str), f"{key!r} must be a text")
    for key in ("sha256", "made_with", "parity"):
        _need(isinstance(tree[key], dict), f"{key!r} must be an object")
    for name, value in tree["sha256"].items():
        _need(
            Path(name).name == name and name not in (".", ".."), f"{name!r} is no name of a file in the directory"
        )
        _need(isinstance(value, str), f"the hash of {name!r} must be a text")
    _need(tree["file"] in tree["sha256"], f"file {tree['file']!r} is not among those that are hashed")
    specs: dict[str, Any] = {key: _specs(tree[key], key) for key in ("inputs", "outputs")}
    rest = {key: tree[key] for key in _KEYS if key not in ("schema", *specs)}
    return Exported(folder=folder, **specs, **rest)


def _specs(items: Any, key: str) -> dict[str, TensorSpec]:
    _need(isinstance(items, list), f"{key!r} must be a list")
    specs = {}
    for item in items:
        _need(
            isinstance(item, dict) and set(item) == {"name", "shape", "dtype"} and isinstance(item["name"], str),
            f"an item of {key!r} must have name, shape and dtype, got {item!r:.200}",
        )
        shape, dtype = item["shape"], item["dtype"]
        sized = isinstance(shape, list) and all(size is None or (type(size) is int and size > 0) for size in shape)
        _need(sized, f"{key!r}: the shape of {item['name']!r} must be a list of sizes, got {shape!r:.200}")
        _need(_is_dtype(dtype), f"{key!r}: the dtype of {item['name']!r} is unknown: {dtype!r:.200}")
        specs[item["name"]] = TensorSpec(tuple(shape), dtype)
    _need(len(specs) == len(items) > 0, f"{key!r} must have at least one item, and no name twice")
    return specs


def _is_dtype(name: object) -> bool:
    try:
        return isinstance(name, str) and np.dtype(name).name == name and np.dtype(name).kind in "biuf"
    except TypeError:
        return False


def _listed(specs: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": name, "shape": list(spec.shape), "dtype": spec.dtype} for name, spec in specs.items()]


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise InterfaceValidationError(message)
