"""What runs on a cluster: fleets, with their robots and policies, other actors of ours, and nodes."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

from chunkwise.cluster._actors import BOARD, ROBOT
from chunkwise.options import UsageError
from chunkwise.workers._ray_client import NAMESPACE, joined

ANSWER_S = 5.0
OF_SERVE = "SERVE_"
"""Before the names of Ray Serve's own actors."""


def read_status(address: str | None) -> dict[str, Any]:
    """Everything that is known, as plain values.

    Args:
        address: of the cluster, ``HOST:6379``; None for the one that this computer belongs to.

    Returns:
        ``address``; ``nodes``, each with ``id``, ``address``, ``host``, ``resources`` and ``free``; ``fleets``,
        each with its ``robots`` and ``policies``; ``actors``: names of policies that robots have alone.

    Raises:
        UsageError: there is no cluster; the message says how to start or name one.
    """
    if address == "local":
        raise UsageError("--address local: a cluster of this process's own has nothing to show")
    ray = joined(address, "--address")
    try:
        names = [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["namespace"] == NAMESPACE and not actor["name"].startswith(OF_SERVE)
        ]
        fleets = []
        for name in sorted(each for each in names if each.startswith(BOARD)):
            with suppress(Exception):  # one that ends meanwhile
                board = ray.get_actor(name, namespace=NAMESPACE)
                fleets.append(_counted(ray.get(board.read.remote(), timeout=ANSWER_S)))
        actors = sorted(name for name in names if not name.startswith((BOARD, ROBOT)))
        return {
            "address": ray.get_runtime_context().gcs_address,
            "nodes": _nodes(ray),
            "fleets": fleets,
            "actors": actors,
        }
    finally:
        ray.shutdown()


def _nodes(ray: Any) -> list[dict[str, Any]]:
    free = importlib.import_module("ray._private.state").available_resources_per_node()
    return [
        {
            "id": node["NodeID"],
            "address": node["NodeManagerAddress"],
            "host": node["NodeManagerHostname"],
            "resources": _shown(node["Resources"]),
            "free": _shown(free.get(node["NodeID"], {})),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def _shown(resources: dict[str, float]) -> dict[str, float]:
    return {
        name: round(amount, 3)
        for name, amount in sorted(resources.items())
        if not name.startswith(("node:", "object_store", "memory"))
    }


def _counted(board: dict[str, Any]) -> dict[str, Any]:
    """A board with what is to be counted: copies of policies, and the requests to those that robots have alone."""
    for name, policy in board["policies"].items():
        users = [robot for robot in board["robots"].values() if robot["policy"] == name]
        if policy["replicas"] is None:
            policy["replicas"] = sum(robot["state"] not in ("starting", "stopped") for robot in users)
            policy["requests"] = sum(robot.get("requests", 0) for robot in users)
        else:
            policy["replicas"] = policy.get("at_once", 0)
    return board
