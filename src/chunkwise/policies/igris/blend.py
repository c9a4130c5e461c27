"""The blend of two chunks that IGRIS policies answer with under a running plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chunkwise.chunking import prefix_weights


def exponential_blend(previous: ArrayLike, new: ArrayLike, *, delay: int, executed: int) -> NDArray[np.float32]:
    """The running plan, faded into a new chunk that was made without it.

    This is *not* real-time chunking: the mean of two plans that pass an obstacle on either side hits it, and the
    mean of open and closed is half open.  A policy that can make its chunk under the plan (guidance, inpainting)
    should.  What this saves is the jump between two chunks that already agree.

    Args:
        previous: rows (H, n) of the running plan; row 0 is what runs now.
        new: rows (H, n), of the same steps.
        delay: rows that will have run when the new chunk arrives (``d``); they are kept.
        executed: rows of the running chunk that have run (``s``); the fade ends at row ``H - s``, where the plan
            does.

    Returns:
        Rows (H, n), float32.

    Raises:
        ValueError: the chunks differ in shape, or `delay` or `executed` is negative.

    Source:
        the weights are equation 5 of https://arxiv.org/abs/2506.07339.

    >>> faded = exponential_blend([[1.0]] * 5, [[0.0]] * 5, delay=1, executed=2)
    >>> [round(float(row), 3) for row in faded[:, 0]]
    [1.0, 0.368, 0.077, 0.0, 0.0]
    """
    kept, made = np.asarray(previous, dtype=np.float32), np.asarray(new, dtype=np.float32)
    if kept.shape != made.shape or kept.ndim != 2:
        raise ValueError(f"chunks of one shape (rows, columns) can be blended, got {kept.shape} and {made.shape}")
    if executed < 0:
        raise ValueError(f"executed must be at least 0, got {executed}")
    weights = np.zeros((len(made), 1), dtype=np.float32)
    overlap = max(len(made) - executed, 0)
    weights[:overlap, 0] = prefix_weights(delay, overlap)
    blended: NDArray[np.float32] = kept * weights + made * (1 - weights)
    return blended
