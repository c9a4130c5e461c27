"""Sampling from a flow that was trained to continue a plan: its first rows are given, and it makes the others.

In training the first rows of a chunk were the clean ones, and their flow time was 1; so they can be here.  There
is no backward pass and no soft mask: a row is given or it is not::

    row         0  1  2  3  4  5  6  7
    flow time   1  1  t  t  t  t  t  t       length 2, while t goes from 0 to 1

Source:
    K. Black et al. 2025, "Training-Time Action Conditioning for Efficient Real-Time Chunking",
    https://arxiv.org/abs/2512.05964.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RowField(Protocol):
    """A velocity field with a flow time for each row, already conditioned on one batch of observations."""

    def velocity(self, x: Array, tau: Array) -> Array:
        """v(x, tau), shape (B, K, A), at flow times (B, K)."""
        ...


@dataclass(frozen=True, slots=True)
class PrefixSampler:
    """Euler integration of the rows that are not given.

    Attributes:
        steps: Euler steps, each one evaluation of the network.
        longest: rows of the longest prefix in training; a longer one was never seen, and is cut to this.  None
            where that is not known.

    Raises:
        ValueError: `steps` or `longest` is out of range.
    """

    steps: int = 5
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.longest is not None and self.longest < 0:
            raise ValueError(f"longest must be at least 0, got {self.longest}")

    def sample(self, field: RowField, noise: Array, prefix: Array, lengths: Array) -> Array:
        """A chunk (B, K, A) from `noise` (B, K, A), whose first rows are those of `prefix` to the last bit.

        Args:
            field: the policy's velocity.
            noise: standard normal numbers; the same noise gives the same chunk.
            prefix: the running plan's rows (B, K, A); what follows the first `lengths` must be finite, and is
                not read otherwise.
            lengths: how many rows of each are given, (B,).  0 for all is sampling alone, to the last bit.
        """
        lengths = self.kept(lengths)
        given = np.arange(noise.shape[1]) < lengths[:, None]
        plan = np.asarray(prefix, noise.dtype)
        x = noise
        for step in range(self.steps):
            x = np.where(given[..., None], plan, x)
            tau = np.where(given, 1.0, step / self.steps).astype(noise.dtype)
            x = x + field.velocity(x, tau) / self.steps
        return np.where(given[..., None], plan, x)

    def kept(self, lengths: Array) -> Array:
        """How many rows of the prefixes are given to the network; no more than it has been trained for.

        >>> PrefixSampler(longest=4).kept([0, 3, 6]).tolist()
        [0, 3, 4]
        """
        counts: Array = np.asarray(lengths, np.int64)
        return counts if self.longest is None else np.minimum(counts, self.longest)
