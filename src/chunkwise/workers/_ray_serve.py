"""Replicas in a deployment of Ray Serve: started, watched, asked, and ended with this process."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from chunkwise.plugins import require
from chunkwise.workers import WorkerFailed
from chunkwise.workers._ray_client import joined, require_node
from chunkwise.workers._ray_replica import OWNERS, Owner, Replica, end

DEPLOYMENT = "policy"
LOOK_S = 0.5
"""Between two looks at which replicas run, and at whether an answer is still to be waited for."""
TRIES = 1
"""Of a replica's constructor: it would fail alike again."""
HEALTH_S = 2.0
"""So often Ray Serve sees whether a replica lives."""
DRAIN_S = 0.5
"""A replica that is taken away waits so long, and again, until nobody asks it any more."""
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Ray Serve else writes a line for every call."""
ANSWERING = ("RUNNING", "RECOVERING", "UPDATING", "PENDING_MIGRATION")
"""States of replicas that answer; a controller that started again finds them recovering."""
LOAD_WINDOW_S = 2.0
"""Ray Serve counts calls over so long, where it is to add replicas or to take some away."""
LEAVE_S = 10.0
"""How long the watch is waited for, which may be behind a controller that does not answer."""
log = logging.getLogger(__name__)
_numbers = itertools.count(1)
_one_by_one = threading.Lock()
"""What Ray Serve registers for a moment while it makes or reads a configuration is the whole process's."""


class NoReplica(WorkerFailed):
    """No replica runs, or the one that was asked has ended."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What replicas there are to be.

    Attributes:
        title: of the application, before what makes it the only one of that name.
        boots: of calls ``make``, by the models' names.
        most: models of a replica at the same time.
        num_cpus, num_gpus, resources: of each replica; custom resources by name.
        calls: of a replica at the same time, at most.
        scale: how many there are, as Ray Serve has it.
        start_s: replicas that do not run by then are given up; also what a model may take to be made.
        answer_s: what a call may take.
    """

    title: str
    boots: Mapping[str, Mapping[str, Any]]
    most: int
    num_cpus: float
    num_gpus: float
    resources: Mapping[str, float]
    calls: int
    scale: Mapping[str, Any]
    start_s: float
    answer_s: float


