"""A fleet's file, driven from here: everybody's lines under their names, and one table at the end."""

from __future__ import annotations

import argparse
import io
import json
import queue
import signal
import sys
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from chunkwise.cli import settings as settings_of
from chunkwise.cli.printable import printable
from chunkwise.cli.run import say, writable, write_json
from chunkwise.cli.table import table
from chunkwise.cluster.fleet import Fleet, read_fleet
from chunkwise.cluster.run import FleetRun, Outcome, boot
from chunkwise.options import UsageError
from chunkwise.runtime.operator import SIGNALS, OperatorStop
from chunkwise.runtime.report import Report

MAX_LINES = 4096
"""That wait to be written."""
LAST_S = 2.0
OF_A_FLEET = ("file", "ray", "address", "json", "print_config", "debug")


def drive(tree: Mapping[Any, Any], parsed: argparse.Namespace, given: Collection[str]) -> int:
    """Drive the fleet until every robot has ended, or Ctrl-C.

    Args:
        tree: the file's content.
        parsed: the command line.
        given: names of what was given there.

    Returns:
        0 when every run completed, 130 when it was interrupted, else the exit code of the first robot that failed.

    Raises:
        UsageError: the file or the command line ask for what cannot be.
        FleetFailed: a policy could not be served, or the cluster went.
    """
    for name in given:
        if name not in OF_A_FLEET:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is of one robot; the file of a fleet says it under each robot it is for")
    path = Path(parsed.file)
    fleet = read_fleet(tree, str(path), path.stem, settings_of.NAMES, settings_of.check)
    if parsed.print_config:
        print(described(fleet), end="")
        return 0
    if parsed.json is not None:
        writable(Path(parsed.json))
    lines = Lines(max(map(len, [*fleet.robots, *fleet.policies])))
    run = FleetRun(fleet, parsed.address if parsed.ray or parsed.address else "local", lines)
    operator = OperatorStop()
    try:
        with operator:
            outcomes = _follow(run, operator, lines)
    finally:
        for number in SIGNALS:  # everything ends by itself now, and nothing is left behind
            signal.signal(number, signal.SIG_IGN)
        run.close()
        lines.close()
    try:
        if parsed.json is not None:
            write_json(Path(parsed.json), {name: plain(outcome) for name, outcome in outcomes.items()})
    finally:  # a full disk is no reason not to say who failed
        code = ended(fleet, outcomes, operator.pressed)
    return code


class Lines:
    """Everybody's lines under their names, written by a thread: a terminal that stands still stops nobody.

    Args:
        width: of the longest name.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that knows few letters shows the others as ?
            sys.stdout.reconfigure(errors="replace")
        self._waiting: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._write, name="chunkwise-lines", daemon=True)
        self._thread.start()

    def __call__(self, name: str, line: str) -> None:
        """One line; it is left out where too many wait."""
        with suppress(queue.Full):
            self._waiting.put_nowait(f"{name:>{self._width}} | {printable(line)}")

    def close(self) -> None:
        """Write what waits, as far as somebody reads it."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=LAST_S)
        self._thread.join(LAST_S)

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            say(line)


def _follow(run: FleetRun, operator: OperatorStop, say: Lines) -> dict[str, Outcome]:
    told = False

    def stop() -> bool:
        nonlocal told
        if operator.pressed and not told:
            told = True
            say("", "every robot comes to a standstill; once more ends them at once")
        return operator.pressed

    try:
        return run.follow(stop)
    except KeyboardInterrupt:
        run.end()
        return run.follow(lambda: True)


def ended(fleet: Fleet, outcomes: Mapping[str, Outcome], interrupted: bool) -> int:
    """The exit code, and a table of all robots; which of them failed is said with it.

    Args:
        fleet: the fleet.
        outcomes: of its robots; none where it was stopped before they were started.
        interrupted: whether somebody stopped it.
    """
    shown = {name: outcomes[name] for name in fleet.robots if name in outcomes}
    reports = {name: Report(**outcome.report) for name, outcome in shown.items() if outcome.report is not None}
    if reports:
        say(f"\n{table(reports)}")
    failed = {name: outcome for name, outcome in shown.items() if outcome.code != (130 if interrupted else 0)}
    # A run that was over already when the others were interrupted has not failed.
    failed = {name: outcome for name, outcome in failed.items() if outcome.code != 0}
    for name, outcome in failed.items():
        how = outcome.why or _how(outcome.code)
        with suppress(OSError):  # a terminal that is gone
            print(f"chunkwise: robot {name}: {printable(how)}", file=sys.stderr)
    if failed:
        code = next(iter(failed.values())).code
        return code if code is not None and 0 < code < 128 else 1
    return 130 if interrupted else 0


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    known = {item.value: item.name for item in signal.Signals}
    return f"ended with signal {known.get(-code, -code)}"


def plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it."""
    return {item.name: getattr(outcome, item.name) for item in fields(outcome)}


def described(fleet: Fleet) -> str:
    """What every robot is told, and where it is, as YAML; what only the cluster knows is in capitals."""
    where = boot(fleet, None)
    robots = {
        name: {
            "node": robot.node or (", ".join(robot.resources) or "here"),
            "run": robot.run("CLUSTER", "native://SERVER" if robot.policy.replicas is not None else None),
        }
        for name, robot in fleet.robots.items()
    }
    tree = {"name": fleet.name, "policies": where["policies"], "robots": robots}
    return yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False)  # no two are the same object
