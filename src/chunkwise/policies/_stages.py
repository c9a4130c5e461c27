"""Observation to tensors, tensors to a chunk, a chunk to actions: three pure pieces.

Each piece can be made and used alone, on another machine if need be: the first and the last need numpy and a few
kilobytes of statistics, never torch, LeRobot or the weights.  The names are those of IB-Robot's inference service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.engines import Engine
from chunkwise.engines._devices import compiled_engine
from chunkwise.options import options_of
from chunkwise.policies._checkpoint import ACTION, Checkpoint, Tokenizers, open_checkpoint
from chunkwise.processing.lerobot import Feature, Tokenizer
from chunkwise.processing.pipeline import Batch, Pipeline
from chunkwise.processing.steps import Clamp, Rename
from chunkwise.processing.tensors import tensors

Float32 = NDArray[np.float32]
Tensors = dict[str, NDArray[Any]]
Observation = Mapping[str, Any]
"""By LeRobot's names: pictures (H, W, C) uint8, numbers (N,), and the text ``task``."""
Limits = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""``action`` -> lowest and highest, numbers or (dim,), in the robot's units."""


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """What a network answered.

    Attributes:
        action: (rows, dim) float32, still normalised.
        chunk_size: rows.
        latency_ms: how long it took.
        policy_type: the kind of policy.
        backend_type: the engine.
    """

    action: Float32
    chunk_size: int
    latency_ms: float
    policy_type: str
    backend_type: str


class TensorPreprocessor:
    """An observation as the tensors that a network takes, with the batch dimension in front.

    Pictures are scaled to [0, 1] once and normalised, numbers normalised, a text made tokens, which stay integers.

    Args:
        policy_path: of the policy's directory, or an opened one.
        preprocessor: what to use in the place of the directory's own steps.
        inputs: names and shapes of what it reads; the directory's by default.
        tokenizers: gives the tokeniser of a name; transformers' by default.

    Attributes:
        inputs: names and shapes of what it reads.
        n_obs_steps: how many observations are stacked in the second dimension; 0 for none, and no such dimension.

    Raises:
        ValueError: neither a path is given, nor a preprocessor with its inputs.
        FileNotFoundError, InterfaceValidationError: the directory is not one, or incomplete.
    """

    def __init__(
        self,
        policy_path: str | Path | Checkpoint | None = None,
        *,
        preprocessor: Callable[[Batch], Batch] | None = None,
        inputs: Mapping[str, Feature] | None = None,
        tokenizers: Tokenizers | None = None,
    ) -> None:
        self.n_obs_steps, self._any_size = 0, False
        if policy_path is not None:
            checkpoint = opened(policy_path)
            self.n_obs_steps, self._any_size = checkpoint.n_obs_steps, checkpoint.language
            if preprocessor is None:
                preprocessor = checkpoint.processors(tokenizers).pre
            inputs = before_renaming(preprocessor, checkpoint.inputs) if inputs is None else inputs
        if preprocessor is None or inputs is None:
            raise ValueError("a policy_path must be given, or a preprocessor and its inputs")
        self.inputs = dict(inputs)
        self._steps = preprocessor

    def __call__(self, observation: Observation | Sequence[Observation]) -> Tensors:
        """The tensors of an observation.

        Args:
            observation: one; or, for a policy that reads a history, up to `n_obs_steps` of them, the newest last.
                Where there are fewer, the oldest counts again, as in LeRobot's queues.

        Raises:
            InterfaceValidationError: an input is missing, unknown, of another shape or type, or not finite; the
                message names it.
        """
        given = [observation] if isinstance(observation, Mapping) else list(observation)
        most = max(self.n_obs_steps, 1)
        if not 1 <= len(given) <= most:
            raise InterfaceValidationError(f"the policy reads 1 to {most} observations at once, got {len(given)}")
        made = [self._tensors(one) for one in given]
        if not self.n_obs_steps:
            return made[0]
        made = [made[0]] * (most - len(made)) + made
        return {name: np.stack([one[name] for one in made], axis=1) for name in made[0]}

    def _tensors(self, observation: Observation) -> Tensors:
        batch = self._steps(tensors(observation, self._expected(observation)))
        return {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}

    def _expected(self, observation: Observation) -> Mapping[str, Feature]:
        """The inputs, pictures in the size that they have where the network makes them its own."""
        if not self._any_size:
            return self.inputs
        return {name: _as_large_as(observation.get(name), feature) for name, feature in self.inputs.items()}


