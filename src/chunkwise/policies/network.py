"""A policy's network alone, for robots that do what stands before and after it: ``chunkwise engine``."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec
from chunkwise.engines import Precision, TensorSpec
from chunkwise.policies._apart import OUTPUT, FarPictures, rows_of
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._stages import PureInferenceEngine

__all__ = ["Network"]


class Network:
    """The second of three stages, served.  It remembers nothing: every robot may use the same one.

    A frame's state is the network's tensors by their names, its images are uint8 pictures, both with or without a
    batch of one in front; the rows of an answer are still normalised.  ``distributed`` is the other side.

    Args:
        path: the policy's directory with its weights, or what was compiled of them.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, or an accelerator that runs what was compiled
            for it: ``ascend_om``, ``ascend_om_3403`` or ``rknn``.
        engine: what runs the network; by default what the device or the directory is for.
        dtype: what the network is computed in.
        compile: with `torch.compile`, where the engine can.
        threads: of the processor that the network may use.
        seed: of the noise, where the policy draws some; the same in every call.

    Raises:
        FileNotFoundError, InterfaceValidationError, DeviceError, MissingExtra: it cannot be loaded, and why.
    """

    def __init__(
        self,
        *,
        path: str,
        device: str = "auto",
        engine: str = "",
        dtype: Precision = "float32",
        compile: bool = False,
        threads: int = 1,
        seed: int | None = None,
    ) -> None:
        checkpoint = open_checkpoint(path)
        self.network = PureInferenceEngine(
            checkpoint, device, name=engine, threads=threads, dtype=dtype, compile=compile, seed=seed
        )
        self._pictures = FarPictures(checkpoint)
        pictures = self._pictures.after
        said: dict[str, Any] = {
            "policy_type": self.network.policy_type,
            "backend_type": self.network.backend_type,
            "inputs": list(self.network.engine.inputs),
            "pictures": list(self._pictures.features),
        }
        self.spec = PolicySpec(
            f"{checkpoint.policy_type} network",
            list(self._pictures.features),
            [
                name
                for name, spec in self.network.engine.inputs.items()
                if not spec.optional and name not in pictures
            ],
            # What the numbers are to a robot is known where the statistics are brought back.
            outputs=[PolicyOutputSpec(OUTPUT, "joint_position", checkpoint.action_dim)],
            meta={"network": said},
            action_horizon=self.network.chunk_size,
            normalisation=checkpoint.processors(_no_tokens).digest,
        )

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The network's answer, normalised; pictures may stand in the state too, as the network takes them.

        Raises:
            InterfaceValidationError: a tensor or a picture is missing, unknown, or of another shape or type.
        """
        inputs = self.network.engine.inputs
        state = {
            name: _as_read(value, inputs[name]) if name in inputs else value
            for name, value in frame.state.items()
            if name != OUTPUT  # a robot that is made up from the spec says where that stands
        }
        if not frame.images and self._pictures.after <= state.keys():  # they were made the network's on the robot
            return rows_of(self.network(state))
        pictures = {
            name: one[None] if one.ndim == self._pictures.axes - 1 else one for name, one in frame.images.items()
        }
        return rows_of(self.network({**state, **self._pictures(pictures)}))

    def warmup(self) -> None:
        """Let the network run on nothing in particular: its first calls are slow."""
        self.network.warmup()

    def session(self) -> Self:
        """Itself: calls leave nothing behind."""
        return self

    def close(self) -> None:
        """Let go of the network.  Twice is fine."""
        self.network.close()


def _as_read(value: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """A tensor with its batch, and floats as wide as the network has them."""
    if value.dtype.kind == "f" and np.dtype(spec.dtype).kind == "f":
        value = value.astype(spec.dtype, copy=False)
    return value[None] if value.ndim == len(spec.shape) - 1 else value


def _no_tokens(name: str) -> Any:
    """Stands for a tokeniser that is needed on the robot only."""
    return lambda texts, **options: {}
