"""A flow-matching policy that continues the plan which is running: exact real-time chunking, or two cheaper ways.

The velocity field is a function of torch, or what ``chunkwise export`` made of one, which needs no torch.  Beside
it stand LeRobot's own ``config.json`` and processors, so observations and actions are what they are for any
checkpoint.

The pieces themselves, for use without a robot, everything normalised::

    from chunkwise.policies.flow import GuidedFlow, TorchVelocity

    flow = GuidedFlow(TorchVelocity(field, inputs, rows=50, dim=14))
    flow.sample(observation, prefix, inference_delay=4, execution_horizon=25, rng=rng)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chunkwise.contract import ChunkRequest
from chunkwise.engines._families import NOISE
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._flow_exported import ExportedVelocity as ExportedVelocity
from chunkwise.policies._flow_network import FlowNetwork
from chunkwise.policies._flow_sampling import Guidance
from chunkwise.policies._flow_sampling import GuidedFlow as GuidedFlow
from chunkwise.policies._flow_torch import TorchVelocity as TorchVelocity
from chunkwise.policies._flow_velocity import velocity_of
from chunkwise.policies._stages import PureInferenceEngine
from chunkwise.policies._tensor_policy import TensorPolicy
from chunkwise.policies._wiring import Wishes

__all__ = ["Flow"]


class Flow(TensorPolicy):
    """A velocity field v(x, t, observation), integrated from noise to a chunk under the running plan.

    The noise of a request depends on the seed and on the request's step alone, so that calls may be skipped or
    repeated.

    Args:
        path: directory with ``config.json``, which has a ``chunk_size``, and both processors; or an exported one.
        field: ``module:name`` or ``file.py:name`` of a field in torch, or of a class of one; nothing for an
            exported directory.  It is a program: name what you or somebody whom you trust wrote.
        guidance: ``vjp``, real-time chunking as published; ``identity``, without its Jacobian; or
            ``trained_prefix`` for a network that was trained to continue a plan.
        steps: Euler steps.
        beta: bound of the guidance weight, at most twice `steps`; `steps` by default.
        longest_prefix: rows of the longest prefix that a ``trained_prefix`` network was trained with.
        relative: components whose actions count from where the component is when it is observed.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        images: ``camera=feature`` for cameras that have other names than the features.
        state: the components that make up ``observation.state``, in its order; by default the robot's.
        environment: the further states that make up ``observation.environment_state``; by default the robot's.
        actions: the components that the action's columns command, in order; by default the robot's.
        control_hz: the rate of its rows.
        n_action_steps: rows of a chunk that are used; 0 for all.
        clamp: keep actions within the range of the training data; the robot's own limits are the gate's.
        threads: of the processor that the network may use.
        seed: of the noise.

    Raises:
        FileNotFoundError: a directory or a file is missing.
        InterfaceValidationError: a file is damaged, the pieces do not fit together, or the field cannot be
            guided so.
        DeviceError: the device is not there.
        MissingExtra: the engine's runtime is not installed.
        ValueError: `steps` or `beta` is out of range.
    """

    def __init__(
        self,
        *,
        path: str,
        field: str = "",
        guidance: Guidance = "vjp",
        steps: int = 5,
        beta: float | None = None,
        longest_prefix: int | None = None,
        relative: tuple[str, ...] = (),
        device: str = "auto",
        images: tuple[str, ...] = (),
        state: tuple[str, ...] = (),
        environment: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        control_hz: float | None = None,
        n_action_steps: int = 0,
        clamp: bool = False,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        checkpoint = open_checkpoint(path)
        velocity = velocity_of(checkpoint, field, device=device, threads=threads)
        try:
            flow = GuidedFlow(velocity, guidance=guidance, steps=steps, beta=beta, longest=longest_prefix)
            network = FlowNetwork(flow, seed)
            name = velocity.engine if isinstance(velocity, ExportedVelocity) else "torch"
            super().__init__(
                checkpoint,
                PureInferenceEngine(checkpoint, engine=network, name=name),
                Wishes(images, state, environment, actions),
                control_hz=control_hz,
                n_action_steps=n_action_steps,
                clamp=clamp,
                relative=relative,
            )
        except BaseException:
            velocity.close()
            raise
        self._seed = seed
        self._noise_shape = (1, velocity.rows, velocity.dim)

    def _beside(self, request: ChunkRequest) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, abs(request.request_step)))
        return {NOISE: rng.standard_normal(self._noise_shape, dtype=np.float32)}
