"""What stands beside a LeRobot checkpoint: ``policy_preprocessor.json`` and ``policy_postprocessor.json``.

::

    {"name": "policy_preprocessor",
     "steps": [{"registry_name": "normalizer_processor",
                "config": {"eps": 1e-8, "features": {...}, "norm_map": {"STATE": "MEAN_STD"}},
                "state_file": "policy_preprocessor_step_3_normalizer_processor.safetensors"}]}

A state file holds ``FEATURE.STATISTIC`` float32.  Every step that LeRobot 0.4.4 saves with act, diffusion, vqbet,
tdmpc, sac, smolvla, pi0, pi0_fast and pi05 is read; another one, or an option that is not known, is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chunkwise.contract.errors import nearest
from chunkwise.processing import safetensors
from chunkwise.processing.errors import ProcessingError, StatisticsError
from chunkwise.processing.language import NewLine, StateInPrompt, Tokenise, Tokenizer
from chunkwise.processing.pipeline import Pipeline, Step
from chunkwise.processing.statistics import Statistics
from chunkwise.processing.steps import FLOATS, AddBatch, Cast, Feature, Normalise, Rename

__all__ = ["OPTIONS", "Feature", "Processors", "Tokenizer", "features", "read", "state_files"]

MAX_TEXT: Final = 4 << 20
MAX_STEPS: Final = 64
MAX_FEATURES: Final = 1024
TYPES: Final = ("STATE", "ENV", "VISUAL", "LANGUAGE", "ACTION", "REWARD")


@dataclass(frozen=True)
class Processors:
    """What happens before and after a policy's network.

    Attributes:
        pre: observations of one moment or of a batch -> what the network takes.
        post: ``{"action": (B, T, D) or (B, D)}`` of the network -> the same in the robot's units.
        statistics: of every feature that is normalised, in training's units.
        features: that the normalisers know, by name.
        digest: of the statistics and how they are applied, for `PolicySpec.normalisation`; empty where nothing is
            normalised.
        warnings: what should be known, such as features that pass as they are for want of statistics.
    """

    pre: Pipeline
    post: Pipeline
    statistics: Statistics
    features: Mapping[str, Feature]
    digest: str
    warnings: tuple[str, ...]


def read(
    preprocessor: str,
    postprocessor: str,
    state: Mapping[str, bytes],
    *,
    tokenizers: Callable[[str], Tokenizer] | None = None,
) -> Processors:
    """The steps of two JSON texts.

    Args:
        preprocessor, postprocessor: the texts of the two files.
        state: safetensors files by name; `state_files` says which are wanted.
        tokenizers: gives the tokeniser of a name, such as ``google/paligemma-3b-pt-224``.

    Raises:
        ProcessingError: a text is no such file; the message names the file, the step by its number, and the cure.
    """
    makers = [_Maker(name, state, tokenizers) for name in ("preprocessor", "postprocessor")]
    pre, post = (
        Pipeline(*maker.pipeline(text)) for maker, text in zip(makers, (preprocessor, postprocessor), strict=True)
    )
    normalisers = [step for step in (*pre.steps, *post.steps) if isinstance(step, Normalise)]
    known = {key: feature for step in normalisers for key, feature in step.features.items()}
    return Processors(pre, post, _together(normalisers), known, _digest(normalisers), pre.warnings + post.warnings)


def state_files(preprocessor: str, postprocessor: str) -> tuple[str, ...]:
    """Names of the safetensors files that two JSON texts want, each once.

    Raises:
        ProcessingError: a text is no such file, or a name is none of a file beside it.
    """
    texts = (("preprocessor", preprocessor), ("postprocessor", postprocessor))
    names = [_file_of(entry, where) for name, text in texts for where, entry in _entries(name, text)]
    return tuple(dict.fromkeys(name for name in names if name))


def features(tree: Any, where: str = "features") -> dict[str, Feature]:
    """Features of a ``config.json``'s ``input_features`` or ``output_features``, or of a normaliser's.

    Raises:
        ProcessingError: it is none; the message names the feature.

    >>> features({"observation.state": {"type": "STATE", "shape": [6]}})
    {'observation.state': Feature(type='STATE', shape=(6,))}
    """
    if not isinstance(tree, dict) or len(tree) > MAX_FEATURES:
        raise ProcessingError(f"{where} must be at most {MAX_FEATURES} features by name")
    made = {}
    for name, entry in tree.items():
        found = entry if isinstance(entry, dict) else {}
        kind, shape = found.get("type"), found.get("shape")
        if kind not in TYPES:
            raise ProcessingError(f"{where}.{name}: type must be one of {', '.join(TYPES)}, got {kind!r:.40}")
        if (
            not isinstance(shape, list)
            or len(shape) > 8
            or not all(type(side) is int and side >= 0 for side in shape)
        ):
            raise ProcessingError(f"{where}.{name}: shape must be a list of whole numbers, got {shape!r:.80}")
        made[name] = Feature(kind, tuple(shape))
    return made


# Files --------------------------------------------------------------------------------------------------------


def _entries(name: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    """The steps of a text, each with where it stands."""
    if len(text) > MAX_TEXT:
        raise ProcessingError(f"{name}: {len(text)} letters, at most {MAX_TEXT} are read")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProcessingError(f"{name} is no JSON: {error}") from error
    steps = tree.get("steps") if isinstance(tree, dict) else None
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        raise ProcessingError(f"{name} must hold a list of at most {MAX_STEPS} steps")
    _only(tree, ("name", "steps"), name)
    made = []
    for number, entry in enumerate(steps):
        where = f"{name}: steps[{number}]"
        if not isinstance(entry, dict):
            raise ProcessingError(f"{where} must be a dict, is {type(entry).__name__}")
        _only(entry, ("registry_name", "class", "config", "state_file"), where)
        made.append((where, entry))
    return made


def _file_of(entry: Mapping[str, Any], where: str) -> str:
    name = entry.get("state_file", "")
    if not isinstance(name, str) or "/" in name or "\\" in name or name.startswith("."):
        raise ProcessingError(f"{where}: state_file must be the name of a file beside it, got {name!r:.80}")
    return name


def _only(tree: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in tree:
        if key not in known:
            there = ", ".join(known) or "none"
            raise ProcessingError(f"{where}: {key!r} is not known; there are: {there}{nearest(key, known)}")


# Steps --------------------------------------------------------------------------------------------------------


class _Maker:
    """Makes the steps of one file.

    Args:
        name: of the file, for messages.
        state, tokenizers: see `read`.
    """

    def __init__(
        self, name: str, state: Mapping[str, bytes], tokenizers: Callable[[str], Tokenizer] | None
    ) -> None:
        self.name, self.state, self.tokenizers = name, state, tokenizers
        self.warnings: list[str] = []

    def pipeline(self, text: str) -> tuple[list[Step], list[str]]:
        """The steps, and what should be known of them."""
        return [self._step(where, entry) for where, entry in _entries(self.name, text)], self.warnings

    def _step(self, where: str, entry: dict[str, Any]) -> Step:
        kind: Any = entry.get("registry_name", entry.get("class"))
        if not isinstance(kind, str) or kind not in OPTIONS:
            there = f"{', '.join(OPTIONS)}{nearest(str(kind), OPTIONS)}"
            raise ProcessingError(f"{where} {kind!r:.80} is not read here; there are: {there}")
        where = f"{where} {kind}"
        config = entry.get("config", {})
        if not isinstance(config, dict):
            raise ProcessingError(f"{where}: config must be a dict, is {type(config).__name__}")
        _only(config, OPTIONS[kind], where)
        file = _file_of(entry, where)
        if file and "normalizer" not in kind:
            raise ProcessingError(f"{where}: this step keeps nothing in a file, and names {file!r}")
        match kind:
            case "rename_observations_processor":
                return Rename(_texts(config.get("rename_map", {}), f"{where}: rename_map"))
            case "to_batch_processor":
                return AddBatch()
            case "device_processor":
                return self._cast(config, where)
            case "normalizer_processor" | "unnormalizer_processor":
                return self._normalise(kind, config, file, where)
            case "tokenizer_processor":
                return self._tokenise(config, where)
            case "pi05_prepare_state_tokenizer_processor_step":
                return StateInPrompt(**_prompt(config, where))
            case "pi0_fast_prepare_state_tokenizer_processor_step":
                return StateInPrompt(kind, ending=";\n", **_prompt(config, where))
            case _:
                return NewLine(kind)

    def _cast(self, config: dict[str, Any], where: str) -> Cast:
        device, dtype = config.get("device", "cpu"), config.get("float_dtype")
        if not isinstance(device, str) or not isinstance(dtype, str | None):
            raise ProcessingError(
                f"{where}: device and float_dtype must be texts, got {device!r:.40}, {dtype!r:.40}"
            )
        dtype = {"half": "float16", "float": "float32", "double": "float64"}.get(str(dtype), dtype)
        if dtype == "bfloat16":
            self.warnings.append(f"{where}: floats stay float32 here; the engine makes bfloat16 of them")
            return Cast(device)
        if dtype is not None and dtype not in FLOATS:
            known = (*FLOATS, "bfloat16")
            raise ProcessingError(f"{where}: float_dtype must be one of {', '.join(known)}, got {dtype!r:.40}")
        return Cast(device, dtype)

    def _normalise(self, kind: str, config: dict[str, Any], file: str, where: str) -> Normalise:
        eps, only = config.get("eps", 1e-8), config.get("normalize_observation_keys")
        if type(eps) not in (int, float) or not math.isfinite(eps) or eps < 0:
            raise ProcessingError(f"{where}: eps must be a number of at least zero, got {eps!r:.40}")
        if only is not None and (not isinstance(only, list) or not all(isinstance(key, str) for key in only)):
            raise ProcessingError(f"{where}: normalize_observation_keys must be a list of names")
        known = features(config.get("features", {}), f"{where}: features")
        modes = _texts(config.get("norm_map", {}), f"{where}: norm_map")
        _only(modes, TYPES, f"{where}: norm_map")
        statistics = self._statistics(file, where)
        try:
            made = Normalise(known, modes, statistics, eps, only, kind == "unnormalizer_processor")
        except ProcessingError as error:
            raise type(error)(f"{where}: {error}") from error
        self.warnings += [
            f"{where}: there are no statistics of {key} for {mode}: it passes as it is"
            for key, mode in made.unknown.items()
        ]
        return made

    def _statistics(self, file: str, where: str) -> Statistics:
        if not file:
            return Statistics({})
        if file not in self.state:
            raise StatisticsError(f"{where}: the file {file!r} with its statistics is missing")
        columns: dict[str, dict[str, Any]] = {}
        try:
            for name, tensor in safetensors.read(self.state[file]).items():
                key, _, statistic = name.rpartition(".")
                columns.setdefault(key, {})[statistic] = tensor
            return Statistics(columns)
        except ProcessingError as error:
            raise StatisticsError(f"{where}: {file}: {error}") from error

    def _tokenise(self, config: dict[str, Any], where: str) -> Tokenise:
        name = config.get("tokenizer_name") or ""
        made = {
            key: _typed(config.get(key, default), type(default), f"{where}: {key}")
            for key, default in _TOKENISE.items()
        }
        if not isinstance(name, str) or not made["max_length"] > 0:
            raise ProcessingError(f"{where}: it must name a tokenizer_name and a max_length above zero")
        if self.tokenizers is None:
            raise ProcessingError(
                f"{where}: the policy needs the tokeniser {name!r} for its task; give it, or install transformers"
            )
        return Tokenise(self.tokenizers(name), name, **made)


_TOKENISE: Final[Mapping[str, Any]] = {
    "max_length": 512,
    "padding": "max_length",
    "padding_side": "right",
    "truncation": True,
    "task_key": "task",
}
_NORMALISE: Final = ("eps", "features", "norm_map", "normalize_observation_keys")
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "rename_observations_processor": ("rename_map",),
    "to_batch_processor": (),
    "device_processor": ("device", "float_dtype"),
    "normalizer_processor": _NORMALISE,
    "unnormalizer_processor": _NORMALISE,
    "tokenizer_processor": (*_TOKENISE, "tokenizer_name"),
    "smolvla_new_line_processor": (),
    "pi0_new_line_processor": (),
    "pi05_prepare_state_tokenizer_processor_step": ("max_state_dim", "task_key"),
    "pi0_fast_prepare_state_tokenizer_processor_step": ("max_state_dim", "task_key"),
}
"""The steps that are read, and what each may be told."""


def _prompt(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    width = _typed(config.get("max_state_dim", 32), int, f"{where}: max_state_dim")
    if not 0 < width <= 4096:
        raise ProcessingError(f"{where}: max_state_dim must be 1 to 4096, got {width}")
    return {"width": width, "task_key": _typed(config.get("task_key", "task"), str, f"{where}: task_key")}


def _texts(tree: Any, where: str) -> dict[str, str]:
    if not isinstance(tree, dict) or not all(isinstance(value, str) for value in tree.values()):
        raise ProcessingError(f"{where} must be texts by name, got {tree!r:.80}")
    return tree


def _typed(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise ProcessingError(f"{where} must be of type {kind.__name__}, got {value!r:.80}")
    return value


def _together(normalisers: list[Normalise]) -> Statistics:
    """Of all normalisers, by feature; those before the network come first."""
    return Statistics({key: step.statistics[key] for step in normalisers[::-1] for key in step.normalised})


def _digest(normalisers: list[Normalise]) -> str:
    if not any(step.normalised for step in normalisers):
        return ""
    made = hashlib.sha256()
    for step in normalisers:
        used = Statistics({key: step.statistics[key] for key in step.normalised})
        made.update(json.dumps([step.kind, sorted(step.normalised.items()), step.eps, used.digest()]).encode())
    return made.hexdigest()
