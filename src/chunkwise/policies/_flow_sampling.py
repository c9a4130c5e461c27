"""A velocity field and a way to continue a running plan: observation and plan in, chunk out, all normalised."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkwise.chunking.weights import Schedule, prefix_weights
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.sampling.flow import FlowSampler
from chunkwise.sampling.prefix import PrefixSampler

log = logging.getLogger("chunkwise.policies")
Array = NDArray[Any]
Guidance = Literal["vjp", "identity", "trained_prefix"]
"""How a chunk is made to continue the running plan.

``vjp``: real-time chunking as published, arXiv 2506.07339: one backward pass for every Euler step.
``identity``: the same without the Jacobian, as LeRobot has it: no backward pass, a cruder pull.
``trained_prefix``: arXiv 2512.05964, for networks that were trained so: rows are given, and nothing is pulled.
"""


class Conditioned(Protocol):
    """A field that knows its observation; see `chunkwise.sampling.flow.Field` and `chunkwise.sampling.prefix`."""

    def velocity(self, x: Array, tau: float | Array) -> Array:
        """v (B, H, A) at x (B, H, A); tau is one flow time, or (B, H) of them."""
        ...

    def pull(self, x: Array, tau: float, target: Array, weights: Array) -> tuple[Array, Array, Array]:
        """v, the weighted error, and error^T dv/dx, each (B, H, A)."""
        ...


class Velocity(Protocol):
    """A policy's velocity field v(x, t, obs), on any runtime; numpy outside.

    Attributes:
        inputs: what it reads of an observation, by name.
        rows, dim: of a chunk, H and A.
        pulls: whether its fields have the vector-Jacobian product.
        row_times: whether its fields take a flow time for each row.
    """

    inputs: Mapping[str, TensorSpec]
    rows: int
    dim: int
    pulls: bool
    row_times: bool

    def condition(self, observation: Mapping[str, Array]) -> Conditioned:
        """The field for a batch of observations; whatever of them does not depend on x is computed here, once."""
        ...

    def close(self) -> None:
        """Let go of the network.  Twice is fine."""
        ...


class GuidedFlow:
    """Makes chunks from noise along a velocity field, under a running plan where there is one.

    Args:
        velocity: the field.
        guidance: how the plan is continued.
        steps: Euler steps.
        beta: bound of the guidance weight, at most ``2 * steps``; `steps` by default.
        longest: rows of the longest prefix that a ``trained_prefix`` network was trained with.

    Attributes:
        cut: chunks whose prefix was longer than that, so far.

    Raises:
        InterfaceValidationError: the field cannot be guided so.
        ValueError: `steps`, `beta` or `longest` is out of range.
    """

    def __init__(
        self,
        velocity: Velocity,
        *,
        guidance: Guidance = "vjp",
        steps: int = 5,
        beta: float | None = None,
        longest: int | None = None,
    ) -> None:
        self.velocity, self.guidance, self.cut = velocity, guidance, 0
        self._check(longest)
        jacobian: Literal["vjp", "identity"] = "vjp" if guidance == "vjp" else "identity"
        self._guided = FlowSampler(steps=steps, beta=float(steps) if beta is None else beta, jacobian=jacobian)
        self._given = PrefixSampler(steps, longest)

    def sample(
        self,
        observation: Mapping[str, Array],
        prefix: Array | None = None,
        *,
        weights: Array | None = None,
        inference_delay: int | None = None,
        execution_horizon: int | None = None,
        schedule: Schedule = "exp",
        rng: np.random.Generator | None = None,
        noise: Array | None = None,
    ) -> Array:
        """Chunks (B, H, A) for a batch of observations.

        How much each row is bound is told by `weights`, or by the delay and the execution horizon, from which the
        published mask is made; its end is ``H - s``, or where the prefix ends, whichever comes first.

        Args:
            observation: by name, each (B, ...).
            prefix: rows (B, L, A) of the running plan, normalised, row 0 for the step of the observation; None
                or no rows to sample alone.
            weights: (B, L) in [0, 1].
            inference_delay: rows that will have run when the chunk arrives (d).  Without it, rows of weight 1.
            execution_horizon: rows between this request and the next (s); d by default, at least 1.
            schedule: how the weights fall after the delay, where they are not given.
            rng: draws the noise.
            noise: standard normal numbers (B, H, A), in the place of `rng`.

        Raises:
            InterfaceValidationError: a shape does not fit, or the prefix is bound by nothing.
        """
        if noise is None:
            if rng is None:
                raise InterfaceValidationError("sampling needs an rng or noise")
            batch = len(next(iter(observation.values()))) if observation else 1
            noise = rng.standard_normal((batch, self.velocity.rows, self.velocity.dim), dtype=np.float32)
        field = self.velocity.condition(observation)
        if prefix is None or prefix.shape[1] == 0:
            return self._guided.sample(field, noise)
        plan = _whole(prefix, noise.shape)
        bound = _mask(noise.shape, prefix.shape[1], weights, inference_delay, execution_horizon, schedule)
        if self.guidance == "trained_prefix":
            return self._given.sample(field, noise, plan, self._in_training(_lengths(bound, inference_delay)))
        return self._guided.sample(field, noise, plan, bound)

    def _in_training(self, lengths: NDArray[np.int64]) -> Array:
        """The lengths that the network has been trained for; that more was asked is said once, and counted."""
        kept = self._given.kept(lengths)
        cut = int(np.count_nonzero(kept < lengths))
        if cut and not self.cut:
            log.warning(
                "the delay is %d rows, and the network was trained to continue up to %d: it is given so many, "
                "and the others may jump",
                lengths.max(),
                kept.max(),
            )
        self.cut += cut
        return kept

    def _check(self, longest: int | None) -> None:
        if self.guidance == "vjp" and not self.velocity.pulls:
            raise InterfaceValidationError(
                "guidance 'vjp' needs the network's vector-Jacobian product, and only its velocity is there: "
                "export it again with `chunkwise export`, or take 'identity'"
            )
        if self.guidance == "trained_prefix" and not self.velocity.row_times:
            raise InterfaceValidationError(
                "guidance 'trained_prefix' needs a network that was trained with a flow time for each row, "
                "and this one takes one for all: take 'vjp' or 'identity'"
            )
        if longest is not None and self.guidance != "trained_prefix":
            raise InterfaceValidationError(f"longest is for guidance 'trained_prefix', not for {self.guidance!r}")


def _whole(prefix: Array, shape: tuple[int, ...]) -> Array:
    """The prefix (B, L, A) at a chunk's length: cut, or with its last row again, which binds nothing."""
    batch, rows, dim = shape
    if prefix.ndim != 3 or (prefix.shape[0], prefix.shape[2]) != (batch, dim):
        raise InterfaceValidationError(f"prefix must be ({batch}, rows, {dim}), got {prefix.shape}")
    return prefix[:, np.minimum(np.arange(rows), prefix.shape[1] - 1)]


