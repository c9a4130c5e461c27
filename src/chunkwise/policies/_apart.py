"""The three stages on two machines: the first and the last on the robot, the network elsewhere.

What crosses over is a `Frame`, so that any wire carries it: the network's tensors as its state, and pictures as
cameras gave them, uint8 in the network's size.  Scaled and normalised they would be four times as large; that is
done where the network is, by the same code, with the same result to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicyFailed, PolicySpec
from chunkwise.policies import Policy
from chunkwise.policies._checkpoint import Checkpoint
from chunkwise.policies._stages import InferenceResult, Observation, TensorPreprocessor, Tensors, before_renaming
from chunkwise.processing.images import scaled
from chunkwise.processing.lerobot import Feature
from chunkwise.processing.pipeline import Pipeline
from chunkwise.processing.steps import AddBatch, Cast, Normalise, Rename
from chunkwise.processing.tensors import tensors

PICTURES = "VISUAL"
OUTPUT = "action"
_OF_PICTURES = (Rename, AddBatch, Cast, Normalise)
"""Steps that change pictures; tokenisers and the like read what a picture's side does not have."""


class NearPreprocessor(TensorPreprocessor):
    """The first stage, but for what makes pictures large.

    Its batch holds every tensor that is no picture as the network takes it, and pictures as uint8
    ``(1, height, width, channels)``, or ``(1, n_obs_steps, height, width, channels)``, by the names that they have
    before any step.
    """

    def _tensors(self, observation: Observation) -> Tensors:
        expected = self._expected(observation)
        cameras = {name for name, feature in expected.items() if feature.type == PICTURES}
        others = {name: value for name, value in observation.items() if name not in cameras}
        features = {name: feature for name, feature in expected.items() if name not in cameras}
        batch = self._steps(tensors(others, features))
        made = {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}
        return made | {name: _picture(name, observation, expected[name])[None] for name in sorted(cameras)}


