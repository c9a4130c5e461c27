"""A policy whose network runs on another machine; what stands before and after it runs here, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError
from chunkwise.policies._apart import FarEngine, NearPreprocessor
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._stages import TensorPreprocessor
from chunkwise.policies._tensor_policy import TensorPolicy
from chunkwise.policies._topics import TopicNetwork
from chunkwise.policies._wiring import Wishes
from chunkwise.transports._ros2.inference_topics import SCHEME, InferenceTopics

__all__ = ["Distributed"]


class Distributed(TensorPolicy):
    """A LeRobot or exported policy in two places: ``--execution-mode distributed``.

    The directory needs ``config.json``, both processors and their safetensors; no weights and no torch.  Chunks
    are those of the same policy in one process, to the last bit.

    Args:
        path: the directory.
        network: where `chunkwise engine` serves its network: ``native://host:7777``, ``native+unix:///run/x.sock``,
            or the topics of ``chunkwise engine --ros2`` or of IB-Robot's ``pure_inference_node``:
            ``ros2://?domain=0&input=/preprocessed/batch&output=/inference/action``.
        timeout_s: an answer that takes longer is given up.
        start_timeout_s: a network that loads for longer is given up.
        token: the secret that the server asks for; CHUNKWISE_TOKEN where it is empty.
        tls: encrypt, and check the server's certificate.
        ca_file: certificates that are trusted in place of the system's.
        images: ``camera=feature`` for cameras that have other names than in training.
        state: the components that make up ``observation.state``, in its order; by default the robot's.
        environment: the further states that make up ``observation.environment_state``; by default the robot's.
        actions: the components that the action's columns command, in order; by default the robot's.
        task: what is to be done, for a policy that reads it, where the frame does not say.
        control_hz: the rate of its rows.
        n_action_steps: rows of a chunk that are used; 0 for all.
        clamp: keep actions within the range of the training data; the robot's own limits are the gate's.

    Raises:
        FileNotFoundError, InterfaceValidationError: the directory is not one, or is of another policy.
        PolicyFailed: nobody listens there, or who listens refuses.
    """

    def __init__(
        self,
        *,
        path: str,
        network: str,
        timeout_s: float = 5.0,
        start_timeout_s: float = 120.0,
        token: str = "",
        tls: bool = False,
        ca_file: Path | None = None,
        images: tuple[str, ...] = (),
        state: tuple[str, ...] = (),
        environment: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        task: str = "",
        control_hz: float | None = None,
        n_action_steps: int = 0,
        clamp: bool = False,
    ) -> None:
        checkpoint = open_checkpoint(path)
        digest = checkpoint.processors().digest
        remote: Any
        if network.startswith(f"{SCHEME}:"):
            if token or tls or ca_file:
                raise InterfaceValidationError(
                    "topics know neither a token nor TLS: leave token, tls and ca_file out"
                )
            remote = TopicNetwork(
                InferenceTopics.parse(network),
                checkpoint,
                digest,
                timeout_s=timeout_s,
                start_timeout_s=start_timeout_s,
            )
        else:
            remote = plugins.load("policies", "remote")(
                url=network,
                timeout_s=timeout_s,
                start_timeout_s=start_timeout_s,
                token=token,
                tls=tls,
                ca_file=ca_file,
            )
        try:
            self._far = FarEngine(remote, checkpoint, digest)
            super().__init__(
                checkpoint,
                self._far,
                Wishes(images, state, environment, actions),
                # An engine of IB-Robot's has no part of the preprocessing: it gets pictures as float32.
                preprocessor=TensorPreprocessor if getattr(remote, "original", False) else NearPreprocessor,
                task=task,
                control_hz=control_hz,
                n_action_steps=n_action_steps,
                clamp=clamp,
            )
        except BaseException:
            remote.close()
            raise

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        chunk = super().infer(frame, request)
        if self._far.reconnected:
            chunk.meta["reconnected"] = True  # it takes another time to answer
        return chunk

    def reset(self) -> None:
        """Forget the history, here and there."""
        super().reset()
        self._far.reset()
