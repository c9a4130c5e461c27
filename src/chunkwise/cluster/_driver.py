"""A fleet's driver on a Ray cluster, a process between ``chunkwise up`` and Ray, which ends a driver as it likes.

Lines of JSON come in: first the fleet, then which robot to start, to end them, and that somebody is there.  Lines
of JSON go out: that it has joined, and each robot's news.  The end of what comes in, or silence, means the end of
everything.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from chunkwise import plugins
from chunkwise.cluster._actors import BOARD, GROUPS, LEASE_S, ROBOT, Board, Launcher
from chunkwise.cluster.guarded import GRACE_S, OVERDUE_S, whole
from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError
from chunkwise.workers._ray_client import NAMESPACE, amounts, joined, require_node

OF_OTHERS = ("RAY_AUTH_MODE",)
"""What the environment of others that join the same cluster must have, too; Ray finds it out for itself alone."""
ROOM_S = 20.0
NEWS_S = 1.0
BOARD_S = 0.5


class Driver:
    """What is done on the cluster for one fleet.

    Args:
        boot: ``fleet`` (its name), ``address``, ``robots`` and ``policies`` (where each is to run), ``resources``
            and ``num_cpus`` (of a cluster that is made here).
        out: where the news go.

    Raises:
        UsageError: there is no cluster, no node that has what is asked for, or such a fleet runs already.
    """

    def __init__(self, boot: Mapping[str, Any], out: int) -> None:
        self._lock, self._telling, self._out = threading.Lock(), threading.Lock(), out
        self._boot, self._ray = boot, self._join(boot)
        self._launchers: dict[str, Any] = {}
        self._ending = False
        self._following: list[threading.Thread] = []
        self._statuses: dict[str, dict[str, dict[str, Any]]] = {"robots": {}, "policies": {}}
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        for plan in boot["policies"].values():
            require_node({**plan["wanted"], **amounts(tuple(plan["resources"]))}, nodes)
        own = self._ray.get_runtime_context().get_node_id()
        self._places = {name: placed(plan, nodes, own) for name, plan in boot["robots"].items()}
        known = {
            "robots": {
                name: {"state": "starting", "policy": plan["policy"]} for name, plan in boot["robots"].items()
            },
            "policies": {name: {"replicas": plan["replicas"]} for name, plan in boot["policies"].items()},
        }
        self._board = self._named(Board, f"{BOARD}{boot['fleet']}", {"num_cpus": 0}, own, (boot["fleet"], known))
        try:
            self._ray.get(self._board.read.remote(), timeout=ROOM_S)
        except self._ray.exceptions.GetTimeoutError:
            raise UsageError(f"the cluster starts no actor within {ROOM_S:g} s") from None
        here = next(node for node in nodes if node["NodeID"] == own)
        address = self._ray.get_runtime_context().gcs_address
        env = {name: os.environ[name] for name in OF_OTHERS if name in os.environ}
        self.tell({"joined": {"address": address, "host": here["NodeManagerAddress"], "env": env}})

    def _join(self, boot: Mapping[str, Any]) -> Any:
        if boot["address"] != "local":
            return joined(boot["address"], "--address")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = plugins.require("ray", extra="ray")
        before = os.umask(0o077)  # Ray writes the token for everybody to read
        try:
            ray.init(
                address="local",
                namespace=NAMESPACE,
                logging_level="error",
                include_dashboard=False,
                resources=boot["resources"],
                num_cpus=boot["num_cpus"],
                log_to_driver=False,
            )
        finally:
            os.umask(before)
        return ray

    def _named(
        self, kind: type, name: str, settings: dict[str, Any], node: str, arguments: tuple[Any, ...]
    ) -> Any:
        """An actor on a node, or on whichever has its resources."""
        if node:
            strategies = importlib.import_module("ray.util.scheduling_strategies")
            settings["scheduling_strategy"] = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self._ray.remote(concurrency_groups=GROUPS)(kind)
        try:
            return remote.options(name=name, max_restarts=0, **settings).remote(*arguments)
        except ValueError as error:
            if "already taken" not in str(error):
                raise UsageError(f"{name}: {error}") from None
            raise UsageError(
                f"{name} runs on this cluster already: `chunkwise status` shows it; another one needs another name"
            ) from None

    def start(self, name: str, config: str, env: Mapping[str, str]) -> None:
        """Start a robot's control loop on its node, and follow it; how that went is in the news."""
        thread = threading.Thread(
            target=self._follow, args=(name, config, env), name=f"chunkwise-{name}", daemon=True
        )
        self._following.append(thread)
        thread.start()

    def end(self) -> None:
        """Have every robot end."""
        self._ending = True
        for launcher in list(self._launchers.values()):
            with suppress(Exception):  # one that has gone has ended its robot
                launcher.end.remote()

    def put(self, kind: str, statuses: Mapping[str, Mapping[str, Any]]) -> None:
        """The newest status of some; it is on the board in a moment."""
        with self._lock:
            for name, status in statuses.items():
                self._statuses[kind].setdefault(name, {}).update(status)

    def show(self) -> None:
        """Put what is new on the board."""
        with self._lock:
            fresh, self._statuses = self._statuses, {"robots": {}, "policies": {}}
        for kind, statuses in fresh.items():
            if statuses:
                with suppress(Exception):  # without a board nobody sees it; the robots go on
                    self._board.put.remote(kind, statuses)

    def leave(self) -> None:
        """Wait for the robots that end, and leave the cluster."""
        until_s = time.monotonic() + GRACE_S + OVERDUE_S + 2 * NEWS_S
        for thread in self._following:
            thread.join(max(until_s - time.monotonic(), 0.0))
        self._ray.shutdown()

    def tell(self, message: Mapping[str, Any]) -> None:
        """News for whoever started this; there may be nobody any more."""
        words = json.dumps(message, default=str).encode() + b"\n"
        with self._telling, suppress(OSError):
            while words:
                words = words[os.write(self._out, words) :]

    def _follow(self, name: str, config: str, env: Mapping[str, str]) -> None:
        resources, node = self._places[name]
        last: dict[str, Any] = {}
        try:
            launcher = self._named(
                Launcher,
                f"{ROBOT}{name}",
                {"num_cpus": 0, "resources": resources},
                node,
                (os.getcwd(), sys.path),
            )
            self._launchers[name] = launcher
            if self._ending:  # said after the others were told
                launcher.end.remote()
            try:
                self.put("robots", {name: self._ray.get(launcher.where.remote(), timeout=ROOM_S)})
            except self._ray.exceptions.GetTimeoutError:
                raise UsageError(
                    f"no room for it within {ROOM_S:g} s: others use {resources or 'its node'}"
                ) from None
            self._ray.get(launcher.start.remote(config, dict(env)))
            news, seen = launcher.news.options(concurrency_group="news"), 0
            while "ended" not in last:
                for number, last in self._ray.get(news.remote(seen, NEWS_S), timeout=LEASE_S):
                    seen = number
                    self._tell_of(name, last)
        except self._ray.exceptions.GetTimeoutError:
            self._tell_of(name, {"lost": f"its launcher does not answer within {LEASE_S:g} s: it ends by itself"})
        except UsageError as error:
            self._tell_of(name, {"lost": str(error)})
        except Exception as error:  # noqa: BLE001  of whatever kind: there is no launcher any more
            self._tell_of(name, {"lost": f"its launcher is gone: {' '.join(str(error).split())}"})
        finally:
            launcher = self._launchers.pop(name, None)
            if launcher is not None:
                with suppress(Exception):
                    self._ray.kill(launcher)

    def _tell_of(self, name: str, message: Mapping[str, Any]) -> None:
        self.tell({"robot": name, **message})
        status = message.get("status")
        if isinstance(status, Mapping) and "state" in status:
            self.put("robots", {name: status})
        elif "pid" in message:
            self.put("robots", {name: message})
        elif "ended" in message or "lost" in message:
            self.put("robots", {name: {"state": "stopped", "rate_hz": None, **message}})


