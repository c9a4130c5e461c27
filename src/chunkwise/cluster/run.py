"""One run of a fleet: everything started from here, followed, and brought to its end.

This process is no part of the cluster; its driver is a process of its own, so that whatever becomes of Ray is told
here, and the end of this process, by ``kill -9`` too, is the end of all that it started.
"""

from __future__ import annotations

import functools
import json
import math
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from chunkwise.cluster.fleet import Fleet, PolicyPlan
from chunkwise.cluster.guarded import GRACE_S, Guarded, whole, write
from chunkwise.contract import PolicyFailed
from chunkwise.options import UsageError
from chunkwise.workers._ray_client import amounts

LOOK_S = 0.1
BACK_OFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Before a server that ended is started again, after so many in a row; the last one repeats."""
LEAVE_S = 10.0
HERE_S = 1.0
"""The driver is told so often that somebody is there, and says the same."""
ASK_S = 5.0
SILENT_S = 10.0
"""A driver that takes nothing in for `ASK_S`, or says nothing for this, is killed, and robots end by themselves.
A server that was ready and says nothing for so long is killed, too, and started again."""
TOKEN = "CHUNKWISE_TOKEN"
DRIVER = ""
"""Where news are of that are no policy's."""


class FleetFailed(PolicyFailed):
    """The fleet could not be started; the message says why."""


@dataclass(slots=True)
class Outcome:
    """How a robot's run ended.

    Attributes:
        code: its exit code, negative for a signal; None for one that was lost from sight, and ends by itself.
        why: what is known beside it; empty for nothing.
        report: of the run, as `Report.to_dict` has it; None where there is none.
    """

    code: int | None = None
    why: str = ""
    report: dict[str, Any] | None = None


class Served:
    """A policy's replicas, and the server that robots reach them by; it is started again when it ends.

    Args:
        plan: the policy.
        command: the server's, for an address to listen at.
        host: where it listens.
        env: its environment.
        news: told what it says.
    """

    def __init__(
        self,
        plan: PolicyPlan,
        command: Callable[[str], list[str]],
        host: str,
        env: Mapping[str, str],
        news: Callable[[dict[str, Any]], None],
    ) -> None:
        self.plan, self._command, self._env, self._news = plan, command, env, news
        self._listen = f"{host}:0"
        self._again_s: float | None = None
        self._failures, self._heard_s = 0, math.inf
        self.url = ""
        self._start()

    def _start(self) -> None:
        self._again_s = None
        self._server = Guarded(self._command(f"native=tcp://{self._listen}"), self._news, env=self._env)

    def status(self, status: Mapping[str, Any]) -> None:
        """What it says of itself."""
        ready = status["readiness"] == "ready"
        if ready or math.isfinite(self._heard_s):  # one that loads may say nothing for long
            self._heard_s = time.monotonic()
        if not ready:
            return
        self._failures = 0
        (address,) = status["addresses"]
        self._listen = address.removeprefix("tcp://")
        self.url = f"native://{self._listen}"

    def ended(self, clock_s: float) -> float:
        """It has ended; after how long it is started again, s."""
        wait_s = BACK_OFF_S[min(self._failures, len(BACK_OFF_S) - 1)]
        self._failures, self._heard_s = self._failures + 1, math.inf
        self._again_s = clock_s + wait_s
        return wait_s

    def look(self, clock_s: float) -> None:
        """Start it again, where it is time; end one that has stood still for so long."""
        if clock_s - self._heard_s > SILENT_S:
            self._server.kill()
        if self._again_s is not None and clock_s >= self._again_s:
            self._start()

    def close(self) -> None:
        """Have it end.  Twice is fine."""
        self._server.close()

    def join(self, within_s: float) -> None:
        """Wait for its end, at most so long."""
        self._server.ended.wait(within_s)


