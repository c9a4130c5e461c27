"""``chunkwise check``: see whether a policy fits a robot, without moving it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from chunkwise.chunking import Timing
from chunkwise.cli import settings as settings_of
from chunkwise.cli.assembly import make_policy, make_robot, make_session
from chunkwise.cli.parser import Parser
from chunkwise.cli.placement import policy_of
from chunkwise.cli.settings import Choice, Settings
from chunkwise.contract import (
    ChunkRequest,
    InterfaceValidationError,
    PolicySpec,
    RobotSpec,
    validate_frame,
    validate_policy_spec,
    validate_robot_spec,
)
from chunkwise.options import UsageError
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.session import Session
from chunkwise.safety import Rule

EXAMPLES = """\
  chunkwise check --robot openarm_sim --policy demo
  chunkwise check --robot mock --policy wave --latency-ms 200
  chunkwise check --robot my_robot.py:MyRobot
  chunkwise check --policy my_policy.py:MyPolicy
"""

FLAGS = ("robot", "policy", "execution_mode", "network", "fallback", "strategy", "control_hz", "latency_ms")


def main(argv: Sequence[str]) -> int:
    """0 when it fits, 1 when it does not."""
    description = (
        "With a robot and a policy: observe once, infer once, and say whether they fit; nothing is sent. "
        "With one of them: see whether its spec is valid."
    )
    parser = Parser("check", description, EXAMPLES)
    settings_of.add_flags(parser, FLAGS)
    settings, _ = settings_of.read(parser, argv)
    if settings.robot is None and settings.policy is None:
        raise UsageError("nothing to check: --robot NAME, --policy NAME, or both")
    try:
        fits = _check(settings)
    except InterfaceValidationError as error:
        print(f"does not fit: {error}")
        return 1
    alone = settings.robot is None or settings.policy is None
    print(
        ("its spec is valid; give both --robot and --policy to see whether they fit" if alone else "fits")
        if fits
        else "does not fit"
    )
    return 0 if fits else 1


def _check(settings: Settings) -> bool:
    robot = make_robot(settings.robot, settings.control_hz) if settings.robot else None
    policy = make_policy(policy_of(settings), settings.control_hz) if settings.policy else None
    if robot is not None:
        validate_robot_spec(robot.spec)
        print(describe_robot(robot.spec))
    spec = getattr(policy, "spec", None)
    if spec is not None:
        validate_policy_spec(spec)
        print(describe_policy(spec))
    elif policy is not None:
        print("policy without a spec: its first answer gives one")
    if robot is None or policy is None:
        return True
    settings.worker = Choice("inline")
    with make_session(settings, robot, policy, on_message=print) as session:
        return _try_once(session, settings)


def _try_once(session: Session, settings: Settings) -> bool:
    """One observation, one inference, and what they say; the robot is never told to act."""
    frame = session.robot.observe()
    validate_frame(frame)
    began = time.perf_counter()
    chunk = BoundPolicy(session.policy, session.binding)(frame, ChunkRequest(0))
    took_s = time.perf_counter() - began
    for row in chunk.rows:
        session.gate.check(row)
    for (component, rule), count in sorted(session.gate.counts.items()):
        print(f"the gate would step in: {component}, {rule}, in {count} of {len(chunk.rows)} rows")
    if any(rule is Rule.FINITE for _, rule in session.gate.counts):
        return False
    most = max((count for (_, rule), count in session.gate.counts.items() if rule is Rule.LIMIT), default=0)
    if 2 * most > len(chunk.rows):
        print(
            "most rows are beyond the limits: are they in the robot's units (degrees for rad), and in its order?"
        )
        return False
    return _carried(session, len(chunk.rows), took_s, settings.latency_ms / 1e3)


def _carried(session: Session, rows: int, took_s: float, latency_s: float) -> bool:
    """Whether the chunk lasts until the next one is there: ``d <= s <= H - d``."""
    hz = session.pacer.control_hz
    delay = math.floor(max(took_s, latency_s) * hz) + 1  # an answer is looked for at the next step after it came
    injected = f" ({1e3 * latency_s:g} ms are injected)" if latency_s else ""
    print(f"one inference took {1e3 * took_s:.1f} ms{injected}: d = {delay} steps at {hz:g} Hz; H = {rows} rows")
    complaint = session.strategy.complaint(Timing(0, delay, rows, 0, rows))
    if complaint is not None:
        print(complaint)
        return False
    if session.strategy.waits:
        print(f"the robot waits about {delay} steps for every chunk, by design")
    else:
        print(f"the chunk carries it: d <= s <= H - d, so s is between {max(delay, 1)} and {rows - delay} steps")
    return True


def describe_robot(spec: RobotSpec) -> str:
    """A robot's spec in lines for people."""
    rate = f", {spec.control_hz:g} Hz" if spec.control_hz else ""
    lines = [f"robot {spec.name!r}{rate}:"]
    for item in spec.components:
        limits = [label for label in ("lower", "upper", "max_rate") if getattr(item, label) is not None]
        limited = ", ".join(limits) or "no limits"
        lines.append(
            f"  {item.name:<16} {item.type:<8} {item.dof} x {item.unit}  {', '.join(item.command)}  ({limited})"
        )
    lines.append(
        f"  cameras: {', '.join(spec.image_keys) or 'none'}; further state: {', '.join(spec.state_keys) or 'none'}"
    )
    return "\n".join(lines)


def describe_policy(spec: PolicySpec) -> str:
    """A policy's spec in lines for people."""
    rows = f", {spec.action_horizon} rows" if spec.action_horizon else ""
    rate = f" at {spec.control_hz:g} Hz" if spec.control_hz else ""
    prefix = ", continues the running plan" if spec.supports_prefix else ""
    lines = [f"policy {spec.name!r}{rows}{rate}{prefix}:"]
    lines += [f"  {item.target:<16} {item.dim} x {item.command}" for item in spec.outputs]
    wants = [*spec.required_image_keys, *spec.required_state_keys, *spec.required_task_keys]
    lines.append(f"  reads: {', '.join(wants) or 'nothing'}")
    return "\n".join(lines)