def placed(plan: Mapping[str, Any], nodes: list[dict[str, Any]], own: str) -> tuple[dict[str, float], str]:
    """The custom resources of a robot's launcher, and its node's id; empty for whichever has the resources.

    Args:
        plan: ``node`` and ``resources``.
        nodes: those that live, as ``ray.nodes()`` lists them.
        own: id of the node that a robot is on that names neither.

    Raises:
        UsageError: there is no such node, or none that has the resources.
    """
    resources, wanted = amounts(tuple(plan["resources"])), plan["node"]
    if wanted:
        names = ("NodeManagerAddress", "NodeManagerHostname", "NodeName", "NodeID")
        found = [node for node in nodes if wanted in (node.get(name) for name in names)]
        if not found:
            known = sorted({str(node[name]) for node in nodes for name in names[:2] if node.get(name)})
            raise UsageError(
                f"no node {wanted!r}{nearest(wanted, known)} in the cluster; there are: {', '.join(known)}"
            )
        require_node(resources, found)
        return resources, next(
            str(node["NodeID"])
            for node in found
            if all(node["Resources"].get(name, 0.0) >= amount for name, amount in resources.items())
        )
    require_node(resources, nodes)
    return resources, "" if resources else own


def _read(lines: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for message in whole(sys.stdin):
        lines.put(message)
    lines.put(None)


def main() -> None:
    """Join, and do what comes in until nothing does any more."""
    out = os.dup(1)
    os.dup2(2, 1)  # what Ray prints is no news
    boot = next(whole(sys.stdin), None)
    if boot is None:  # nobody asks any more
        return
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), name="chunkwise-asked", daemon=True).start()
    try:
        driver = Driver(boot, out)
    except (UsageError, plugins.MissingExtra) as error:
        os.write(out, json.dumps({"refused": str(error)}).encode() + b"\n")
        return
    next_s = heard_s = time.monotonic()
    while time.monotonic() - heard_s < LEASE_S:
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + BOARD_S
            driver.show()
        try:
            asked = lines.get(timeout=max(next_s - time.monotonic(), 0.0))
        except queue.Empty:
            continue
        if asked is None:
            break
        heard_s = time.monotonic()
        if "start" in asked:
            driver.start(asked["start"], asked["config"], asked["env"])
        elif "end" in asked:
            driver.end()
        elif "policies" in asked:
            driver.put("policies", asked["policies"])
        else:
            driver.tell({"here": True})
    driver.end()
    driver.leave()


if __name__ == "__main__":
    main()