class FleetRun:
    """A fleet from its start to its end.

    Args:
        fleet: the fleet.
        address: of the cluster, ``HOST:6379``; None for the one that this computer belongs to, ``local`` for one
            on this computer alone, which ends with the run.
        say: told what each of them says: a robot's or a policy's name, or "" for the fleet itself, and the line.
    """

    def __init__(self, fleet: Fleet, address: str | None, say: Callable[[str, str], None]) -> None:
        self._fleet, self._say = fleet, say
        self._news: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._served: dict[str, Served] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._reports: dict[str, dict[str, Any]] = {}
        self._started, self._address, self._host = False, "", ""
        self._heard_s = math.inf
        self._token = os.environ.get(TOKEN) or secrets.token_hex(32)
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "chunkwise.cluster._driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process to pass on
        )
        assert self._driver.stdin is not None
        self._asks = self._driver.stdin
        os.set_blocking(self._asks.fileno(), False)
        threading.Thread(target=self._read, name="chunkwise-fleet", daemon=True).start()
        self._ask(boot(fleet, address))

    def follow(self, stop: Callable[[], bool]) -> dict[str, Outcome]:
        """Until every robot has ended.

        Args:
            stop: whether to bring them to a standstill, looked at ten times a second.

        Returns:
            How each of them ended.

        Raises:
            UsageError: there is no cluster, or no node that has what is asked for.
            FleetFailed: a policy cannot be served, or the cluster went before the robots were started.
            KeyboardInterrupt: by whoever wants them to end at once.
        """
        ending_s: float | None = None
        here_s = 0.0
        while len(self.outcomes) < len(self._fleet.robots):
            now_s = time.monotonic()
            if now_s - here_s > HERE_S:
                here_s = now_s
                self._ask({})
            if now_s - self._heard_s > SILENT_S:
                self._driver.kill()
            if ending_s is None and stop():
                ending_s = now_s
                if not self._started:
                    return self.outcomes
                self.end()
            if ending_s is not None and now_s - ending_s > GRACE_S + LEAVE_S:
                self._lose("it does not say that it has ended")
            with suppress(queue.Empty):
                self._take(*self._news.get(timeout=LOOK_S))
            if ending_s is None:
                for served in self._served.values():
                    served.look(now_s)
        return self.outcomes

    def end(self) -> None:
        """Have every robot ramp to a standstill and end; a second time at once."""
        self._ask({"end": True})

    def close(self) -> None:
        """End the servers and leave the cluster; robots that run are brought to their end."""
        self._asks.close()
        for served in self._served.values():
            served.close()
        until_s = time.monotonic() + GRACE_S + LEAVE_S
        for served in self._served.values():
            served.join(until_s - time.monotonic())
        try:
            self._driver.wait(max(until_s - time.monotonic(), LOOK_S))
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()

    def _put(self, name: str, message: dict[str, Any]) -> None:
        if "line" in message:  # there may be more of them than there is room for
            self._say(message.get("robot", name), message["line"])
        else:
            self._news.put((name, message))

    # News -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._driver.stdout is not None
        with self._driver.stdout as news:
            for message in whole(news):
                self._put(DRIVER, message)
        self._put(DRIVER, {"gone": True})

    def _take(self, source: str, message: dict[str, Any]) -> None:
        if source == DRIVER:
            self._of_driver(message)
        else:
            self._of_server(self._served[source], message)

    def _of_driver(self, message: dict[str, Any]) -> None:
        self._heard_s = time.monotonic()
        if "refused" in message:
            raise UsageError(message["refused"])
        if "joined" in message:
            joined = message["joined"]
            self._address, self._host = joined["address"], joined["host"]
            self._serve({**os.environ, **joined["env"], TOKEN: self._token})
        elif "gone" in message:
            if not self._started:
                raise FleetFailed(
                    "the cluster's driver ended before the robots were started; see what it said above"
                )
            self._lose("the cluster is gone, or has ended its driver: the robot ends by itself")
        elif "robot" in message:
            self._of_robot(message["robot"], message)

    def _of_robot(self, name: str, message: dict[str, Any]) -> None:
        if "status" in message and "report" in message["status"]:
            self._reports[name] = message["status"]["report"]
        elif "lost" in message:
            self.outcomes[name] = Outcome(None, message["lost"])
            self._say(name, message["lost"])
        elif "ended" in message:
            why = "its guard was killed, so it was told to end" if message["ended"] is None else ""
            self.outcomes[name] = Outcome(message["ended"], why, self._reports.get(name))

    def _of_server(self, served: Served, message: dict[str, Any]) -> None:
        name = served.plan.name
        if "pid" in message:
            self._ask({"policies": {name: message}})
        elif "status" in message:
            served.status(message["status"])
            self._ask({"policies": {name: message["status"]}})
            if not self._started and all(each.url for each in self._served.values()):
                self._start()
        elif "ended" in message:
            if not served.url:
                raise FleetFailed(f"policy {name!r} cannot be served; its server said why above")
            wait_s = served.ended(time.monotonic())
            self._say(name, f"its server ended (exit code {message['ended']}); it starts again in {wait_s:g} s")
            self._ask({"policies": {name: {"readiness": "restarting"}}})

    def _lose(self, why: str) -> None:
        for name in self._fleet.robots:
            if name not in self.outcomes:
                self.outcomes[name] = Outcome(None, why)
                self._say(name, why)

    # What is started ------------------------------------------------------------------------------------------

    def _serve(self, env: Mapping[str, str]) -> None:
        for plan in self._fleet.policies.values():
            if plan.replicas is not None:
                command = functools.partial(serve_command, plan.serving(self._address))
                news = functools.partial(self._put, plan.name)
                self._served[plan.name] = Served(plan, command, self._host, env, news)
        if not self._served:
            self._start()

    def _start(self) -> None:
        self._started = True
        for name, robot in self._fleet.robots.items():
            served = self._served.get(robot.policy.name)
            config = robot.run(self._address, None if served is None else served.url)
            env = {} if served is None else {TOKEN: self._token}
            self._ask({"start": name, "config": yaml.safe_dump(config, sort_keys=False), "env": env})

    def _ask(self, message: Mapping[str, Any]) -> None:
        try:  # a line of its own even where a signal came into the one before
            write(self._asks.fileno(), b"\n" + json.dumps(message).encode() + b"\n", ASK_S)
        except BlockingIOError:
            self._driver.kill()
        except (OSError, ValueError):  # it has ended, and the news say so
            return


