"""Sampling action chunks from a flow-matching policy, alone or under the plan that is already running.

A flow carries noise (flow time 0) to an action chunk (flow time 1) along a velocity that a network has learnt::

    x(0) ~ N(0, 1)       dx/dtau = v(x, tau)       x(1) = chunk

Everything is in the policy's own normalised space.  Arrays are ``(B, K, A)``: batch, rows, action numbers; weights
are ``(B, K)``.  The network is somebody else's: see :class:`Field`.

Source:
    K. Black, M. Galliker, S. Levine 2025, "Real-Time Execution of Action Chunking Flow Policies",
    https://arxiv.org/abs/2506.07339, equations 1 to 4; the guidance is Pi-GDM's (Song et al. 2023) for a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Jacobian = Literal["vjp", "identity"]


class Field(Protocol):
    """A velocity field, already conditioned on one batch of observations."""

    def velocity(self, x: Array, tau: float) -> Array:
        """v(x, tau), shape (B, K, A), at one flow time for the whole batch."""
        ...

    def pull(self, x: Array, tau: float, target: Array, weights: Array) -> tuple[Array, Array, Array]:
        """One forward and one backward pass.

        Args:
            x: (B, K, A).
            tau: flow time in [0, 1).
            target: rows to agree with (B, K, A).
            weights: how much each row should, (B, K) in [0, 1].

        Returns:
            The velocity v; the error ``e = weights * (target - (x + (1 - tau) v))`` of the chunk that v heads
            for; and ``e^T dv/dx``, with e held constant.  All (B, K, A).
        """
        ...


def guidance_weight(tau: float, beta: float) -> float:
    """How hard to pull at flow time tau: ``min(beta, (tau^2 + (1 - tau)^2) / (tau (1 - tau)))``, beta at 0.

    >>> [round(guidance_weight(tau, 5.0), 4) for tau in (0.0, 0.2, 0.4, 0.6, 0.8)]
    [5.0, 4.25, 2.1667, 2.1667, 4.25]
    """
    room = tau * (1.0 - tau)
    return min(beta, (tau**2 + (1.0 - tau) ** 2) / room) if room > 0.0 else beta


@dataclass(frozen=True, slots=True)
class FlowSampler:
    """Euler integration of a flow, guided towards a running plan where one is given.

    A network that was trained to continue a plan needs no guidance: see `chunkwise.sampling.prefix`.

    Attributes:
        steps: Euler steps, each one evaluation of the network (``n`` in the paper).
        beta: bound of the guidance weight.  `steps` is a good value; above twice that, which is refused, Euler's
            steps overshoot and the chunk diverges.
        jacobian: ``vjp`` asks the field for the true vector-Jacobian product, which lets go of the plan where
            the observation leaves no doubt; ``identity`` drops it: no backward pass, a cruder pull.

    Raises:
        ValueError: `steps`, `beta` or `jacobian` is out of range.
    """

    steps: int = 5
    beta: float = 5.0
    jacobian: Jacobian = "vjp"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0.0 <= self.beta <= 2 * self.steps:
            raise ValueError(f"beta must be within 0 and 2 * steps = {2 * self.steps}, got {self.beta}")
        if self.jacobian not in ("vjp", "identity"):
            raise ValueError(f"jacobian must be 'vjp' or 'identity', got {self.jacobian!r}")

    def sample(
        self, field: Field, noise: Array, target: Array | None = None, weights: Array | None = None
    ) -> Array:
        """A chunk (B, K, A) from `noise` (B, K, A).

        Args:
            field: the policy's velocity.
            noise: standard normal numbers; the same noise gives the same chunk.
            target: the running plan's rows (B, K, A), or None to sample alone.  Rows of weight 0 are ignored but
                must be finite.
            weights: (B, K) in [0, 1]: 1 for a row that will have run by the time the chunk arrives, falling to
                0 where the plan ends.  All zero gives the unguided chunk, to the last bit.
        """
        plan = None
        if target is not None and weights is not None and np.any(weights):
            plan = np.asarray(target, noise.dtype), np.asarray(weights, noise.dtype)
        x = noise
        for step in range(self.steps):
            tau = step / self.steps
            if plan is None:
                velocity = field.velocity(x, tau)
            else:
                velocity = self.guided_velocity(field, x, tau, *plan)
            x = x + velocity / self.steps
        return x

    def guided_velocity(self, field: Field, x: Array, tau: float, target: Array, weights: Array) -> Array:
        """The velocity (B, K, A) plus ``guidance_weight * e^T d(x + (1 - tau) v)/dx``."""
        if self.jacobian == "vjp":
            velocity, error, pulled = field.pull(x, tau, target, weights)
            correction = error + (1.0 - tau) * pulled
        else:
            velocity = field.velocity(x, tau)
            correction = (target - (x + (1.0 - tau) * velocity)) * weights[..., None]
        guided: Array = velocity + guidance_weight(tau, self.beta) * correction
        return guided
