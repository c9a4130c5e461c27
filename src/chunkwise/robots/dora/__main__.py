"""Our Dora nodes as programs: ``python -m chunkwise.robots.dora simulation`` and ``... controller``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from chunkwise import plugins
from chunkwise.robots.dora.controller import control
from chunkwise.robots.dora.simulation import CAMERA_MODES, Simulation


def main(arguments: list[str] | None = None) -> None:
    """Run one node until its dataflow ends."""
    options = _parser().parse_args(arguments)
    node = plugins.require("dora", extra="dora").Node()
    if options.node == "controller":
        control(node, episodes=options.episodes, seconds=options.seconds, pause=options.pause)
        return
    simulation = Simulation(
        node,
        hz=options.hz,
        camera_hz=options.camera_hz,
        cameras=options.cameras,
        camera_size=options.camera_size,
        head_size=options.head_size,
        qpos_struct=options.qpos_struct,
        seed=options.seed,
    )
    report = simulation.run()
    text = json.dumps(report, indent=1)
    print(text, flush=True)
    if options.report is not None:
        options.report.write_text(text + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chunkwise.robots.dora", description=__doc__)
    nodes = parser.add_subparsers(dest="node", required=True)
    simulation = nodes.add_parser("simulation", help="both arms, the cameras and the tracker")
    simulation.add_argument("--hz", type=float, default=250.0, help="rate of the arms")
    simulation.add_argument("--camera-hz", type=float, default=30.0)
    simulation.add_argument("--cameras", choices=CAMERA_MODES, default="flat")
    simulation.add_argument("--camera-size", type=_size, default=(48, 64), metavar="HEIGHTxWIDTH")
    simulation.add_argument("--head-size", type=_size, metavar="HEIGHTxWIDTH", help="of the two head cameras")
    simulation.add_argument("--qpos-struct", action="store_true", help="positions as dora-openarm 1.3 sends them")
    simulation.add_argument("--seed", type=int, default=0, help="of the first episode; the next one has 1 more")
    simulation.add_argument(
        "--report", type=Path, default=os.getenv("REPORT"), help="file for the report ($REPORT)"
    )
    controller = nodes.add_parser("controller", help="start, stopped and quit, on a schedule")
    controller.add_argument("--episodes", type=int, default=2)
    controller.add_argument("--seconds", type=float, default=6.5, help="of an episode")
    controller.add_argument("--pause", type=float, default=1.0, help="before each episode [s]")
    return parser


def _size(text: str) -> tuple[int, int]:
    """480x640 as height and width."""
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH") from error


if __name__ == "__main__":
    main()
