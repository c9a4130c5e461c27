"""Inference in an actor of a Ray cluster: the policy is where the GPU is, the control loop where the robot is."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from chunkwise.contract import ActionChunk, InterfaceValidationError
from chunkwise.options import UsageError, options_of
from chunkwise.plugins import MissingExtra, load
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.workers import Infer
from chunkwise.workers._host import Host
from chunkwise.workers._hosted import Hosted
from chunkwise.workers._process import Place
from chunkwise.workers._ray_client import PolicyOnRay, amounts

__all__ = ["RayWorker"]

if importlib.util.find_spec("ray") is None:  # said here, not by a process that cannot do without
    raise MissingExtra("ray is not installed: pip install 'chunkwise[ray]'")

CLIENT = f"{PolicyOnRay.__module__}:{PolicyOnRay.__name__}"
END_S = 5.0
"""Leaving a cluster takes a second or two."""
ProcessWorker: Any = load("workers", "process")


class RayWorker(ProcessWorker):  # type: ignore[misc]
    """Runs the policy in an actor of a Ray cluster, which is started anew when it ends, hangs or loses its node.

    Between the loop and the actor stands an inference process, which is Ray's driver: frames reach it through
    shared memory, and whatever becomes of the cluster, the loop's process is not part of it.

    Args:
        infer: a stand-in for the policy, or that bound to a robot (see :meth:`host`); or a function
            ``infer(frame, request)`` at the top of a module, for which an actor is started here.
        latency_s: an answer takes at least this long.
        clock: the time that `latency_s` is counted in.
        convert: makes a chunk of the policy's answer, where it is not bound.
        address: of the cluster, ``HOST:6379``; by default that of ``RAY_ADDRESS``, or the one that this computer
            belongs to.  ``local`` starts one that ends with the worker.
        resources: custom resources that the policy's node has, ``inference_pc`` or ``inference_pc=0.5``.
        num_gpus: GPUs that Ray sets aside, and shows the policy.
        num_cpus: cores that it sets aside.
        actor: the actor's name in the cluster; by default the policy's, this computer's and a number.
        threads: size of the actor's thread pools; by default what Ray makes of `num_cpus`.
        cpus: cores of this computer that the inference process runs on; by default those of the program.
        nice: its niceness.
        slots: frames that the shared memory holds, at least 3.
        checksum: check every frame; by default with ``CHUNKWISE_DEBUG=1``.
        start_timeout_s: a policy that loads for longer is given up, room on the cluster included.
        timeout_s: an inference that is waited for is given up after it; the control loop has its own time-out.

    Raises:
        InterfaceValidationError: the policy was made here, or cannot be found by name there.
        UsageError: there is no cluster, or no node that has what is asked for.
        WorkerFailed: the actor could not be started; the message has its traceback, or its last words.
    """

    def __init__(
        self,
        infer: Infer | Hosted,
        *,
        latency_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        convert: Callable[[Any], ActionChunk] | None = None,
        address: str | None = None,
        resources: tuple[str, ...] = (),
        num_gpus: float = 0.0,
        num_cpus: float = 1.0,
        actor: str = "",
        threads: int | None = None,
        cpus: tuple[int, ...] = (),
        nice: int = 0,
        slots: int = 4,
        checksum: bool | None = None,
        start_timeout_s: float = 120.0,
        timeout_s: float = 60.0,
    ) -> None:
        policy: Any = infer.policy if isinstance(infer, BoundPolicy) else infer
        own = None
        if not isinstance(policy, Hosted):
            if hasattr(policy, "infer"):
                raise InterfaceValidationError(
                    f"a {type(policy).__name__} that was made here cannot run on a cluster; give a recipe, by "
                    f"which it is made there: Recipe('my_policy.py:{type(policy).__name__}', {{...its options}})"
                )
            own = self.host(
                Recipe.of(policy),
                address=address,
                resources=resources,
                num_gpus=num_gpus,
                num_cpus=num_cpus,
                actor=actor,
                threads=threads,
                cpus=cpus,
                nice=nice,
                slots=slots,
                checksum=checksum,
                start_timeout_s=start_timeout_s,
                timeout_s=timeout_s,
            )
        super().__init__(infer if own is None else own, latency_s=latency_s, clock=clock, convert=convert)
        self._owns = own is not None

    @classmethod
    def host(
        cls, recipe: Recipe, *, on_message: Callable[[str], None] = lambda message: None, **options: Any
    ) -> Hosted:
        """Start an actor, and make the policy there.

        Args:
            recipe: of the policy.
            on_message: told when the actor ends, and when it starts again.
            **options: as of the worker.

        Returns:
            A stand-in for the policy, to bind to a robot and to make the worker with.

        Raises:
            UsageError: there is no cluster, or no node that has what is asked for.
            WorkerFailed: it could not be started; the message has the actor's traceback, or its last words.
        """
        amounts(options.get("resources", ()))
        known = options_of(PolicyOnRay)
        there = {name: value for name, value in options.items() if name in known}
        here = {item.name: options[item.name] for item in fields(Place) if item.name in options}
        try:
            client = Recipe(CLIENT, {**there, "recipe": recipe.to_dict()})
            return Hosted(Host(client, Place(**here, end_s=END_S), on_message))
        except UsageError as error:
            raise UsageError(str(error).removeprefix(f"policy {CLIENT}: ")) from None
