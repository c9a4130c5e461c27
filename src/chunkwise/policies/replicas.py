"""Copies of one policy on a Ray cluster, kept by Ray Serve: many robots ask a server, and the server asks them."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    PolicyTimedOut,
)
from chunkwise.contract.packing import Unpacker
from chunkwise.options import UsageError
from chunkwise.plugins import MissingExtra
from chunkwise.policies._models import Models, UnknownModel, Whereabouts
from chunkwise.workers import WorkerFailed
from chunkwise.workers._ray_client import amounts
from chunkwise.workers._ray_serve import NONE, Deployment, NoReplica, Wanted, scale
from chunkwise.workers._trees import answer_of, asked, error_of, kinds_tree, spec_of

__all__ = ["Replicas"]

if importlib.util.find_spec("ray") is None or importlib.util.find_spec("starlette") is None:
    raise MissingExtra("ray[serve] is not installed: pip install 'chunkwise[replicas]'")

SETTLE_S, AGAIN_S = 1.0, 0.05
"""Where a model is, Ray Serve's router hears a moment later; until then another replica may be asked, in vain."""


class Replicas:
    """A policy of which a cluster has several copies.

    ``chunkwise serve --policy replicas --policy.of my_policy.py:MyPolicy --policy.replicas 2`` speaks to robots
    over any wire.  What waits in the server goes out in one call for each replica that is free.

    Several models may share the replicas, ``--policy.models '{kitchen: checkpoint_a, bench: checkpoint_b}'``.
    Each request says by the entry ``model`` of its frame's task which one it is for.

    The policy must remember nothing from call to call: which replica answers is the cluster's choice.

    Args:
        of: the policy, by name, or a mapping of ``name`` and its options.
        models: in the place of `of`, several by their names; what a robot must know of them is the same.
        models_per_replica: as many of them at the same time; the one that was not asked for the longest time
            makes room.  By default all, so that none has to be loaded while robots wait.
        default_model: what requests are for that name no model; by default they are refused.
        replicas: how many; the least, where there may be more.
        most_replicas: as many while more is asked than they answer; by default always `replicas`.
        more_after_s: how long more has to be asked before there is another one.
        fewer_after_s: how long less.
        batch: requests in one call of the policy, at most; by default what the policy says.
        address: of the cluster, ``HOST:6379``; by default that of ``RAY_ADDRESS``, or the one that this computer
            belongs to.  ``local`` starts one that ends with this process.
        resources: custom resources of each replica's node, ``inference_pc`` or ``inference_pc=0.5``.
        num_gpus, num_cpus: of each replica.
        start_timeout_s: replicas that do not run by then are given up; a model takes no longer to be loaded.
        timeout_s: a call that takes longer is given up, and its replica replaced.

    Attributes:
        spec: the policy's; None where it has none.
        max_batch: requests in one call.
        calls_ahead: a call that is full may wait at the replicas; Ray Serve sees by it that there are too few.

    Raises:
        UsageError: there is no cluster, no node that has what is asked for, or a number is out of range.
        InterfaceValidationError: the policy remembers its client, or two models are not of one spec.
        WorkerFailed: the replicas do not run; the message has what the policy said.
    """

    calls_ahead = 1

    def __init__(
        self,
        *,
        of: Any = None,
        models: Any = None,
        models_per_replica: int | None = None,
        default_model: str = "",
        replicas: int = 1,
        most_replicas: int | None = None,
        more_after_s: float = 5.0,
        fewer_after_s: float = 60.0,
        batch: int | None = None,
        address: str | None = None,
        resources: tuple[str, ...] = (),
        num_gpus: float = 0.0,
        num_cpus: float = 1.0,
        start_timeout_s: float = 120.0,
        timeout_s: float = 60.0,
    ) -> None:
        if not 1 <= replicas <= (most_replicas or replicas) or (batch is not None and batch < 1):
            raise UsageError(
                "1 <= replicas <= most_replicas and 1 <= batch are needed, "
                f"got {replicas}, {most_replicas} and {batch}"
            )
        self._models = Models(of, models, default_model)
        recipes = self._models.recipes
        if models_per_replica is not None and not 1 <= models_per_replica <= len(recipes):
            raise UsageError(
                f"models_per_replica: from 1 to {len(recipes)}, the number of models; got {models_per_replica}"
            )
        most = models_per_replica or len(recipes)
        self._travel = most < len(recipes)
        self._whereabouts = Whereabouts()
        self._lock, self._awaited = threading.Lock(), set[str]()
        self._timeout_s, self._load_s = timeout_s, start_timeout_s
        at_once = (most_replicas or replicas) + len(recipes) if self._travel else 1
        threads = max(int(num_cpus), 1)
        self._deployment = Deployment(
            Wanted(
                title="+".join(recipes)[:64] if models else os.path.basename(next(iter(recipes.values())).name),
                boots={
                    name: {"recipe": recipe.to_dict(), "kinds": kinds_tree(), "threads": threads}
                    for name, recipe in recipes.items()
                },
                most=most,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                resources=amounts(resources),
                calls=at_once + self.calls_ahead,
                scale=scale(replicas, most_replicas, more_after_s, fewer_after_s),
                start_s=start_timeout_s,
                answer_s=timeout_s,
            ),
            address,
        )
        try:
            said = {name: self._said(name) for name in recipes}
            self.spec: PolicySpec | None = self._models.spec(
                {name: spec_of(one["spec"]) for name, one in said.items()}
            )
        except BaseException:
            self.close()
            raise
        self.max_batch: int = batch or min(one["max_batch"] for one in said.values())

    @property
    def calls_at_once(self) -> int:
        """Calls that may be made at the same time: one for each replica that runs, and what waits for a model."""
        return max(self._deployment.running, 1) + len(self._awaited)

    def kind_of(self, frame: Frame) -> str | None:
        """Requests of one call are for one model; None where it is not known."""
        return self._models.named(frame)

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        """One replica's answer.

        Raises:
            UnknownModel: the frame names no model that is there.
            PolicyTimedOut: there was none in time.
            WorkerFailed: no replica runs, or the one that was asked has ended and so has another one.
            Exception: of a kind of ours, or PolicyFailed: what the policy raised.
        """
        (answer,) = self.infer_many([(frame, request)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def infer_many(self, calls: Sequence[tuple[Frame, ChunkRequest]]) -> list[Any]:
        """The answers in the order of the calls; an exception for one that failed.  Each model is asked once."""
        answers: list[Any] = [None] * len(calls)
        places: dict[str, list[int]] = {}
        for place, (frame, _) in enumerate(calls):
            try:
                places.setdefault(self._models.of(frame), []).append(place)
            except UnknownModel as error:
                answers[place] = error
        if not self._deployment.running:
            return [each or NoReplica(NONE) for each in answers]
        trees = {name: [asked(*calls[place]) for place in each] for name, each in places.items()}
        promised = {name: self._send(name, each) for name, each in trees.items()}  # all, before one is waited for
        for name, each in places.items():
            for place, answer in zip(each, self._answers(name, trees[name], promised[name]), strict=True):
                answers[place] = answer
        return answers

    def session(self) -> Replicas:
        """Itself: calls leave nothing behind."""
        return self

    def close(self) -> None:
        """End the replicas, and leave the cluster.  Twice is fine."""
        self._deployment.close()

    def _said(self, name: str) -> dict[str, Any]:
        """What a model says of itself; each is made somewhere before anybody is served.

        Raises:
            InterfaceValidationError: it remembers its client.
            WorkerFailed: it cannot be made, or not in time.
        """
        promised = self._deployment.ask("made", name, model=name if self._travel else "")
        try:
            (packed,) = self._heard(promised, self._load_s)
        except TimeoutError:
            raise WorkerFailed(f"{name}: not loaded within {self._load_s:g} s") from None
        said = Unpacker()(memoryview(packed))
        if said["remembers"]:
            raise InterfaceValidationError(
                f"policy {self._models.recipes[name].name} remembers its client from call to call, or takes from "
                "its robot what its options do not say (a checkpoint: state, and actions as NAME:KIND:DIM), and "
                "replicas share their clients; serve it with --worker ray, which has one of it"
            )
        return said

    def _send(self, name: str, trees: Sequence[Any]) -> Any:
        """Ask for what is there; None for a model that has to be loaded first."""
        if self._travel and not self._whereabouts.has(name):
            return None
        return self._deployment.ask("infer_together", trees, name, False, model=name if self._travel else "")

    def _answers(self, name: str, trees: Sequence[Any], promised: Any) -> list[Any]:
        """What came of requests for a model, or why nothing did."""
        try:
            return self._told(name, trees, promised)
        except NoReplica as error:
            if self._deployment.running < 2:
                return [error for _ in trees]
        except (TimeoutError, WorkerFailed) as error:
            return [self._problem(error) for _ in trees]
        # Which of them it died of is not known: each is asked again, alone, of the other replicas.
        return [
            self._answer_alone(name, tree, again)
            for tree, again in [(one, self._send(name, [one])) for one in trees]
        ]

    def _answer_alone(self, name: str, tree: Any, promised: Any) -> Any:
        try:
            return self._told(name, [tree], promised)[0]
        except (TimeoutError, WorkerFailed) as error:
            return self._problem(error)

    def _told(self, name: str, trees: Sequence[Any], promised: Any) -> list[Any]:
        """What a replica answered.

        Raises:
            TimeoutError: nothing, in time.
            WorkerFailed: it did not.
        """
        answers, until_s = None, time.monotonic() + SETTLE_S
        while answers is None and promised is not None:
            answers = self._heard(promised, self._timeout_s)
            if answers is None:
                if time.monotonic() > until_s:
                    self._whereabouts.lost(name)
                time.sleep(AGAIN_S)
                promised = self._send(name, trees)
        if answers is None:
            with self._awaiting(name):
                promised = self._deployment.ask("infer_together", trees, name, True, model=name)
                answers = self._heard(promised, self._load_s + self._timeout_s)
        return [_answer(data) for data in answers]

    def _heard(self, promised: Any, within_s: float) -> Any:
        """What a replica has for us, None where the model was not there; and where models are."""
        replica, there, packed = self._deployment.result(promised, within_s)
        self._whereabouts.learn(replica, there)
        return packed

    @contextmanager
    def _awaiting(self, name: str) -> Iterator[None]:
        """While one call waits for a model, there is room for another one beside it, and further ones are errors.

        Raises:
            WorkerFailed: another one waits for it already.
        """
        with self._lock:
            if name in self._awaited:
                raise WorkerFailed(f"model {name!r} is being loaded")
            self._awaited.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._awaited.discard(name)

    def _problem(self, error: Exception) -> Exception:
        if isinstance(error, TimeoutError):
            return PolicyTimedOut(f"no answer within {self._timeout_s:g} s")
        return error


def _answer(data: bytes) -> Any:
    """Of a packed tree: the policy's answer, or its error."""
    message = Unpacker()(memoryview(data))
    if "error" in message:
        return error_of(message["error"])
    try:
        answer = answer_of(message["answer"])
    except Exception as error:  # noqa: BLE001  one request's answer that is none is not another's
        return InterfaceValidationError(f"the policy gave no answer: {type(error).__name__}: {error}")
    if message["left_out"] and isinstance(answer, ActionChunk):
        answer.meta["left_out"] = message["left_out"]
    return answer