def boot(fleet: Fleet, address: str | None) -> dict[str, Any]:
    """What the driver is told of a fleet.

    On a cluster of this computer's own every resource that the fleet names is here, as often as it is asked for,
    and this computer is every node that it names.
    """
    robots = {
        name: {
            "node": "" if address == "local" else robot.node,
            "resources": list(robot.resources),
            "policy": robot.policy.name,
        }
        for name, robot in fleet.robots.items()
    }
    policies = {
        name: {"resources": list(plan.resources), "wanted": plan.wanted(), "replicas": plan.replicas}
        for name, plan in fleet.policies.items()
    }
    made: dict[str, Any] = {"fleet": fleet.name, "address": address, "robots": robots, "policies": policies}
    if address != "local":
        return made
    resources: dict[str, float] = {}
    cores = 0.0
    users = [robot.policy.name for robot in fleet.robots.values()]
    for plan in fleet.policies.values():
        copies = plan.most_replicas or plan.replicas or users.count(plan.name)
        cores += copies * plan.num_cpus
        for name, amount in amounts(plan.resources).items():
            resources[name] = resources.get(name, 0.0) + copies * amount
    for robot in fleet.robots.values():
        for name, amount in amounts(robot.resources).items():
            resources[name] = resources.get(name, 0.0) + amount
    return made | {"resources": resources, "num_cpus": max(int(cores) + 1, os.cpu_count() or 1)}


def serve_command(options: Mapping[str, Any], listen: str) -> list[str]:
    """The command of a server of replicas.

    Args:
        options: of ``--policy replicas``.
        listen: a wire and an address.
    """
    command = [sys.executable, "-m", "chunkwise", "serve", "--policy", "replicas", "--listen", listen]
    for name, value in options.items():
        text = ",".join(value) if isinstance(value, list) else value if isinstance(value, str) else _written(value)
        if text:
            command += [f"--policy.{name.replace('_', '-')}={text}"]
    return [*command, "--status-fd", "{status}"]


def _written(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return str(text).removesuffix("...\n").strip()
