"""The worker port: where inference runs.  Every other file here is one place for it.

The control loop submits and collects; neither call waits for the policy, except in the worker whose point is
to run it in line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame

Infer = Callable[[Frame, ChunkRequest], ActionChunk]
"""A policy bound to a robot: a frame and a request to a chunk in the robot's column order."""


@runtime_checkable
class Worker(Protocol):
    """Runs one inference at a time.

    A worker is made with the bound policy and ``latency_s``: answers take at least that long from `submit`
    on, which makes a slow policy out of a quick one for demonstrations and tests.

    Whatever the policy does (raise, hang, return garbage) comes back as an :class:`Answer` or not at all;
    no method of the worker raises because of it.
    """

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        """Ask for the answer to `request`.

        While an inference runs, one further request waits; a newer one takes its place, and the replaced one
        is answered with an error.
        """
        ...

    def arrivals(self) -> Sequence[Answer]:
        """Every answer that came since the last call, oldest first."""
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until there is an answer to collect, at most so long; whether there is one.

        For callers that have nothing to do meanwhile.  The control loop never waits.
        """
        ...

    def restart(self) -> None:
        """Give up whatever is running or waiting, and be ready for the next request."""
        ...

    def close(self) -> None:
        """Stop.  Twice is fine; does not wait for a policy that hangs."""
        ...


def attempt(infer: Infer, frame: Frame, request: ChunkRequest) -> Answer:
    """One inference as an answer, whatever the policy does."""
    try:
        return Answer(request.id, infer(frame, request))
    except Exception as error:  # noqa: BLE001  a policy's failure is a value to the control loop
        return Answer(request.id, None, f"{type(error).__name__}: {error}")
