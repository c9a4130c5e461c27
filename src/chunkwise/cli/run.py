"""``chunkwise run``: drive a robot with a policy, and report how it went."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.cli import foreign_flags
from chunkwise.cli import settings as settings_of
from chunkwise.cli.assembly import make_robot, make_session, recipe_of
from chunkwise.cli.extras import versions
from chunkwise.cli.parser import Parser
from chunkwise.cli.placement import policy_of
from chunkwise.cli.progress import Progress
from chunkwise.cli.settings import Choice, Settings
from chunkwise.cli.statuses import Statuses
from chunkwise.cli.table import table
from chunkwise.heap import keep_freed_memory
from chunkwise.options import UsageError, convert
from chunkwise.runtime.events import Turn
from chunkwise.runtime.report import Report

EXAMPLES = """\
  chunkwise run --policy wave --seconds 5
  chunkwise run --robot openarm_sim --policy demo --strategy rtc --latency-ms 100 --seconds 20
  chunkwise run --robot mock --robot.arms 1 --policy wave --policy.components arm:7 --seconds 5
  chunkwise run --robot my_robot.py:MyRobot --policy my_policy.py:infer --json out.json
  chunkwise run --policy my_policy.py:MyPolicy --worker process --worker.threads 3 --realtime
  chunkwise run --policy path/to/pretrained_model --execution-mode distributed --network native://gpu:7777
  chunkwise run --policy native://gpu:7777 --fallback path/to/small_model
  chunkwise run --config run.yaml --latency-ms 50 --print-config
"""


def main(argv: Sequence[str]) -> int:
    """Run until the time is over or Ctrl-C; 0 when the run completed."""
    parser = Parser("run", "Drive a robot with a policy, and report how it went.", EXAMPLES)
    settings_of.add_flags(parser)
    foreign_flags.add_flags(parser)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML that holds what the flags say; flags win; - is stdin"
    )
    parser.add_argument(
        "--status-fd", metavar="N", help="write the run's state there, as lines of JSON, and its report"
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings as YAML and exit")
    settings, parsed = settings_of.read(parser, foreign_flags.translated(argv), Settings(robot=Choice("mock")))
    if parsed.print_config:
        print(settings.to_yaml(), end="")
        return 0
    if settings.policy is None:
        raise UsageError(f"which policy? --policy NAME; there are: {', '.join(plugins.names('policies'))}")
    if settings.json is not None:
        writable(Path(settings.json))
    fd = None if parsed.status_fd is None else convert(parsed.status_fd, int, "status-fd")
    return outcome(drive(settings, statuses=None if fd is None else Statuses(fd)))


def outcome(report: Report) -> int:
    """The exit code of a run, and why it is not 0."""
    if report.interrupted:
        return 130
    if report.stopped:
        print(f"chunkwise: the run ended: {report.stopped}", file=sys.stderr)
        return 1
    if not report.chunks:
        why = "; ".join(f"{kind}: {detail}" for kind, detail in report.fault_details.items())
        print(f"chunkwise: no chunk ever ran{f' ({why})' if why else ''}", file=sys.stderr)
        return 1
    return 0


def drive(
    settings: Settings, watch: Callable[[list[Turn]], None] = lambda turns: None, statuses: Statuses | None = None
) -> Report:
    """Run what the settings say, showing it; the report is written before it is printed.

    Args:
        settings: with a robot and a policy.
        watch: shown the turns as they come, as `Session.run` shows them.
        statuses: told how it goes, and the report, which is not printed then.
    """
    assert settings.robot is not None and settings.policy is not None
    keep_freed_memory()
    robot = make_robot(settings.robot, settings.control_hz)
    policy = recipe_of(policy_of(settings), settings.control_hz)
    session = make_session(settings, robot, policy, on_message=say)
    try:
        with session:
            say(
                f"strategy {settings.strategy.plain()}, worker {settings.worker.plain()}, "
                f"{session.pacer.control_hz:g} Hz, {settings.latency_ms:g} ms of latency"
            )
            progress = Progress(sys.stderr, settings.seconds, session.pacer.period_s)

            def on_progress(turns: list[Turn]) -> None:
                progress(turns)
                watch(turns)
                if statuses is not None:
                    statuses(turns)

            session.run(seconds=settings.seconds, on_progress=on_progress)
            progress.finish(session.turns)
    finally:  # also when the robot raised: then most of all
        if session.report is not None:
            _tell(settings, session.report, statuses)
    assert session.report is not None
    return session.report


def _tell(settings: Settings, report: Report, statuses: Statuses | None) -> None:
    report.setup = setup(settings)
    if settings.json is not None:
        write_json(Path(settings.json), report.to_dict())
    if statuses is not None:
        statuses.finish(report)
    else:
        say(f"\n{table({settings.strategy.name: report})}")
    if report.interrupted:
        say("interrupted")


def setup(settings: Settings) -> dict[str, Any]:
    """What was run, for the report."""
    made: dict[str, Any] = {
        name: choice.plain()
        for name in settings_of.ADAPTERS
        if isinstance(choice := getattr(settings, name), Choice)
    }
    made |= {"latency_ms": settings.latency_ms, "seconds": settings.seconds, "realtime": settings.realtime}
    return made | {"versions": versions()}


def write_json(path: Path, value: object) -> None:
    """Write the file whole or not at all."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(beside, path)


def writable(path: Path) -> None:
    """See that a file can be written there, before anything runs.

    Raises:
        UsageError: it cannot.
    """
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}")


def say(text: str) -> None:
    """Print; a reader that has left does not stop a robot."""
    try:
        print(text, flush=True)
    except OSError:  # a pipe without a reader, a terminal that is gone, a disk that is full
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for the rest of the process
