"""The actors of a fleet: one on each robot's node that starts its control loop, and a board of who does what."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from chunkwise import plugins
from chunkwise.cluster.guarded import Guarded

BOARD, ROBOT = "fleet ", "robot "
"""Before the names of a fleet and of a robot: its actor's name."""
GROUPS = {"news": 1}
"""Threads of a launcher beside the one that starts and ends."""
LEASE_S = 10.0
"""A robot of which nobody has asked news for so long is brought to its end: nobody could stop it any more."""
MAX_NEWS = 2048
INTERRUPTED = 130
"""Exit code of a robot that was told to end."""
OF_RAY = ("RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_WORKER_ID", "RAY_ADDRESS", "OMP_NUM_THREADS")
"""What Ray sets for its own processes, and what is not meant for a robot's."""


class Launcher:
    """Starts a robot's control loop on this node, as a program of its own, and ends it softly.

    Nothing of the loop is in the actor: whatever becomes of Ray, its robot is brought to a standstill.

    Args:
        folder: of whoever starts the fleet; the robot's program works there, where this node has it.
        path: of its modules; what is there on this node is looked through, too.
        lease_s: a robot of which nobody has asked for so long is brought to its end.
    """

    def __init__(self, folder: str, path: list[str], lease_s: float = LEASE_S) -> None:
        with suppress(OSError):
            os.chdir(folder)
        self._path = [place for place in path if os.path.isdir(place)]
        self._news: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MAX_NEWS)
        self._count, self._changed = 0, threading.Condition()
        self._lease_s, self._ending = lease_s, False
        self._robot: Guarded | None = None

    def where(self) -> dict[str, Any]:
        """The ``node`` that it is on, by Ray's id, and ``launcher``, the number of this process."""
        node = plugins.require("ray", extra="ray").get_runtime_context().get_node_id()
        return {"node": node, "launcher": os.getpid()}

    def start(self, config: str, env: Mapping[str, str]) -> None:
        """Start ``chunkwise run``, unless it was to end already.

        Args:
            config: its settings, YAML or JSON.
            env: what its environment has beside this node's.
        """
        if self._ending:
            self._tell({"ended": INTERRUPTED})
            return
        command = [sys.executable, "-m", "chunkwise", "run", "--config", "-", "--status-fd", "{status}"]
        env = {**self._environment(), **env}
        self._robot = Guarded(command, self._tell, stdin=config, env=env, lease_s=self._lease_s)

    def news(self, seen: int, wait_s: float) -> list[tuple[int, dict[str, Any]]]:
        """What is new since number `seen`, numbered; waits at most so long for it."""
        if self._robot is not None:
            self._robot.here()
        with self._changed:
            self._changed.wait_for(lambda: self._count > seen, wait_s)
            return [item for item in self._news if item[0] > seen]

    def end(self) -> None:
        """Have the robot ramp to a standstill and end; a second time at once."""
        self._ending = True
        if self._robot is not None:
            self._robot.end()

    def _tell(self, message: dict[str, Any]) -> None:
        with self._changed:
            self._count += 1
            self._news.append((self._count, message))
            self._changed.notify_all()

    def _environment(self) -> dict[str, str]:
        """The node's, with the modules of whoever started the fleet last."""
        kept = {name: value for name, value in os.environ.items() if name not in OF_RAY}
        return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [kept.get("PYTHONPATH"), *self._path]))}


class Board:
    """The newest status of each robot and policy of a fleet; it ends with whoever started the fleet.

    Args:
        fleet: its name.
        known: whose status it takes, by kind: ``robots`` and ``policies``.
    """

    def __init__(self, fleet: str, known: Mapping[str, Mapping[str, Any]]) -> None:
        self._fleet = fleet
        self._newest = {kind: {name: dict(about) for name, about in each.items()} for kind, each in known.items()}
        self._since_s = time.monotonic()

    def put(self, kind: str, statuses: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what changed, of those that are known."""
        for name, status in statuses.items():
            if name in self._newest[kind]:
                self._newest[kind][name] |= status

    def read(self) -> dict[str, Any]:
        """All of it."""
        return {"fleet": self._fleet, "up_s": round(time.monotonic() - self._since_s, 1), **self._newest}
