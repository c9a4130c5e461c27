"""``chunkwise chaos``: drive a robot with a policy while things go wrong, and say what became of the promises."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from chunkwise import plugins
from chunkwise.chaos.measure import Effect
from chunkwise.chaos.plan import Injection, default_plan, random_plan, read_plan, to_yaml
from chunkwise.chaos.run import Outcome, endure
from chunkwise.cli import settings as settings_of
from chunkwise.cli.assembly import make_robot, make_session, recipe_of
from chunkwise.cli.parser import Parser
from chunkwise.cli.placement import policy_of
from chunkwise.cli.run import setup, writable, write_json
from chunkwise.cli.settings import Choice, Settings
from chunkwise.contract import RobotSpec
from chunkwise.options import UsageError, convert

FAULTY = "chunkwise.chaos.policy:FaultyPolicy"

EXAMPLES = """\
  chunkwise chaos --policy wave --worker process
  chunkwise chaos --policy wave --robot.cameras head --worker process --print-plan > plan.yaml
  chunkwise chaos --robot openarm_sim --policy demo --worker process --plan plan.yaml --json chaos.json
  chunkwise chaos --policy wave --worker thread --random 40 --seed 7
"""

HEAD = ("fault", "commands", "longest gap, ms", "largest step", "to hold, s", "to recover, s")


def main(argv: Sequence[str]) -> int:
    """Run the plan; 0 when no promise was broken."""
    parser = Parser(
        "chaos",
        "Drive a robot with a policy while things go wrong, and say what became of the promises: a command in "
        "every period, within the limits; nothing left behind; a recovery from every fault.",
        EXAMPLES,
    )
    settings_of.add_flags(parser, [item.name for item in fields(Settings) if item.name != "seconds"])
    parser.add_argument("--config", metavar="FILE", help="YAML that holds what the flags say; flags win")
    parser.add_argument("--plan", metavar="FILE", help="YAML list of faults; by default every kind once")
    parser.add_argument("--random", metavar="N", help="draw so many faults instead")
    parser.add_argument("--seed", metavar="S", help="of --random (default 0)")
    parser.add_argument("--rest-s", metavar="X", help="time between two faults that nobody wrote (default 2)")
    parser.add_argument(
        "--gap-ms", metavar="X", help="the longest time between two commands; 50 or 3 periods by default"
    )
    parser.add_argument("--print-plan", action="store_true", help="print the plan as YAML and exit")
    settings, parsed = settings_of.read(parser, argv, Settings(robot=Choice("mock")))
    if settings.policy is None and not parsed.print_plan:
        raise UsageError(f"which policy? --policy NAME; there are: {', '.join(plugins.names('policies'))}")
    assert settings.robot is not None
    robot = make_robot(settings.robot, settings.control_hz)
    plan = _plan(parsed.plan, parsed.random, parsed.seed, parsed.rest_s, robot.spec)
    if parsed.print_plan:
        print(to_yaml(plan), end="")
        return 0
    assert settings.policy is not None
    if settings.json is not None:
        writable(Path(settings.json))
    if settings.seconds is not None:  # of a configuration that is a run's as well
        _say("seconds is not used: a run under faults lasts as long as its plan")
    wanted = policy_of(settings)
    options = {"name": wanted.name, "options": wanted.options}
    policy = recipe_of(Choice(FAULTY, options), settings.control_hz)
    outcome = endure(
        robot,
        lambda faulty: make_session(settings, faulty, policy, on_message=_say),
        plan,
        optional=parsed.plan is None,
        gap_s=_number(parsed.gap_ms, "gap_ms", lambda value: value > 0, 1e-3),
        start_s=settings.start_timeout_s,
        say=_say,
    )
    assert outcome.report is not None
    outcome.report.setup = setup(settings)
    if settings.json is not None:
        write_json(Path(settings.json), outcome.to_dict())
    _say(f"\n{told(outcome)}")
    if outcome.report.interrupted:
        return 130
    for text in outcome.broken:
        print(f"chunkwise: broken: {text}", file=sys.stderr)
    return 1 if outcome.broken else 0


def told(outcome: Outcome) -> str:
    """The outcome for people: a line for each fault, and what was left out, missed and left behind."""
    rows = [HEAD, *(_row(effect) for effect in outcome.effects)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  " + "   ".join([f"{row[0]:<{widths[0]}}", *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    lines += [f"  {item.injection.label}: {item.note}" for item in outcome.effects if item.note]
    lines += [f"  left out: {text}" for text in outcome.left_out]
    missed = f", {outcome.missed} of them missed by the loop" if outcome.missed else ""
    lines.append(f"  {outcome.commands} commands in {outcome.periods} periods{missed}")
    lines.append(
        f"  longest time between two: {1e3 * outcome.gap_s:.1f} ms, {1e3 * outcome.gap_limit_s:.0f} ms is promised"
    )
    left = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in outcome.leaks.items())
    lines.append(f"  left behind: {left or 'nothing'}")
    return "\n".join([*lines, f"  promises broken: {len(outcome.broken) or 'none'}"])


def _row(effect: Effect) -> tuple[str, ...]:
    largest = effect.largest
    step = f"{largest.step:.4g} {largest.unit}".strip() if largest.joint else "-"
    if not math.isnan(largest.share):
        step += f", {largest.share:.0%} of {largest.joint}"
    recover = "never" if effect.recover_s is None else f"{effect.recover_s:.2f}"
    return (
        effect.injection.label,
        f"{effect.commands} in {effect.periods}",
        f"{1e3 * effect.gap_s:.1f}",
        step,
        "no hold" if effect.hold_s is None else f"{effect.hold_s:.2f}",
        recover if effect.left_running or effect.recover_s is None else f"ran on, {recover}",
    )


def _plan(
    path: str | None, count: str | None, seed: str | None, rest: str | None, robot: RobotSpec
) -> list[Injection]:
    """The plan that the flags ask for."""
    if path is not None and (count is not None or rest is not None):
        raise UsageError("--plan FILE says when everything happens; leave --random and --rest-s out")
    if seed is not None and count is None:
        raise UsageError("--seed is of --random N")
    if path is not None:
        return read_plan(Path(path), robot)
    rest_s = _number(rest, "rest_s", lambda value: value >= 0)
    rest_s = 2.0 if rest_s is None else rest_s
    if count is None:
        return default_plan(robot, rest_s=rest_s)
    return random_plan(convert(count, int, "random"), convert(seed or "0", int, "seed"), robot, rest_s=rest_s)


def _number(text: str | None, name: str, fits: Callable[[float], bool], scale: float = 1.0) -> float | None:
    """A flag's number; None where it was not given."""
    if text is None:
        return None
    value: float = convert(text, float, name)
    if not (math.isfinite(value) and fits(value)):
        raise UsageError(f"{name} is out of range: {text}")
    return scale * value


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has left; the robot's run goes on
        return