class FarPictures:
    """What the first stage left to do for pictures.

    Args:
        checkpoint: the policy's directory.

    Attributes:
        features: the pictures, by the names that they come with.
        after: the names that the network has for them.
        axes: of one that comes, the batch included.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        steps = checkpoint.processors(_no_tokenizer).pre.steps
        self._steps = Pipeline([step for step in steps if isinstance(step, _OF_PICTURES)])
        inputs = before_renaming(self._steps, checkpoint.inputs)
        self.features = {name: feature for name, feature in inputs.items() if feature.type == PICTURES}
        self.after = {name for name, feature in checkpoint.inputs.items() if feature.type == PICTURES}
        self._any_size, self._stacked = checkpoint.language, checkpoint.n_obs_steps
        self.axes = 5 if self._stacked else 4

    def __call__(self, pictures: Mapping[str, NDArray[Any]]) -> Tensors:
        """Pictures as the network takes them.

        Args:
            pictures: as :class:`NearPreprocessor` gives them.

        Raises:
            InterfaceValidationError: one is missing, unknown, or no such picture.
        """
        if pictures.keys() != self.features.keys():
            listed = ", ".join(pictures) or "none"
            raise InterfaceValidationError(
                f"the network's pictures are {', '.join(self.features) or 'none'}; there came: {listed}"
            )
        if not self._stacked:
            return self._at_once(pictures)
        for name, picture in pictures.items():
            if picture.ndim != 5 or picture.shape[1] != self._stacked:
                raise InterfaceValidationError(f"{name} must be {self._stacked} pictures, got {picture.shape}")
        made = [self._at_once({name: one[:, at] for name, one in pictures.items()}) for at in range(self._stacked)]
        return {name: np.stack([one[name] for one in made], axis=1) for name in made[0]} if pictures else {}

    def _at_once(self, pictures: Mapping[str, NDArray[Any]]) -> Tensors:
        batch = {
            name: _scaled(name, picture, self.features[name], self._any_size) for name, picture in pictures.items()
        }
        return dict(self._steps(batch))


class FarEngine:
    """The second stage elsewhere: a network behind a served policy, in the place of a `PureInferenceEngine`.

    Args:
        policy: the connection to it; what it says of itself is what `policies/network.py` says.
        checkpoint: the robot's own copy of the directory, without the weights.
        digest: of the statistics there.

    Attributes:
        reconnected: whether the newest answer is the first one after the network had gone.

    Raises:
        InterfaceValidationError: what is served is no network alone, or that of another policy.
    """

    def __init__(self, policy: Policy, checkpoint: Checkpoint, digest: str) -> None:
        spec = getattr(policy, "spec", None)
        if not isinstance(spec, PolicySpec) or "network" not in spec.meta:
            raise InterfaceValidationError(
                "what is served there is no network alone; serve it with `chunkwise engine --policy DIR`"
            )
        said = spec.meta["network"]
        if spec.normalisation != digest:
            raise InterfaceValidationError(
                f"the network there was trained behind other statistics ({spec.normalisation or 'none'}) than "
                f"{checkpoint.folder} has ({digest or 'none'}): both sides need the same directory"
            )
        self._policy, self._steps, self.reconnected = policy, 0, False
        self._pictures = {name for name, feature in checkpoint.inputs.items() if feature.type == PICTURES}
        self._pictures |= set(said["pictures"])
        self.policy_type, self.backend_type = str(said["policy_type"]), str(said["backend_type"])
        self.chunk_size, self.action_dim = spec.action_horizon, spec.action_dim
        self.reads = frozenset(map(str, said["inputs"]))

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> InferenceResult:
        """The network's answer.

        Raises:
            PolicyFailed: there is none, and why.
        """
        began_s = time.perf_counter()
        pictures = {name: value for name, value in batch.items() if name in self._pictures}
        state = {name: value for name, value in batch.items() if name not in pictures}
        self._steps += 1
        chunk: Any = self._policy.infer(Frame(pictures, state), ChunkRequest(self._steps))
        self.reconnected = bool(chunk.meta.get("reconnected"))
        rows = np.asarray(chunk.rows, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.action_dim:
            raise PolicyFailed(f"the network answered {rows.shape}, it says (rows, {self.action_dim})")
        ms = 1e3 * (time.perf_counter() - began_s)
        return InferenceResult(rows, len(rows), ms, self.policy_type, self.backend_type)

    def warmup(self) -> None:
        """It was warmed up where it is, before anybody was let in."""

    def reset(self) -> None:
        """Tell who connects that an episode ends."""
        reset = getattr(self._policy, "reset", None)
        if reset is not None:
            reset()

    def close(self) -> None:
        """Let go of the connection.  Twice is fine."""
        close = getattr(self._policy, "close", None)
        if close is not None:
            close()


def rows_of(result: InferenceResult) -> ActionChunk:
    """A network's answer as a chunk: its numbers are still normalised, which the other side knows."""
    return ActionChunk(result.action.astype(np.float64), meta={"inference_ms": result.latency_ms})


def _picture(name: str, observation: Mapping[str, Any], feature: Feature) -> NDArray[Any]:
    picture = observation.get(name)
    if picture is None:
        raise InterfaceValidationError(
            f"the observation lacks {name}; it has: {', '.join(observation) or 'nothing'}"
        )
    picture = np.asarray(picture)
    channels, height, width = feature.shape
    if picture.dtype != np.uint8 or picture.shape != (height, width, channels):
        raise InterfaceValidationError(
            f"{name} must be uint8 {(height, width, channels)}, got {picture.dtype} {picture.shape}"
        )
    return picture


def _scaled(name: str, picture: NDArray[Any], feature: Feature, any_size: bool) -> NDArray[Any]:
    if picture.dtype != np.uint8 or picture.ndim != 4 or len(picture) != 1:
        raise InterfaceValidationError(
            f"{name} must be one uint8 picture (1, height, width, channels), got {picture.dtype} {picture.shape}"
        )
    made: NDArray[Any] = scaled(picture[0], name)
    if made.shape[0] != feature.shape[0] or (not any_size and made.shape != feature.shape):
        raise InterfaceValidationError(f"{name} must have shape {feature.shape}, got {made.shape}")
    return made


def _no_tokenizer(name: str) -> Any:
    """Stands for the tokeniser where no text comes."""

    def refuse(texts: Sequence[str], **options: Any) -> Any:
        raise InterfaceValidationError(f"tokeniser {name!r} was not loaded: texts are made tokens on the robot")

    return refuse
