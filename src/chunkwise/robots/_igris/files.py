"""The IGRIS files, read from disk within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from chunkwise.processing.igris import MAX_BYTES, IgrisFileError, RuntimeParams, runtime_params
from chunkwise.robots._igris.topics import Topics, topics_of


class MissingIgrisFile(IgrisFileError, FileNotFoundError):
    """A file that is named is not there."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what a configuration does not need: aliases, which may grow without bound, and
    keys that stand twice, of which the last would win silently."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in getattr(node, "value", ()) if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} twice", node.start_mark)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_params(path: Path) -> RuntimeParams:
    """An ``inference_runtime_params.json``.

    Raises:
        MissingIgrisFile, IgrisFileError: it is not there, or not what it must be.
    """
    path = path.expanduser()
    return runtime_params(_read(path, "runtime parameters"), str(path))


def read_topics(path: Path) -> Topics:
    """An ``inference_runtime_topics.json``.

    Raises:
        MissingIgrisFile, IgrisFileError: it is not there, or not what it must be.
    """
    path = path.expanduser()
    return topics_of(_read(path, "runtime topics"), str(path))


def read_yaml(path: Path, what: str) -> object:
    """A YAML (or JSON) file of ours, as a tree.

    Raises:
        MissingIgrisFile, IgrisFileError: it is not there, too large, or not YAML.
    """
    path = path.expanduser()
    try:
        return yaml.load(_read(path, what), _Loader)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, IgrisFileError):
            raise
        raise IgrisFileError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _read(path: Path, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise MissingIgrisFile(f"{what}: no file {path}") from None
    except OSError as error:
        raise IgrisFileError(f"{what}: cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise IgrisFileError(f"{what}: {path} is larger than {MAX_BYTES} bytes")
    return data
