"""A guided flow as an engine: an observation's tensors, and the running plan where there is one, to a chunk."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._families import ACTION, DELAY, NOISE, PREFIX, PREFIX_WEIGHTS, plan_inputs
from chunkwise.engines._network import check, zeros
from chunkwise.policies._flow_sampling import GuidedFlow

Array = NDArray[Any]


class FlowNetwork:
    """An `chunkwise.engines.Engine` whose network is run several times for a chunk.

    Args:
        flow: what makes chunks; loaded.
        seed: of the noise, where a call brings none; drawn anew from it in every call.
    """

    def __init__(self, flow: GuidedFlow, seed: int = 0) -> None:
        velocity = flow.velocity
        self._flow, self._seed = flow, seed
        self._turn = threading.RLock()
        self.inputs: Mapping[str, TensorSpec] = {
            **velocity.inputs,
            NOISE: TensorSpec((None, velocity.rows, velocity.dim), "float32", optional=True),
            **plan_inputs(velocity.dim),
        }
        self.outputs: Mapping[str, TensorSpec] = {
            ACTION: TensorSpec((None, velocity.rows, velocity.dim), "float32")
        }

    def load(self, path: str, device: str = "cpu") -> None:
        raise RuntimeError("a flow is loaded when it is made; make another one")

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        with self._turn:
            check(tensors, self.inputs)
            observation = {name: tensors[name] for name in self._flow.velocity.inputs}
            delays = tensors.get(DELAY)
            if delays is not None and len(np.unique(delays)) > 1:
                raise InterfaceValidationError(f"a whole batch has one {DELAY}, got {delays.tolist()!r:.80}")
            chunk = self._flow.sample(
                observation,
                tensors.get(PREFIX),
                weights=tensors.get(PREFIX_WEIGHTS),
                inference_delay=None if delays is None else int(delays[0]),
                rng=np.random.default_rng(self._seed),
                noise=tensors.get(NOISE),
            )
            return {ACTION: chunk}

    def warmup(self) -> None:
        """A plain and a guided chunk, twice: the first calls get memory and choose kernels."""
        nothing = {name: zeros(spec) for name, spec in self.inputs.items() if not spec.optional}
        rows, dim = self._flow.velocity.rows, self._flow.velocity.dim
        plan: dict[str, Array] = {
            PREFIX: np.zeros((1, rows, dim), np.float32),
            PREFIX_WEIGHTS: np.ones((1, rows), np.float32),
            DELAY: np.ones(1, np.int64),
        }
        for given in (nothing, {**nothing, **plan}) * 2:
            self.run(given)

    def close(self) -> None:
        with self._turn:
            self._flow.velocity.close()
