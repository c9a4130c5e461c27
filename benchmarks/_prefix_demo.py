"""The demo policy with a network that was trained to continue a plan; `training/train_prefix.py` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.engines import Engine
from chunkwise.policies.demo import KNOTS, LANE_SCALE, _knots, _rows
from chunkwise.sampling.prefix import PrefixSampler
from chunkwise.tasks.lanes import joints_to_lanes, lanes_to_joints
from chunkwise.tasks.two_belts import features

Array = NDArray[Any]
LONGEST = 6
"""Knots of the longest prefix in training."""


class PrefixDemo:
    """Answers as `Demo.infer_batch`; the rows that weigh 1 are given to the network, and the others bind nothing.

    Args:
        model: folder with ``velocity.onnx``.
    """

    def __init__(self, model: str) -> None:
        self._velocity: Engine = plugins.load("engines", "onnx")()
        self._velocity.load(f"{model}/velocity.onnx")
        self._sampler = PrefixSampler(steps=5, longest=LONGEST)

    def infer_batch(
        self,
        joints: Array,
        posts: Array,
        *,
        prefix: Array | None = None,
        weights: Array | None = None,
        rng: np.random.Generator | Sequence[np.random.Generator],
    ) -> Array:
        """Chunks (B, 31, 16) [rad] for B observations at once."""
        assert isinstance(rng, np.random.Generator)
        known = features(joints_to_lanes(joints), posts).astype(np.float32)
        noise = rng.standard_normal((len(joints), KNOTS, 2), dtype=np.float32)
        plan, lengths = np.zeros_like(noise), np.zeros(len(joints), np.int64)
        if prefix is not None and weights is not None:
            plan = _knots(joints_to_lanes(prefix)) / np.float32(LANE_SCALE)
            lengths = np.cumprod(_knots(weights) >= 1.0, axis=1).sum(axis=1)
        chunk = self._sampler.sample(_Field(self._velocity, known), noise, plan, lengths)
        return lanes_to_joints(_rows(chunk.astype(np.float64) * LANE_SCALE))

    def close(self) -> None:
        """Let go of the network."""
        self._velocity.close()


class _Field:
    """The network and features (B, 2, 4): a `chunkwise.sampling.prefix.RowField`."""

    def __init__(self, velocity: Engine, known: Array) -> None:
        self._velocity, self._known = velocity, known

    def velocity(self, x: Array, tau: Array) -> Array:
        return self._velocity.run({"x": x, "tau": tau, "features": self._known})["velocity"]