class SecondStage(Protocol):
    """A network, here or elsewhere: what is asked of a :class:`PureInferenceEngine`.

    Attributes:
        policy_type: the kind of policy.
        backend_type: the engine's name.
    """

    policy_type: str
    backend_type: str

    @property
    def chunk_size(self) -> int | None:
        """Rows of a chunk; None where the network leaves that open."""

    @property
    def action_dim(self) -> int | None:
        """Columns of a row; None where the network leaves that open."""

    @property
    def reads(self) -> Collection[str]:
        """Names of its inputs."""

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> InferenceResult:
        """The network's answer to one observation's tensors."""

    def warmup(self) -> None:
        """Run on nothing in particular, for the first calls are slow."""

    def close(self) -> None:
        """Let go of the network.  Twice is fine."""


class PureInferenceEngine:
    """A network behind LeRobot's names; stateless: no queue, no history, no ensemble.

    Args:
        policy_path: of the policy's directory, or an opened one.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; or ``ascend_om``, ``ascend_om_3403`` or
            ``rknn``, which are engines as well.  The one in ``config.json`` is of the machine that trained it, and
            is not looked at.
        engine: a loaded engine; by default the one that the device or the directory asks for, loaded here.
        name: of the engine, where another one than the directory's is to be loaded.
        model: what it is to load, where that is not the directory.
        options: of the engine's constructor, as ``threads``; False and None ask for nothing.

    Attributes:
        policy_type: the kind of policy.
        backend_type: the engine's name.

    Raises:
        ValueError: neither a path nor an engine is given.
        FileNotFoundError, InterfaceValidationError, DeviceError, MissingExtra: it cannot be loaded, and why.
    """

    def __init__(
        self,
        policy_path: str | Path | Checkpoint | None = None,
        device: str = "auto",
        *,
        engine: Engine | None = None,
        name: str = "",
        model: str = "",
        **options: Any,
    ) -> None:
        if policy_path is None and engine is None:
            raise ValueError("either a policy_path or an engine must be given")
        checkpoint = None if policy_path is None else opened(policy_path)
        self.policy_type = getattr(engine, "policy_type", "") if checkpoint is None else checkpoint.policy_type
        own = getattr(engine, "backend_type", type(engine).__name__.lower())
        found = own if checkpoint is None else checkpoint.engine
        self.backend_type = name or (compiled_engine(device) if engine is None else "") or found
        # What a policy has among its inputs and its network does not read has served in the tokens already.
        self._unread = frozenset(() if checkpoint is None else checkpoint.inputs)
        if engine is None:
            assert checkpoint is not None
            engine = _made(self.backend_type, options)
            engine.load(model or str(checkpoint.folder), device)
        self.engine = engine
        if ACTION not in engine.outputs:
            there = ", ".join(engine.outputs) or "none"
            raise InterfaceValidationError(f"the network has no output {ACTION!r}; it has: {there}")

    @property
    def chunk_size(self) -> int | None:
        """Rows of a chunk; None where the network leaves that open."""
        shape = self.engine.outputs[ACTION].shape
        return shape[1] if len(shape) == 3 else 1

    @property
    def action_dim(self) -> int | None:
        """Columns of a row; None where the network leaves that open."""
        return self.engine.outputs[ACTION].shape[-1]

    @property
    def reads(self) -> Collection[str]:
        """Names of its inputs."""
        return self.engine.inputs.keys()

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> InferenceResult:
        """The network's answer to one observation's tensors.

        Raises:
            InterfaceValidationError: a tensor is missing, unknown, or of another shape or type, or the answer is
                no chunk.
        """
        began_s = time.perf_counter()
        read = self.engine.inputs
        answer = self.engine.run(
            {key: value for key, value in batch.items() if key in read or key not in self._unread}
        )
        action = answer[ACTION]
        chunk = action[:, None] if action.ndim == 2 else action
        if chunk.ndim != 3 or len(chunk) != 1:
            raise InterfaceValidationError(f"a network answers one chunk (1, rows, dim), got {action.shape}")
        return InferenceResult(chunk[0], chunk.shape[1], _ms_since(began_s), self.policy_type, self.backend_type)

    def warmup(self) -> None:
        """Run on nothing in particular, for the first calls are slow."""
        self.engine.warmup()

    def close(self) -> None:
        """Let go of the network.  Twice is fine."""
        self.engine.close()


