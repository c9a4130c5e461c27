"""A policy's directory: LeRobot's configuration and processors, and which engine runs the network beside them.

::

    config.json                  the kind of policy, its inputs and outputs
    policy_preprocessor.json     and its safetensors: what is done to an observation
    policy_postprocessor.json    and its safetensors: what is done to the network's answer
    model.safetensors            LeRobot's weights; or chunkwise.json and a network that `chunkwise export` made;
                                 or config.om.json or model.rknn, networks that were compiled for an accelerator

Nothing here needs torch, LeRobot or the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._exported import is_exported, read_exported
from chunkwise.engines._families import FAMILIES
from chunkwise.engines._lerobot import CONFIG, WEIGHTS, checkpoint_folder
from chunkwise.engines._om_manifest import backend_of
from chunkwise.plugins import require
from chunkwise.processing.lerobot import Feature, Processors, Tokenizer, features, read, state_files

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
MOST_TEXT_BYTES = 1 << 20
"""Of a JSON file; LeRobot's have a few thousand."""
MOST_STATE_BYTES = 1 << 24
"""Of a processor's safetensors; statistics of a hundred columns have ten thousand."""
ACTION = "action"
EMPTY = "observation.images.empty_camera"
"""Cameras that a policy has room for and nobody has; LeRobot's own code fills them in."""
MIGRATION = "python -m lerobot.processor.migrate_policy_normalization --pretrained-path"
"""LeRobot's own program for checkpoints whose statistics stand among the weights, as they did before 0.4."""

Tokenizers = Callable[[str], Tokenizer]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a policy's directory says without its weights.

    Attributes:
        folder: the directory.
        policy_type: LeRobot's word for the kind of policy: ``act``, ``diffusion`` ...
        inputs, outputs: features by LeRobot's names.
        engine: the engine that runs its network.
        n_obs_steps: observations that the network reads together, the newest last; 0 where it reads one and has no
            dimension for more.
        language: it reads a task; such policies also take pictures of any size, and make them their own inside.
    """

    folder: Path
    policy_type: str
    inputs: Mapping[str, Feature]
    outputs: Mapping[str, Feature]
    engine: str
    n_obs_steps: int
    language: bool

    @property
    def action_dim(self) -> int:
        """Columns of a row."""
        return self.outputs[ACTION].shape[0]

    def named(self, *kinds: str) -> list[str]:
        """The inputs of these types, in the policy's order."""
        return [name for name, feature in self.inputs.items() if feature.type in kinds]

    def processors(self, tokenizers: Tokenizers | None = None) -> Processors:
        """What stands before and after the network.

        Args:
            tokenizers: gives the tokeniser of a name; transformers' by default, which is imported only then.

        Raises:
            FileNotFoundError: a file is missing.
            ProcessingError: a file is damaged, or holds a step that is unknown here.
            MissingExtra: it names a tokeniser, and transformers is not installed.
        """
        for name in (PRE, POST):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"{self.folder} has no {name}, and without its statistics a policy would move at random; "
                    f"a checkpoint from before LeRobot 0.4 gets one by: {MIGRATION} {self.folder}"
                )
        pre, post = (_text(self.folder / name) for name in (PRE, POST))
        state = {name: _bytes(self.folder / name, MOST_STATE_BYTES) for name in state_files(pre, post)}
        return read(pre, post, state, tokenizers=tokenizers or pretrained_tokenizer)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """What there is at a path, which may be a directory, or a hub id ``organisation/name`` to be downloaded.

    Raises:
        FileNotFoundError: there is nothing of that name; the message says what is nearest.
        InterfaceValidationError: what is there is no policy's directory; the message names the key.
    """
    folder = checkpoint_folder(str(path))
    where = folder / CONFIG
    tree = _object(where)
    kind = tree.get("type")
    if not isinstance(kind, str) or not kind:
        raise InterfaceValidationError(f"{where} has no 'type', which says what policy it is")
    inputs, outputs = (_features(tree, key, where) for key in ("input_features", "output_features"))
    action = outputs.get(ACTION)
    if action is None or len(action.shape) != 1:
        raise InterfaceValidationError(f"{where}: output_features must have {ACTION!r}, of one dimension")
    family = FAMILIES.get(kind)
    observed = tree.get("n_obs_steps", 1)
    if type(observed) is not int or not 1 <= observed <= 64:
        raise InterfaceValidationError(f"{where}: n_obs_steps must be a number from 1 to 64, got {observed!r}")
    return Checkpoint(
        folder,
        kind,
        {name: feature for name, feature in inputs.items() if not name.startswith(EMPTY)},
        outputs,
        engine=_engine_of(folder),
        n_obs_steps=observed if family is not None and family.history else 0,
        language=family is not None and family.language,
    )


def pretrained_tokenizer(name: str) -> Tokenizer:
    """Transformers' tokeniser of that name, from a directory or from the hub.

    Raises:
        MissingExtra: transformers is not installed.
        FileNotFoundError: there is no such tokeniser.
    """
    transformers = require("transformers", extra="lerobot")
    try:
        made = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"tokeniser {name!r} cannot be loaded: {error}") from error

    def tokenize(texts: list[str], *, max_length: int, padding: str, padding_side: str, truncation: bool) -> Any:
        tokens = made(
            texts,
            max_length=max_length,
            padding=padding,
            padding_side=padding_side,
            truncation=truncation,
            return_tensors="np",
        )
        return tokens["input_ids"].astype("int64"), tokens["attention_mask"].astype(bool)

    return tokenize


def _engine_of(folder: Path) -> str:
    """The engine for what is in a directory; LeRobot's weights come before what was compiled of them."""
    if is_exported(folder):
        return read_exported(folder).engine
    if (folder / WEIGHTS).is_file():
        return "lerobot"
    return backend_of(folder) or ("rknn" if (folder / "model.rknn").is_file() else "lerobot")


def _features(tree: Mapping[str, Any], key: str, where: Path) -> dict[str, Feature]:
    given = tree.get(key)
    if not isinstance(given, dict) or not given:
        raise InterfaceValidationError(f"{where}: {key} must name at least one feature, got {given!r:.200}")
    try:
        return features(given)
    except InterfaceValidationError as error:
        raise InterfaceValidationError(f"{where}: {key}: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InterfaceValidationError(f"{path} is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise InterfaceValidationError(f"{path} must be a JSON object")
    return tree


def _text(path: Path) -> str:
    try:
        return _bytes(path, MOST_TEXT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InterfaceValidationError(f"{path} is no UTF-8 text: {error}") from None


def _bytes(path: Path, most: int) -> bytes:
    """A file of the directory, whole.

    Raises:
        FileNotFoundError: it is missing.
        InterfaceValidationError: it is larger than such a file is.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}, which its processors name: copy it whole")
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InterfaceValidationError(f"{path} has more than {most} bytes")
    return data
