"""The inference process of a policy on a Ray cluster: it is Ray's driver, and the policy's actor is its own.

Ray ends a driver that loses its node, and a robot must not end with it: so the driver is the inference process,
never the program that has the control loop.  It ends itself when the actor ends, however that came about; its
keeper starts another one, with an actor of its own, and whoever asked has an error at once.  When the program or
the process ends, Ray ends the actor.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyFailed, PolicySpec, RobotSpec, spec_to_dict
from chunkwise.contract.errors import nearest
from chunkwise.contract.packing import Unpacker
from chunkwise.options import UsageError
from chunkwise.workers._process import POOLS
from chunkwise.workers._ray_actor import GROUPS, PolicyActor
from chunkwise.workers._trees import answer_of, asked, error_of, kinds_tree, spec_of

NAMESPACE = "chunkwise"
"""Of the actors' names."""
CLOSE_S = 1.0
"""How long the policy's `close` is waited for."""
REACH_S = 5.0
"""How long a cluster's address is tried."""
ROOM = 0.5
"""The part of a start that may pass until there is room."""
LOST = 75
"""Exit code of a process whose actor has gone; EX_TEMPFAIL."""


class ActorFailed(RuntimeError):
    """The policy could not be made in its actor."""


class Conversation:
    """What one client says to the policy.

    It has ``meet``, ``warmup``, ``reset`` and ``session`` where the policy has them.

    Args:
        actor: of the policy.
        number: of the conversation; 0 is the policy itself.
        made: what the actor said when it had made the policy.
    """

    def __init__(self, actor: Actor, number: int, made: Mapping[str, Any]) -> None:
        self._actor, self._number, self._made = actor, number, made
        self.spec: PolicySpec | None = spec_of(made["spec"])
        offered = {"meet": self._meet, "warmup": self._warm_up, "reset": self._reset, "session": self._session}
        for name in offered.keys() & set(made["has"]):
            setattr(self, name, offered[name])

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        """The policy's answer.

        Raises:
            Exception: the policy raised, or its actor has ended.
        """
        message = self._actor.infer({"of": self._number, "asked": asked(frame, request)})
        answer = answer_of(message["answer"])
        if message["left_out"] and isinstance(answer, ActionChunk):
            answer.meta["left_out"] = message["left_out"]
        return answer

    def close(self) -> None:
        """Of a conversation: it is over."""
        self._actor.ask("leave", aside=True, conversation=self._number)

    def _meet(self, robot: RobotSpec) -> None:
        said = self._actor.ask(
            "meet", aside=bool(self._number), robot=spec_to_dict(robot), conversation=self._number
        )
        self.spec = spec_of(said["spec"])

    def _warm_up(self) -> None:
        self._actor.ask("warmup", conversation=self._number)

    def _reset(self) -> None:
        self._actor.ask("reset", conversation=self._number)

    def _session(self) -> Conversation:
        return Conversation(self._actor, next(_numbers), self._made)


_numbers = itertools.count(1)


