"""The three stages of inference, one after the other, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chunkwise.policies._checkpoint import Checkpoint
from chunkwise.policies._stages import (
    Float32,
    InferenceResult,
    Limits,
    Observation,
    PureInferenceEngine,
    SecondStage,
    TensorPostprocessor,
    TensorPreprocessor,
    Tensors,
    opened,
)


@dataclass(frozen=True, slots=True)
class CoordinatorResult:
    """Actions, and how long each stage took.

    Attributes:
        action: (rows, dim) float32, in the units of the training data.
        chunk_size: rows.
        total_latency_ms: of all three stages; the further ones of each.
        policy_type: the kind of policy.
        backend_type: the engine.
    """

    action: Float32
    chunk_size: int
    total_latency_ms: float
    preprocess_latency_ms: float
    inference_latency_ms: float
    postprocess_latency_ms: float
    policy_type: str
    backend_type: str


class InferenceCoordinator:
    """Observation to actions: preprocessor, engine and postprocessor, one after the other.

    The whole, and the three run apart, give the same to the last bit.

    Args:
        policy_path: of the policy's directory, or an opened one.
        device: where the network runs.
        preprocessor, engine, postprocessor: pieces to use in the place of the directory's own.
        clamp_limits: what no action may leave.
        options: of the engine's constructor.

    Raises:
        ValueError: neither a path nor all three pieces are given.
        FileNotFoundError, InterfaceValidationError, DeviceError, MissingExtra: a piece cannot be made, and why.
    """

    def __init__(
        self,
        policy_path: str | Path | Checkpoint | None = None,
        device: str = "auto",
        *,
        preprocessor: TensorPreprocessor | None = None,
        engine: SecondStage | None = None,
        postprocessor: TensorPostprocessor | None = None,
        clamp_limits: Limits | None = None,
        **options: Any,
    ) -> None:
        if policy_path is None and (preprocessor is None or engine is None or postprocessor is None):
            raise ValueError("a policy_path must be given, or a preprocessor, an engine and a postprocessor")
        checkpoint = None if policy_path is None else opened(policy_path)
        self.preprocessor = preprocessor or TensorPreprocessor(checkpoint)
        self.postprocessor = postprocessor or TensorPostprocessor(checkpoint, clamp_limits=clamp_limits)
        self.engine: SecondStage = engine or PureInferenceEngine(checkpoint, device, **options)

    def __call__(
        self, observation: Observation | Sequence[Observation], beside: Mapping[str, NDArray[Any]] | None = None
    ) -> CoordinatorResult:
        """The actions for an observation, or for the last few of them, see :class:`TensorPreprocessor`.

        Args:
            observation: one, or several.
            beside: tensors for the network that are none of an observation, such as the running plan.

        Raises:
            InterfaceValidationError: what is given is not what the policy reads; the message names it.
        """
        began_s = time.perf_counter()
        batch = {**self.preprocess_only(observation), **(beside or {})}
        prepared_s = time.perf_counter()
        result = self.infer_only(batch)
        inferred_s = time.perf_counter()
        action = self.postprocess_only(result.action)
        ended_s = time.perf_counter()
        return CoordinatorResult(
            action,
            result.chunk_size,
            total_latency_ms=1e3 * (ended_s - began_s),
            preprocess_latency_ms=1e3 * (prepared_s - began_s),
            inference_latency_ms=1e3 * (inferred_s - prepared_s),
            postprocess_latency_ms=1e3 * (ended_s - inferred_s),
            policy_type=result.policy_type,
            backend_type=result.backend_type,
        )

    def preprocess_only(self, observation: Observation | Sequence[Observation]) -> Tensors:
        """The first stage alone."""
        return self.preprocessor(observation)

    def infer_only(self, batch: Mapping[str, NDArray[Any]]) -> InferenceResult:
        """The second stage alone."""
        return self.engine(batch)

    def postprocess_only(self, action: NDArray[Any]) -> Float32:
        """The last stage alone."""
        return self.postprocessor(action)

    @property
    def policy_type(self) -> str:
        """The kind of policy."""
        return self.engine.policy_type

    @property
    def backend_type(self) -> str:
        """The engine's name."""
        return self.engine.backend_type

    @property
    def chunk_size(self) -> int | None:
        """Rows of a chunk; None where the network leaves that open."""
        return self.engine.chunk_size

    def warmup(self) -> None:
        """Let the network run once or twice, for the first calls are slow."""
        self.engine.warmup()

    def close(self) -> None:
        """Let go of the network.  Twice is fine."""
        self.engine.close()
