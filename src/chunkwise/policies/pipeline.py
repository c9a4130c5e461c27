"""Any network behind a policy's processors: preprocessor, engine and postprocessor, each from where you say.

The pieces themselves, for use without a robot::

    from chunkwise.policies.pipeline import InferenceCoordinator, TensorPostprocessor, TensorPreprocessor

    coordinator = InferenceCoordinator("path/to/pretrained_model")
    coordinator({"observation.state": state, "observation.images.front": picture}).action
"""

from __future__ import annotations

from chunkwise.engines import Precision
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._coordinator import CoordinatorResult as CoordinatorResult
from chunkwise.policies._coordinator import InferenceCoordinator as InferenceCoordinator
from chunkwise.policies._stages import InferenceResult as InferenceResult
from chunkwise.policies._stages import PureInferenceEngine as PureInferenceEngine
from chunkwise.policies._stages import TensorPostprocessor as TensorPostprocessor
from chunkwise.policies._stages import TensorPreprocessor as TensorPreprocessor
from chunkwise.policies._tensor_policy import TensorPolicy
from chunkwise.policies._wiring import Wishes

__all__ = ["Pipeline"]


class Pipeline(TensorPolicy):
    """A network of your own between the processors of a policy's directory.

    Its inputs and its output ``action`` (1, rows, dim) have LeRobot's names.

    Args:
        processors: directory with ``config.json`` and both processors; it needs no weights.
        model: the network's file, or an exported directory.
        engine: what runs it: ``onnx``, ``openvino``, ``torch`` or ``aoti``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        images: ``camera=feature`` for cameras that have other names than the features.
        state: the components that make up ``observation.state``, in its order; by default the robot's.
        environment: the further states that make up ``observation.environment_state``; by default the robot's.
        actions: the components that the action's columns command, in order: ``arm``, ``arm:joint_velocity``, or
            with the number of columns, ``arm:7``, where no robot is there to know it.  By default the robot's.
        task: what is to be done, for a policy that reads it, where the frame does not say.
        control_hz: the rate of its rows.
        n_action_steps: rows of a chunk that are used; 0 for all.
        clamp: keep actions within the range of the training data; the robot's own limits are the gate's.
        dtype: what the network is computed in.
        threads: of the processor that the network may use.

    Raises:
        FileNotFoundError: a directory or a file is missing.
        InterfaceValidationError: a file is damaged, or the pieces do not fit together.
        DeviceError: the device is not there.
        MissingExtra: the engine's runtime is not installed.
    """

    def __init__(
        self,
        *,
        processors: str,
        model: str,
        engine: str = "onnx",
        device: str = "auto",
        images: tuple[str, ...] = (),
        state: tuple[str, ...] = (),
        environment: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        task: str = "",
        control_hz: float | None = None,
        n_action_steps: int = 0,
        clamp: bool = False,
        dtype: Precision = "float32",
        threads: int = 1,
    ) -> None:
        checkpoint = open_checkpoint(processors)
        network = PureInferenceEngine(checkpoint, device, name=engine, model=model, threads=threads, dtype=dtype)
        super().__init__(
            checkpoint,
            network,
            Wishes(images, state, environment, actions),
            task=task,
            control_hz=control_hz,
            n_action_steps=n_action_steps,
            clamp=clamp,
        )
