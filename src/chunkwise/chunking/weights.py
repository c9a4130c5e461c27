"""How much each row of a new chunk must agree with the running plan."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Schedule = Literal["exp", "linear", "ones", "zeros"]


@lru_cache(maxsize=1024)  # asked for at every request, with few distinct arguments
def prefix_weights(inference_delay: int, overlap: int, schedule: Schedule = "exp") -> NDArray[np.float64]:
    """Real-time chunking's soft mask over the rows that the running plan still covers.

    Linear form, ``inference_delay=2, overlap=6``::

        row      0  1   2   3   4   5
        weight   1  1  .8  .6  .4  .2
                └────┘ └────────────┘
             will have  the old plan
             run by     still covers
             then       them

    Rows from `overlap` on weigh nothing and are left out.

    Args:
        inference_delay: control steps between the request and its answer (``d``).  0 leaves every row free
            to change.
        overlap: rows the running plan covers from the request's step on, up to the next hand-over
            (``H - s``).  It wins over a longer delay: what is not planned cannot be kept.
        schedule: how the weight falls after the delay; ``zeros`` keeps nothing after it (hard mask).

    Returns:
        Read-only float64 ``(overlap,)`` in [0, 1], never rising from one row to the next.

    Raises:
        ValueError: a negative argument, or an unknown schedule.

    Source:
        Black, Galliker, Levine 2025, "Real-Time Execution of Action Chunking Flow Policies",
        https://arxiv.org/abs/2506.07339, equation 5.

    >>> prefix_weights(2, 6, "linear").round(1).tolist()
    [1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    >>> prefix_weights(2, 6).round(4).tolist()
    [1.0, 1.0, 0.5706, 0.2871, 0.1145, 0.0258]
    """
    if inference_delay < 0 or overlap < 0:
        raise ValueError(f"need inference_delay >= 0 and overlap >= 0, got {inference_delay}, {overlap}")
    start = min(inference_delay, overlap)
    rows = np.arange(overlap)
    falling = (overlap - rows) / (overlap - start + 1)
    if schedule == "exp":
        soft = falling * np.expm1(falling) / np.expm1(1.0)
    elif schedule == "linear":
        soft = falling
    elif schedule == "ones":
        soft = np.ones(overlap)
    elif schedule == "zeros":
        soft = np.zeros(overlap)
    else:
        raise ValueError(f"schedule must be exp, linear, ones or zeros, got {schedule!r}")
    weights = np.where(rows < start, 1.0, soft)
    weights.flags.writeable = False
    return weights
