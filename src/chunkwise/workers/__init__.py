"""The worker port: where inference runs.  Every other file here is one place for it.

The control loop submits and collects; neither call waits for the policy, except in the worker whose point is
to run it in line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from chunkwise import plugins
from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicyFailed
from chunkwise.policies import Policy, Recipe

Infer = Callable[[Frame, ChunkRequest], ActionChunk]
"""A policy bound to a robot: a frame and a request to a chunk in the robot's column order."""


class WorkerFailed(PolicyFailed):
    """Where inference runs has gone, or could not be started; the message says why, with what it said last."""


@runtime_checkable
class Worker(Protocol):
    """Runs one inference at a time.

    A worker is made with the bound policy and ``latency_s``: answers take at least that long from `submit`
    on, which makes a slow policy out of a quick one for demonstrations and tests.

    A worker that runs the policy in another process has a class method ``host(recipe, *, on_message, **options)``,
    which makes a stand-in for the policy from its recipe; a bound stand-in is what it is made with then.

    One whose ``submit`` runs the policy says ``in_line = True``; the control loop asks it before it sends the
    step's command, and any other worker after.

    One that can only leave a policy that hangs behind says ``leaves_behind = True``, and is not restarted without
    end.

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


def place(
    policy: Policy | Recipe, make_worker: str | Callable[..., Worker], on_message: Callable[[str], None] = print
) -> Policy:
    """The policy where the worker wants it: here, or a stand-in for one in another process.

    Args:
        policy: the policy, or its recipe.
        make_worker: the worker's name, or what makes it.
        on_message: told what people should know of the other process.

    Raises:
        InterfaceValidationError: a policy that was made here, for a worker that makes it elsewhere.
        Exception: whatever making the policy raises.
    """
    host = host_of(make_worker)
    if host is None:
        made: Policy = policy.make() if isinstance(policy, Recipe) else policy
        return made
    if isinstance(policy, Recipe):
        return host(policy, on_message=on_message)
    if getattr(policy, "elsewhere", False):  # it is a stand-in already
        return policy
    raise InterfaceValidationError(
        f"a {type(policy).__name__} that was made here cannot run in another process; give a recipe, by which "
        f"it is made there: Recipe('my_policy.py:{type(policy).__name__}', {{...its options}})"
    )


def host_of(make_worker: str | Callable[..., Worker]) -> Callable[..., Policy] | None:
    """What makes a stand-in for a policy in another process; None for a worker that runs it in this one."""
    maker: Any = plugins.load("workers", make_worker) if isinstance(make_worker, str) else make_worker
    options: dict[str, Any] = {}
    while isinstance(maker, functools.partial):
        maker, options = maker.func, maker.keywords | options
    host = getattr(maker, "host", None)
    return None if host is None else functools.partial(host, **options)