class PolicyOnRay(Conversation):
    """A policy that is made on a Ray cluster.

    Args:
        recipe: of the policy, as plain values.
        address: of the cluster, as Ray has it; ``local`` starts one that ends with this process.
        resources: custom resources of the node, ``name`` or ``name=amount``.
        num_gpus, num_cpus: GPUs and cores that Ray sets aside.
        actor: the actor's name.
        threads: size of the actor's thread pools; None leaves them to Ray, which goes by `num_cpus`.
        start_timeout_s: half of it is for room on the cluster; the process is given up after all of it.

    Raises:
        UsageError: a resource's amount is no number, there is no cluster, or no node that has what is asked for.
        ActorFailed: the policy could not be made; the message has the actor's traceback.
    """

    def __init__(
        self,
        recipe: Any,
        *,
        address: str | None = None,
        resources: tuple[str, ...] = (),
        num_gpus: float = 0.0,
        num_cpus: float = 1.0,
        actor: str = "",
        threads: int | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        wanted = {name: amount for name, amount in {"CPU": num_cpus, "GPU": num_gpus}.items() if amount}
        custom = amounts(resources)
        ray = joined(address)
        require_node({**wanted, **custom}, [node for node in ray.nodes() if node["Alive"]])
        name = actor or f"{os.path.basename(recipe['name'])}@{socket.gethostname()}-{os.getpid()}"
        settings: dict[str, Any] = {
            "name": name,
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "resources": custom,
            "max_restarts": 0,  # a new one is told everything again: the keeper's part, not Ray's
        }
        if threads is not None:
            settings["runtime_env"] = {"env_vars": dict.fromkeys(POOLS, str(threads))}
        reached = Actor(ray, settings, ROOM * start_timeout_s)
        pool = threads or max(int(num_cpus), 1)
        try:
            made = reached.ask("make", recipe=recipe, kinds=kinds_tree(), threads=pool, slots=0)
        except PolicyFailed as error:  # none of ours; a ValueError, and to be no mistake in the options
            raise ActorFailed("\n".join([str(error), *getattr(error, "__notes__", ())])) from None
        super().__init__(reached, 0, made)

    def close(self) -> None:
        """Let the policy go, and leave the cluster."""
        self._actor.close()


class Actor:
    """The actor, asked and watched.

    Args:
        ray: the module, which has joined a cluster.
        settings: of the actor, as Ray has them.
        room_s: how long room for it is waited for.

    Raises:
        UsageError: there was no room, or the name is taken.
    """

    def __init__(self, ray: Any, settings: dict[str, Any], room_s: float) -> None:
        self._ray, self._unpack, self._closing = ray, Unpacker(), False
        remote = ray.remote(concurrency_groups=GROUPS)(PolicyActor)
        try:
            self._actor = remote.options(**settings).remote(os.getcwd(), sys.path)
            ray.get(self._actor.node.remote(), timeout=room_s)
        except ValueError as error:  # the name
            raise UsageError(f"the actor {settings['name']!r}: {error}") from None
        except ray.exceptions.GetTimeoutError:
            raise UsageError(
                f"no room on the cluster for the policy within {room_s:g} s: others use what it has; "
                f"free are {_listed(ray.available_resources())}"
            ) from None
        threading.Thread(target=self._watch, name="chunkwise-actor", daemon=True).start()

    def ask(self, call: str, *, aside: bool = False, **arguments: Any) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Args:
            call: of `_child.py`.
            aside: it does not wait for an inference.
            **arguments: of the call.

        Raises:
            Exception: what went wrong there, or why there is no actor any more.
        """
        method = self._actor.ask.options(concurrency_group="aside") if aside else self._actor.ask
        return self._answer(method.remote({"call": call, "id": 0, **arguments}))

    def infer(self, call: dict[str, Any]) -> dict[str, Any]:
        """One inference.

        Raises:
            Exception: as :meth:`ask`.
        """
        return self._answer(self._actor.infer.remote(call))

    def _answer(self, promised: Any) -> dict[str, Any]:
        try:
            # Whoever waits for this process has a time-out, and ends it.
            message = self._unpack(memoryview(self._ray.get(promised)))
        except self._ray.exceptions.RayActorError as error:  # it has ended, or cannot be reached
            self._lost(error)
            raise
        if "error" in message:
            raise error_of(message["error"])
        return message

    def _watch(self) -> None:
        """The end of the actor is the end of this process; with it Ray ends an actor that was out of reach."""
        try:
            self._ray.get(self._actor.lives.options(concurrency_group="life").remote())
        except Exception as error:  # noqa: BLE001  of whatever kind: there is no actor
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        if not self._closing:
            os.write(2, f"the policy's actor is gone: {_text(error)}\n".encode())
            os._exit(LOST)

    def close(self) -> None:
        """End the actor, and leave the cluster."""
        self._closing = True
        with suppress(Exception):
            self._ray.get(self._actor.close.remote(), timeout=CLOSE_S)  # behind an inference that runs
        self._ray.kill(self._actor)
        self._ray.shutdown()


def joined(address: str | None, flag: str = "--worker.address") -> Any:
    """The module ray, once this process belongs to a cluster.

    Args:
        address: of the cluster, as Ray has it.
        flag: what says it on the command line, for messages.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: there is no cluster there, or it does not let us in.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = plugins.require("ray", extra="ray")
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hint = ""
    try:
        _require_somebody(address)
        if address not in (None, "local"):
            # Ray does not say; and to an address that it is told it shows no token unless it is told that, too.
            hint = " (a cluster with a token: RAY_AUTH_MODE=token, and is that in ~/.ray/auth_token its token?)"
        ray.init(address=address or "auto", namespace=NAMESPACE, logging_level="error", include_dashboard=None)
    except Exception as error:
        where = f"at {address}" if address else "here"
        raise UsageError(
            f"cannot join a Ray cluster {where}: {_text(error)}{hint}; `ray start --head` starts one, "
            f"{flag} HOST:6379 says where it is, {flag} local has one for this run alone"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ray has left them alone
            for number, handler in handlers.items():  # what a signal means is the program's business
                signal.signal(number, handler)
    return ray


def _require_somebody(address: str | None) -> None:
    """See that somebody listens at HOST:PORT; Ray itself looks for a minute and more.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), REACH_S).close()


def amounts(resources: tuple[str, ...]) -> dict[str, float]:
    """Custom resources by name.

    Raises:
        UsageError: an amount is no number above 0.

    >>> amounts(("inference_pc", "arm=0.5"))
    {'inference_pc': 1.0, 'arm': 0.5}
    """
    made = {}
    for item in resources:
        name, _, amount = item.partition("=")
        try:
            made[name] = float(amount or 1.0)
        except ValueError:
            made[name] = 0.0
        if not name or not 0.0 < made[name] < float("inf"):
            raise UsageError(f"resources: {item!r} is neither a name nor name=amount with an amount above 0")
    return made


def require_node(wanted: Mapping[str, float], nodes: list[dict[str, Any]]) -> None:
    """See that some node has what is asked for, free or not.

    Args:
        wanted: amounts by name.
        nodes: those that live, as ``ray.nodes()`` lists them.

    Raises:
        UsageError: none has; the message says what there is.
    """
    has = [node["Resources"] for node in nodes]
    if any(all(there.get(name, 0.0) >= amount for name, amount in wanted.items()) for there in has):
        return
    known = sorted({name for there in has for name in there if not name.startswith("node:")})
    meant = "".join(nearest(name, known) for name in wanted if name not in known)
    listed = "; ".join(f"{node['NodeManagerAddress']}: {_listed(node['Resources'])}" for node in nodes)
    raise UsageError(
        f"no node of the Ray cluster has {_listed(wanted)}{meant}; there are {listed}.  A node says what it has "
        "when it joins: ray start --address=HOST:6379 --resources='{\"inference_pc\": 1}'"
    )


def _listed(resources: Mapping[str, float]) -> str:
    """Resources for people."""
    shown = []
    for name, amount in sorted(resources.items()):
        if name == "memory":
            shown.append(f"memory {amount / (1 << 30):.1f} GiB")
        elif not name.startswith(("node:", "object_store")):
            shown.append(f"{name} {amount:g}")
    return ", ".join(shown) or "none"


def _text(error: BaseException) -> str:
    """What Ray says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
