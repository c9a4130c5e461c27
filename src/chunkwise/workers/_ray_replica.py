"""One of several copies in a deployment of Ray Serve: of one policy, or of several models that share it."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from chunkwise import plugins
from chunkwise.contract.packing import Packed
from chunkwise.workers._ray_model import Closed, Hosted, Model

OWNERS = "chunkwise-owners"
"""The namespace of owners; whoever is there has replicas, or is about to."""
AGAIN_S = 1.0
"""An owner that is out of reach is tried again after so long."""


class Owner:
    """Lives as long as the process that asks the replicas, which Ray Serve by itself would let outlive it."""

    def here(self) -> None:
        """Returns once there is an owner."""

    def lives(self) -> None:
        """Never returns: whoever waits for it learns of the end."""
        threading.Event().wait()


class Answers(NamedTuple):
    """What a replica answers.

    Attributes:
        replica: which one.
        there: the models that it has.
        packed: the answers; None where the model was not there.
    """

    replica: str
    there: list[str]
    packed: list[bytes] | None


class Replica:
    """Has models, as many as there is room for, and asks the one that a request is for.

    The models that it has are those of Ray Serve's own multiplexing: the one that was not asked for the longest
    time makes room, and requests for a model go where it is.

    Args:
        boots: of a call ``make``, by the models' names.
        most: models at the same time.
        folder, path: as of :class:`PolicyActor`.
        app: name of the application in Ray Serve, which is ended when its :class:`Owner` ends; empty for neither.
        make_s: a replica whose model takes longer to make ends itself.
        answer_s: one whose model takes longer to answer does.
    """

    def __init__(
        self,
        boots: Mapping[str, Mapping[str, Any]],
        most: int,
        folder: str,
        path: list[str],
        app: str,
        make_s: float,
        answer_s: float,
    ) -> None:
        self._id = uuid.uuid4().hex
        self._there: dict[str, Hosted] = {}
        self._loads: dict[str, asyncio.Future[Hosted]] = {}
        self._boots, self._most, self._place = boots, most, (folder, path)
        self._turn, self._limits_s = threading.Lock(), (make_s, answer_s)
        if app:
            threading.Thread(target=_end_with, args=(app,), name="chunkwise-owner", daemon=True).start()

        async def made(name: str) -> Hosted:
            return await self._make(name)

        self._serve = plugins.require("ray.serve", extra="replicas")
        self._kept = self._serve.multiplexed(max_num_models_per_replica=most)(made)

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Load what there is room for; Ray Serve waits for it before it says that the replica runs.

        Of more models than there is room for, each replica begins with others, and one that takes the place of
        another one with the same.

        Raises:
            RuntimeError: a policy cannot be made; the text is its traceback.
        """
        rank = self._serve.get_replica_context().rank
        names, first = list(self._boots), 0 if rank is None else rank.rank * self._most
        for index in range(min(self._most, len(names))):
            await self._model(names[(first + index) % len(names)])

    async def made(self, name: str) -> Answers:
        """What a model says of itself, as a packed tree; loaded, where it is not."""
        said = b"".join(Packed(await (await self._model(name)).said()).buffers)
        return Answers(self._id, list(self._there), [said])

    async def infer_together(self, trees: Sequence[Mapping[str, Any]], name: str, waits: bool) -> Answers:
        """The answers of a model to some requests, an error as one, as packed trees.

        Args:
            trees: the requests.
            name: of the model.
            waits: until it is loaded, where it is not there; else there is no answer then.
        """
        answers = None
        while answers is None and (waits or name in self._there):
            with suppress(Closed):  # it made room between the two
                answers = await (await self._model(name)).answers(trees)
        return Answers(self._id, list(self._there), answers)

    def __del__(self) -> None:  # what Ray Serve calls at the end
        for hosted in list(self._there.values()):
            hosted.close()

    async def _model(self, name: str) -> Hosted:
        """The model, as the one that was asked for last."""
        if name in self._there:
            kept: Hosted = await self._kept(name)
            return kept
        return await asyncio.shield(self._load(name))  # who gives up waiting ends it for nobody else

    def _load(self, name: str) -> asyncio.Future[Hosted]:
        """One load for all who wait for it."""
        loading = self._loads.get(name)
        if loading is None:
            loading = self._loads[name] = asyncio.ensure_future(self._kept(name))
            loading.add_done_callback(lambda done: (self._loads.pop(name), done.cancelled() or done.exception()))
        return loading

    async def _make(self, name: str) -> Hosted:
        """What Ray Serve calls for a model that is not there."""
        hosted = Hosted(self._turn, *self._limits_s, lambda: self._there.pop(name, None))
        try:
            await hosted.make(lambda: Model(self._boots[name], *self._place))
        except BaseException:
            hosted.close()
            raise
        self._there[name] = hosted
        return hosted


def _end_with(app: str) -> None:
    """End the application when its owner has ended; each of its replicas does."""
    ray, serve = plugins.require("ray", extra="replicas"), plugins.require("ray.serve", extra="replicas")
    gone = ray.exceptions.ActorDiedError, ValueError  # it has ended; nobody has that name any more
    while True:
        try:
            ray.get(ray.get_actor(app, OWNERS).lives.remote())
        except gone:
            break
        except Exception:  # noqa: BLE001  out of reach for now
            time.sleep(AGAIN_S)
    end(ray, serve, app)


def end(ray: Any, serve: Any, app: str) -> None:
    """End an application, with Ray Serve where nobody else needs it.

    Whoever calls it may be of the application, and ends on the way: what there is to do is said in one word.
    """
    with suppress(Exception):  # another one was quicker
        named = ray.util.list_named_actors(all_namespaces=True)
        owners = {each["name"] for each in named if each["namespace"] == OWNERS}
        if (owners | serve.status().applications.keys()) - {app}:
            serve.delete(app)
        else:
            serve.shutdown()
