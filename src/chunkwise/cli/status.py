"""``chunkwise status``: what runs on a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chunkwise.cli.parser import Parser
from chunkwise.cli.printable import printable
from chunkwise.cluster.status import read_status

EXAMPLES = """\
  chunkwise status
  chunkwise status --address 10.0.0.1:6379 --json
"""


def main(argv: Sequence[str]) -> int:
    """Show it; 0 whether or not a robot holds."""
    parser = Parser("status", "What runs on a Ray cluster: robots, policies, nodes.", EXAMPLES)
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of the cluster; the one that this computer belongs to by default"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse(argv)
    status = read_status(parsed.address)
    print(json.dumps(status, indent=2) if parsed.json else shown(status), flush=True)
    return 0


def shown(status: Mapping[str, Any]) -> str:
    """The status for people."""
    parts = [f"cluster {status['address']}"]
    nodes = [
        [node["address"], node["host"], _listed(node["resources"]), _listed(node["free"])]
        for node in status["nodes"]
    ]
    parts.append(columns([["node", "host", "has", "free"], *nodes]))
    for fleet in status["fleets"]:
        robots = [
            [
                name,
                robot["state"],
                _rate(robot.get("rate_hz")),
                _text(robot.get("steps")),
                _text(robot.get("starved")),
                robot["policy"],
                printable(robot.get("why") or robot.get("lost") or ""),
            ]
            for name, robot in fleet["robots"].items()
        ]
        policies = [
            [name, _text(policy["replicas"]), _text(policy.get("requests")), _text(policy.get("waiting"))]
            for name, policy in fleet["policies"].items()
        ]
        parts.append(f"fleet {fleet['fleet']}, up for {fleet['up_s']:.0f} s")
        parts.append(columns([["robot", "state", "rate", "steps", "starved", "policy", "why"], *robots]))
        parts.append(columns([["policy", "replicas", "requests", "queue"], *policies]))
    if not status["fleets"]:
        parts.append("no fleet: chunkwise up FLEET.yaml --ray starts one")
    if status["actors"]:
        parts.append("\n".join(["actors:", *(f"  {name}" for name in status["actors"])]))
    return "\n\n".join(parts)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns to the left, as wide as they need.

    >>> print(columns([["robot", "state"], ["left", "hold"]]))
      robot  state
      left   hold
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items()) or "-"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} Hz"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