def _mask(
    shape: tuple[int, ...],
    length: int,
    weights: Array | None,
    delay: int | None,
    horizon: int | None,
    schedule: Schedule,
) -> Array:
    """Weights (B, H) of every row of a chunk; 0 where the plan has ended."""
    batch, rows, _ = shape
    mask = np.zeros((batch, rows))
    if weights is None:
        if delay is None:
            raise InterfaceValidationError("a prefix needs weights, or an inference_delay to make them of")
        s = max(delay, 1) if horizon is None else horizon
        end = max(min(rows - s, length), 0)
        mask[:, :end] = prefix_weights(delay, end, schedule)
        return mask
    if weights.shape != (batch, length):
        raise InterfaceValidationError(f"weights must be ({batch}, {length}) like the prefix, got {weights.shape}")
    mask[:, : min(length, rows)] = weights[:, :rows]
    return mask


def _lengths(mask: Array, delay: int | None) -> NDArray[np.int64]:
    """How many rows of each chunk are given: those that will have run, where the plan has them."""
    if delay is None:
        full: NDArray[np.int64] = np.cumprod(mask >= 1.0, axis=1).sum(axis=1)
        return full
    covered: NDArray[np.int64] = (mask > 0.0).sum(axis=1)
    return np.minimum(covered, delay)