class TensorPostprocessor:
    """A network's chunk as actions in the units of the training data, within limits where there are some.

    Args:
        policy_path: of the policy's directory, or an opened one.
        postprocessor: what to use in the place of the directory's own steps.
        clamp_limits: what no action may leave.

    Attributes:
        clamped: numbers that were beyond the limits, so far.

    Raises:
        ValueError: neither a path nor a postprocessor is given.
        FileNotFoundError, InterfaceValidationError: the directory is incomplete, or the limits are none.
    """

    def __init__(
        self,
        policy_path: str | Path | Checkpoint | None = None,
        *,
        postprocessor: Callable[[Batch], Batch] | None = None,
        clamp_limits: Limits | None = None,
    ) -> None:
        if postprocessor is None:
            if policy_path is None:
                raise ValueError("either a policy_path or a postprocessor must be given")
            postprocessor = opened(policy_path).processors(_no_tokenizer).post
        self._steps = postprocessor
        self._clamp = None if clamp_limits is None else _clamp(clamp_limits)
        self.clamped = 0

    def __call__(self, action: NDArray[Any]) -> Float32:
        """Actions (rows, dim) float32 for a normalised chunk (rows, dim)."""
        batch = self._steps({ACTION: np.asarray(action, np.float32)})
        if self._clamp is not None:
            self.clamped += self._clamp.outside(batch)
            batch = self._clamp(batch)
        made: Float32 = batch[ACTION]
        return made


def before_renaming(steps: object, inputs: Mapping[str, Feature]) -> dict[str, Feature]:
    """Inputs by the names that they have before a pipeline renames some of them."""
    names: Batch = dict(inputs)
    for step in reversed(steps.steps) if isinstance(steps, Pipeline) else ():
        back = step.inverse() if isinstance(step, Rename) else None
        names = names if back is None else back(names)
    return names


def _made(name: str, options: Mapping[str, Any]) -> Engine:
    """An engine, with those of the options that ask for something."""
    maker = plugins.load("engines", name)
    known = options_of(maker)
    wanted = {key: value for key, value in options.items() if value is not None and value is not False}
    if "seed" not in known:
        wanted.pop("seed", None)  # nothing is drawn there
    for key in wanted:
        if key not in known:
            raise InterfaceValidationError(
                f"engine {name} has no option {key!r}{nearest(key, known)}; there are: {', '.join(known)}"
            )
    engine: Engine = maker(**wanted)
    return engine


def _no_tokenizer(name: str) -> Tokenizer:
    """Stands for the tokeniser where nothing is tokenised."""

    def refuse(texts: list[str], **options: Any) -> Any:
        raise InterfaceValidationError(f"tokeniser {name!r} was not loaded: nothing is tokenised after a network")

    return refuse


def opened(path: str | Path | Checkpoint) -> Checkpoint:
    """What there is at a path, or what was opened already."""
    return path if isinstance(path, Checkpoint) else open_checkpoint(path)


def _as_large_as(image: object, feature: Feature) -> Feature:
    if feature.type != "VISUAL" or not isinstance(image, np.ndarray) or image.ndim != 3:
        return feature
    return Feature(feature.type, (feature.shape[0], *image.shape[:2]))


def _clamp(limits: Limits) -> Clamp:
    for name in limits:
        if name != ACTION:
            raise InterfaceValidationError(
                f"clamp_limits: no output {name!r}{nearest(name, [ACTION])}; there is: action"
            )
    return Clamp(limits)


def _ms_since(began_s: float) -> float:
    return 1e3 * (time.perf_counter() - began_s)
