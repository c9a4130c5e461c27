"""A LeRobot checkpoint, or what `chunkwise export` made of one.

ACT, diffusion, VQ-BeT, TD-MPC, SmolVLA, pi0 and pi0.5, with the processors that were saved beside the weights.
"""

from __future__ import annotations

from typing import Literal

from chunkwise.engines import Precision
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._stages import PureInferenceEngine
from chunkwise.policies._tensor_policy import TensorPolicy
from chunkwise.policies._wiring import Wishes

__all__ = ["Lerobot"]


class Lerobot(TensorPolicy):
    """A policy that LeRobot trained.

    Args:
        path: a checkpoint's directory (``pretrained_model``), an exported one, or a hub id ``organisation/name``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, or an accelerator that runs what was compiled
            for it: ``ascend_om``, ``ascend_om_3403`` or ``rknn``.  The directory is never touched for it, and the
            machine that trained it does not count.
        engine: what runs the network; by default what the device or the directory is for.
        images: ``camera=feature`` for cameras that have other names than in training.
        state: the components that make up ``observation.state``, in its order; by default the robot's.
        environment: the further states that make up ``observation.environment_state``; by default the robot's.
        actions: the components that the action's columns command, in order: ``arm``, ``arm:joint_velocity``, or
            with the number of columns, ``arm:7``, where no robot is there to know it.  By default the robot's.
        task: what is to be done, for a policy that reads it, where the frame does not say.
        control_hz: the rate of its rows: the data set's ``fps``, which a checkpoint does not hold.
        n_action_steps: rows of a chunk that are used; 0 for all.
        clamp: keep actions within the range of the training data; the robot's own limits are the gate's.
        dtype: what the network is computed in.
        compile: with `torch.compile`, where the engine can.
        threads: of the processor that the network may use; the control loop needs the others.
        seed: of the noise, where the policy draws some; the same in every call.
        guidance: how pi0, pi0.5 and SmolVLA continue the running plan: ``vjp`` as published, the default; or
            ``identity``, LeRobot's own and cheaper way.

    Raises:
        FileNotFoundError: there is no such directory or hub id, or a file is missing in it.
        InterfaceValidationError: a file is damaged, does not fit the others, or is for another engine.
        DeviceError: the device is not there.
        MissingExtra: the engine's runtime is not installed.
    """

    def __init__(
        self,
        *,
        path: str,
        device: str = "auto",
        engine: str = "",
        images: tuple[str, ...] = (),
        state: tuple[str, ...] = (),
        environment: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        task: str = "",
        control_hz: float | None = None,
        n_action_steps: int = 0,
        clamp: bool = False,
        dtype: Precision = "float32",
        compile: bool = False,
        threads: int = 1,
        seed: int | None = None,
        guidance: Literal["vjp", "identity"] | None = None,
    ) -> None:
        checkpoint = open_checkpoint(path)
        network = PureInferenceEngine(
            checkpoint,
            device,
            name=engine,
            threads=threads,
            dtype=dtype,
            compile=compile,
            seed=seed,
            guidance=guidance,
        )
        super().__init__(
            checkpoint,
            network,
            Wishes(images, state, environment, actions),
            task=task,
            control_hz=control_hz,
            n_action_steps=n_action_steps,
            clamp=clamp,
        )