class Deployment:
    """Replicas on a cluster.

    Args:
        wanted: what they are.
        address: of the cluster, as Ray has it.

    Attributes:
        running: how many run.

    Raises:
        UsageError: there is no cluster, or no node that has what is asked for.
        WorkerFailed: the replicas do not run; the message has what the policy said.
    """

    def __init__(self, wanted: Wanted, address: str | None) -> None:
        self.running = 0
        self._wanted = wanted
        self._closing, self._closed = threading.Lock(), threading.Event()
        self._app, self._owner = "", cast(Any, None)
        self._watcher = threading.Thread(target=self._watch, name="chunkwise-replicas", daemon=True)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray, self._serve = require("ray", extra="replicas"), require("ray.serve", extra="replicas")
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._leaves = not self._ray.is_initialized()
        joined(address, "--policy.address")
        try:
            amounts = {"CPU": wanted.num_cpus, "GPU": wanted.num_gpus, **wanted.resources}
            needed = {name: amount for name, amount in amounts.items() if amount}
            require_node(needed, [node for node in self._ray.nodes() if node["Alive"]])
            self._app = f"{wanted.title}@{socket.gethostname()}-{os.getpid()}.{next(_numbers)}"
            self._start_owner()
            self._deploy(time.monotonic() + wanted.start_s)
        except BaseException:
            self.close()
            raise
        self._watcher.start()

    def ask(self, method: str, *given: Any, model: str = "") -> Any:
        """Ask a replica; what it promises is for :meth:`result`.

        Args:
            method: of :class:`Replica`.
            given: to it.
            model: replicas that have it are asked first; empty where all have all.
        """
        handle = self._handle.options(multiplexed_model_id=model) if model else self._handle
        return getattr(handle, method).remote(*given)

    def result(self, promised: Any, within_s: float) -> Any:
        """What came of a promise.

        Raises:
            TimeoutError: it did not come in time.
            NoReplica: the replica has ended, or none runs that could be waited for.
            WorkerFailed: whatever else Ray Serve says.
        """
        until_s = time.monotonic() + within_s
        while True:
            left_s = until_s - time.monotonic()
            try:
                return promised.result(timeout_s=max(min(left_s, LOOK_S), 0.0))
            except TimeoutError:
                if self.running and left_s > 0.0:
                    continue
                promised.cancel()
                if not self.running:
                    raise NoReplica(NONE) from None
                raise
            except self._ray.exceptions.RayActorError as error:
                raise NoReplica(_said(error)) from error
            except Exception as error:  # whatever Ray Serve raises
                raise WorkerFailed(_said(error)) from error

    def close(self) -> None:
        """End the replicas, and leave the cluster.  Twice is fine."""
        with self._closing:
            if self._closed.is_set():
                return
            self._closed.set()
            self.running = 0
            if self._watcher.is_alive():  # a look after we have left would make Ray Serve start a cluster
                self._watcher.join(LEAVE_S)
            if self._app:
                end(self._ray, self._serve, self._app)
            if self._leaves:
                self._ray.shutdown()
            elif self._owner is not None:
                self._ray.kill(self._owner)

    def _start_owner(self) -> None:
        """On this node, so that it ends with no other one."""
        here = self._ray.get_runtime_context().get_node_id()
        there = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        made = self._ray.remote(Owner).options(
            name=self._app, namespace=OWNERS, num_cpus=0, scheduling_strategy=there
        )
        self._owner = made.remote()
        self._ray.get(self._owner.here.remote(), timeout=self._wanted.start_s)

    def _deploy(self, until_s: float) -> None:
        wanted = self._wanted
        place, limits_s = (os.getcwd(), sys.path), (wanted.start_s, wanted.answer_s)
        with _one_by_one:
            deployment = self._serve.deployment(
                name=DEPLOYMENT,
                ray_actor_options={
                    "num_cpus": wanted.num_cpus,
                    "num_gpus": wanted.num_gpus,
                    "resources": dict(wanted.resources),
                },
                user_config={},  # else no replica is told to load what it begins with
                max_ongoing_requests=wanted.calls,
                max_constructor_retry_count=TRIES,
                health_check_period_s=HEALTH_S,
                graceful_shutdown_wait_loop_s=DRAIN_S,
                logging_config=QUIET,
                **wanted.scale,
            )(Replica)
            bound = deployment.bind(wanted.boots, wanted.most, *place, self._app, *limits_s)
            self._serve.start(proxy_location="Disabled", logging_config=QUIET)  # robots speak to us, not to it
            target = self._serve.RunTarget(bound, name=self._app, route_prefix=None)
            (self._handle,) = self._serve.run_many([target], wait_for_applications_running=False)
        self._await_running(until_s)

    def _await_running(self, until_s: float) -> None:
        """Until the replicas run.

        Raises:
            WorkerFailed: they do not.
        """
        while True:
            state = self._look()
            if state is None:
                raise WorkerFailed("the replicas do not run: somebody has ended them")
            if state.status == "RUNNING" and self.running:
                return
            if state.status == "DEPLOY_FAILED" or time.monotonic() > until_s:
                said = [state.message, *(each.message for each in state.deployments.values())]
                raise WorkerFailed(f"the replicas do not run ({state.status}): {'; '.join(filter(None, said))}")
            self._closed.wait(LOOK_S)

    def _watch(self) -> None:
        """Replicas go on without Ray Serve's controller: while it is out of reach, as many run as before."""
        while not self._closed.wait(LOOK_S):
            before = self.running
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  of whatever kind
                log.debug("%s: Ray Serve is out of reach: %s", self._app, error)
            if self.running != before and not self._closed.is_set():
                log.warning("%s: %d replicas run", self._app, self.running)

    def _look(self) -> Any:
        """How Ray Serve says that it is; None where there is no such application any more."""
        with _one_by_one:
            state = self._serve.status().applications.get(self._app)
        deployment = None if state is None else state.deployments.get(DEPLOYMENT)
        running = 0 if deployment is None else sum(deployment.replica_states.get(name, 0) for name in ANSWERING)
        self.running = 0 if self._closed.is_set() else running
        return state


NONE = "no replica of the policy runs; one is being started"


def scale(replicas: int, most: int | None, more_after_s: float, fewer_after_s: float) -> Mapping[str, Any]:
    """How many there are, as Ray Serve has it."""
    if most is None:
        return {"num_replicas": replicas}
    said = {
        "min_replicas": replicas,
        "initial_replicas": replicas,
        "max_replicas": most,
        "target_ongoing_requests": 1.0,
        "upscale_delay_s": more_after_s,
        "downscale_delay_s": fewer_after_s,
        "metrics_interval_s": LOAD_WINDOW_S / 4,
        "look_back_period_s": LOAD_WINDOW_S,
    }
    return {"autoscaling_config": said}


def _said(error: Exception) -> str:
    """What Ray says in one line; of an error in a replica what it was, without the way there."""
    cause = getattr(error, "cause", None)
    text = str(error) if cause is None else str(cause).rstrip().rpartition("\n")[2]
    return f"a replica gave no answer: {type(cause or error).__name__}: {' '.join(text.split())}"
