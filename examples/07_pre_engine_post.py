"""Observation to tensors, tensors to a chunk, a chunk to actions: three pieces, together and on two machines.

python examples/07_pre_engine_post.py

The pieces are made by hand here, and the network is three lines of numpy, so that this runs anywhere.  Of a
LeRobot checkpoint, or of what `chunkwise export` made of one, they are made by its path alone:
``InferenceCoordinator("path/to/pretrained_model")``.
"""

from __future__ import annotations

import numpy as np

from chunkwise.engines import TensorSpec
from chunkwise.policies.pipeline import (
    InferenceCoordinator,
    PureInferenceEngine,
    TensorPostprocessor,
    TensorPreprocessor,
)
from chunkwise.processing.lerobot import Feature
from chunkwise.processing.pipeline import Pipeline
from chunkwise.processing.statistics import Statistics
from chunkwise.processing.steps import AddBatch, Normalise

ROWS, JOINTS = 20, 6
STATE, CAMERA, ACTION = "observation.state", "observation.images.front", "action"


class Glance:
    """An engine: every joint goes where the picture is bright, row by row."""

    def __init__(self) -> None:
        self.inputs = {
            STATE: TensorSpec((1, JOINTS), "float32"),
            CAMERA: TensorSpec((1, 3, 48, 64), "float32"),
        }
        self.outputs = {ACTION: TensorSpec((1, ROWS, JOINTS), "float32")}

    def load(self, path: str, device: str = "cpu") -> None:
        """There is nothing to load."""

    def run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        side = tensors[CAMERA][:, :, :, 32:].mean() - tensors[CAMERA][:, :, :, :32].mean()
        ramp = np.linspace(0, 1, ROWS, dtype=np.float32)[None, :, None]
        return {ACTION: tensors[STATE][:, None] * (1 - ramp) + side * ramp}

    def warmup(self) -> None:
        """It is as quick the first time."""

    def close(self) -> None:
        """There is nothing to let go."""


def main() -> None:
    features = {STATE: Feature("STATE", (JOINTS,)), CAMERA: Feature("VISUAL", (3, 48, 64))}
    action = {ACTION: Feature("ACTION", (JOINTS,))}
    joints = {"mean": np.full(JOINTS, 0.2, np.float32), "std": np.full(JOINTS, 0.5, np.float32)}
    statistics = Statistics({STATE: joints, ACTION: joints})
    modes = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}

    pre = TensorPreprocessor(
        preprocessor=Pipeline([AddBatch(), Normalise(features, modes, statistics)]), inputs=features
    )
    engine = PureInferenceEngine(engine=Glance())
    post = TensorPostprocessor(
        postprocessor=Normalise(action, modes, statistics, backwards=True), clamp_limits={ACTION: (-0.3, 0.3)}
    )

    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, 32:] = 255
    observation = {STATE: np.linspace(-0.2, 0.2, JOINTS), CAMERA: picture}

    coordinator = InferenceCoordinator(preprocessor=pre, engine=engine, postprocessor=post)
    whole = coordinator(observation)
    stages = whole.preprocess_latency_ms, whole.inference_latency_ms, whole.postprocess_latency_ms
    print(f"{whole.chunk_size} rows by {whole.backend_type}, ms: {', '.join(f'{ms:.2f}' for ms in stages)}")
    print(f"numbers kept within the limits: {post.clamped} of {whole.action.size}")

    batch = pre(observation)  # on the robot
    chunk = engine(batch).action  # where the GPU is
    actions = post(chunk)  # on the robot again
    print(f"run apart, the same to the last bit: {np.array_equal(actions, whole.action)}")

    try:
        coordinator({STATE: observation[STATE], "observation.images.frnt": picture})
    except ValueError as error:
        print(f"and what it cannot read it refuses: {error}")


if __name__ == "__main__":
    main()
