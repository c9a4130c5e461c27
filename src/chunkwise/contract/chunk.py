"""The action chunk a policy answers with, and the request it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import InterfaceValidationError
from chunkwise.contract.values import Action

Array = NDArray[np.float64]

MAX_ROWS = 4096
"""Longest chunk that is accepted; at 50 Hz over a minute."""


@dataclass(slots=True)
class ActionChunk:
    """A short trajectory of future actions.

    Row ``i`` belongs to control step ``first_step + i``, for ever.

    Attributes:
        rows: float64 ``(action_horizon, action_dim)``.
        first_step: the control step of row 0; None means the step of the request that it answers.
        meta: anything else.  ``reconnected`` says that the policy was found again after it had gone: what is known
            of its delay is forgotten.
    """

    rows: Array
    first_step: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RtcArgs:
    """The real-time-chunking hints of a request, grouped (the inferaxis interface)."""

    prev_action_chunk: list[Action] = field(default_factory=list)
    inference_delay: int = 1
    execute_horizon: int = 0


@dataclass(slots=True)
class ChunkRequest:
    """What a policy is asked.

    The first fields are those of the inferaxis interface, in its order; `prefix` and what follows carry the
    running plan as arrays.

    Attributes:
        request_step: the control step whose frame goes with the request.
        request_time_s: when it was made, on the loop's clock.
        active_chunk_length: rows of the running plan that have not run.
        remaining_steps: the same, under its other name.
        latency_steps: expected inference delay ``d``, in steps.
        prev_action_chunk: the running plan as Actions, padded on the right with its last one to the length of a
            chunk; only `InferenceRuntime` with ``enable_rtc`` fills it.
        inference_delay: the delay where the policy is to plan with it, else None.
        execute_horizon: expected steps between this request and the next one that is answered (``s``).
        action_prefix, prefix_length: `prev_action_chunk` and `inference_delay` where they are not given.
        rtc_args: the hints again, grouped; either form fills the other.
        prefix: float64 ``(n, action_dim)``, rows of the running plan; row 0 is what `request_step` runs.
            None where the strategy shares no plan.
        prefix_weights: float64 ``(n,)`` in [0, 1]: how much row ``i`` of the answer must agree with row ``i``
            of the prefix; 1 for rows that will have run by then.
        id: number of the request, from 0.
    """

    request_step: int
    request_time_s: float = 0.0
    active_chunk_length: int = 0
    remaining_steps: int = 0
    latency_steps: int = 0
    prev_action_chunk: list[Action] | None = None
    inference_delay: int | None = None
    execute_horizon: int | None = None
    action_prefix: list[Action] | None = None
    prefix_length: int | None = None
    rtc_args: RtcArgs | None = None
    prefix: Array | None = field(default=None, kw_only=True)
    prefix_weights: Array | None = field(default=None, kw_only=True)
    id: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        rtc = self.rtc_args
        if rtc is not None and self.prev_action_chunk is None:
            self.prev_action_chunk = rtc.prev_action_chunk
            self.inference_delay, self.execute_horizon = rtc.inference_delay, rtc.execute_horizon
        elif rtc is None and self.prev_action_chunk is not None:
            self.rtc_args = RtcArgs(self.prev_action_chunk, self.inference_delay or 1, self.execute_horizon or 0)
        if self.action_prefix is None:
            self.action_prefix = self.prev_action_chunk
        if self.prefix_length is None:
            self.prefix_length = self.inference_delay


def checked_rows(rows: object, width: int | None = None) -> Array:
    """`rows` as a new read-only float64 ``(n, width)``; a single row becomes ``(1, width)``.

    Finiteness is not checked here: the scheduler answers a chunk that is not finite with a fault of its own.

    Raises:
        InterfaceValidationError: not numbers, another shape, empty, or longer than :data:`MAX_ROWS`.
    """
    try:
        array = np.asarray(rows)
    except ValueError as error:
        raise InterfaceValidationError(f"chunk.rows must be a rectangular array: {error}") from error
    if array.dtype.kind not in "iuf":
        raise InterfaceValidationError(f"chunk.rows must hold numbers, got dtype {array.dtype}")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or not array.shape[0]:
        raise InterfaceValidationError(f"chunk.rows must be (action_horizon, action_dim), got {array.shape}")
    if array.shape[0] > MAX_ROWS:
        raise InterfaceValidationError(f"chunk.rows has {array.shape[0]} rows, more than {MAX_ROWS}")
    if width is not None and array.shape[1] != width:
        raise InterfaceValidationError(f"chunk.rows has {array.shape[1]} columns, needs {width}")
    made = np.array(array, dtype=np.float64, order="C")
    made.flags.writeable = False  # rows are shared with the scheduler, the gate and the robot's driver
    return made
