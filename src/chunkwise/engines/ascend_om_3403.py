"""ACT compiled for a HiSilicon SD3403, run by a worker program that speaks over its stdin and stdout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import Precision, TensorSpec
from chunkwise.engines._compiled import ACTION, CONFIG, BackendError, PolicyConfig, read_policy
from chunkwise.engines._compiled_act import ActInputs, chunk_of
from chunkwise.engines._devices import choose_compiled
from chunkwise.engines._network import Network
from chunkwise.engines._om_manifest import WORKER, read_manifest
from chunkwise.engines._sd3403_worker import LONGEST_S, Worker

__all__ = ["AscendOm3403"]

NAME = "ascend_om_3403"
STRIDE, STRIDE_VARIABLE = 8, "SVP_ACTION_STRIDE"
"""Numbers from one row of the answer to the next: rows are filled up to the accelerator's liking."""
Array = NDArray[Any]


class AscendOm3403(Network):
    """A policy's directory with ``config.om.json``, whose worker is a program that is in it.

    Neither torch nor the policy's weights are needed.  The worker is begun and asked once when the policy is
    loaded, for nothing else says how many rows it answers.  One that hangs, dies or writes nonsense costs the call
    an error, and the next call begins another one.

    Args:
        threads: of the processor, which computes nothing here.
        dtype: ``float32``, what goes in and comes out.
        timeout_s: for an answer.
        start_timeout_s: for the first answer of a worker, which loads its network before.

    Attributes:
        policy_type: the family; "" before `load`.
        backend_type: ``ascend_om_3403``.
    """

    precisions = ("float32",)
    backend_type = NAME

    def __init__(
        self,
        *,
        threads: int = 1,
        dtype: Precision = "float32",
        timeout_s: float = 5.0,
        start_timeout_s: float = 60.0,
    ) -> None:
        super().__init__(threads=threads, dtype=dtype)
        for name, value in (("timeout_s", timeout_s), ("start_timeout_s", start_timeout_s)):
            if not 0 < value <= LONGEST_S:
                raise InterfaceValidationError(f"{name} must be above 0, and {LONGEST_S} at most, got {value}")
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._worker: Worker | None = None
        self.policy_type = ""

    def load(self, path: str, device: str = NAME) -> None:
        super().load(path, device)

    def _open(self, path: str, device: str) -> str:
        chosen = choose_compiled(device, NAME)
        policy = read_policy(path, NAME)
        files = read_manifest(policy.folder, NAME, policy.policy_type).files(NAME, policy.policy_type)
        self._inputs, self._dim, self._stride = ActInputs(policy), policy.action_dim, stride_of(policy)
        self._worker = Worker(
            files[WORKER], files["policy"], timeout_s=self._timeout_s, start_timeout_s=self._start_timeout_s
        )
        self.policy_type, self.inputs = policy.policy_type, self._inputs.specs
        self.outputs = {ACTION: TensorSpec((1, self._asked(self._nothing()).shape[1], self._dim), "float32")}
        return chosen

    def _call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        chunk = self._asked(tensors)
        if chunk.shape != self.outputs[ACTION].shape:
            raise BackendError(f"the worker answered {chunk.shape}, and when loaded {self.outputs[ACTION].shape}")
        return {ACTION: chunk}

    def _release(self) -> None:
        worker, self._worker = self._worker, None
        self.policy_type = ""
        if worker is not None:
            worker.close()

    def _asked(self, tensors: Mapping[str, Array]) -> Array:
        assert self._worker is not None
        answer = self._worker.ask(self._inputs.arrays(tensors))
        return chunk_of([answer], NAME, self._dim, self._stride)


def stride_of(policy: PolicyConfig) -> int:
    """``sd3403_action_stride`` of the configuration, else the environment's ``SVP_ACTION_STRIDE``, else 8.

    Raises:
        InterfaceValidationError: it is no number that a row fits into.
    """
    said = os.environ.get(STRIDE_VARIABLE, "") or str(STRIDE)
    if not said.isdecimal():
        raise InterfaceValidationError(f"{STRIDE_VARIABLE} must be a whole number, got {said!r}")
    stride = policy.whole("sd3403_action_stride", int(said))
    if stride < policy.action_dim:
        raise InterfaceValidationError(
            f"{policy.folder / CONFIG}: an action has {policy.action_dim} numbers, and rows are {stride} apart: "
            "say sd3403_action_stride, as the network was compiled"
        )
    return stride
