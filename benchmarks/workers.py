"""What a worker costs beyond the policy: a round trip, and the loop's own share of it.

    python benchmarks/workers.py            # prints, and writes docs/benchmarks/workers.md
    python benchmarks/workers.py --rounds 1 --requests 50 --print

A request carries three pictures of 480 x 640 x 3 bytes, which were written just before as a camera's driver does, and
24 joints; the answer is a chunk of 50 x 24.  The policy knows its answer, so that what is measured is the way there
and back.  In each round every worker is measured, one
after the other, and beside them the yardstick: copying the three pictures once, in this process.

submit: `worker.submit`, which is the control loop's own share.  empty: `worker.arrivals` when there is nothing.
round trip: from `submit` until `arrivals` gives the answer, waiting with `wait`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    connect,
)
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.workers import Worker, place

CAMERAS, JOINTS, ROWS = ("left", "right", "front"), 24, 50
WORKERS = ("inline", "thread", "process")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "workers.md"
ANSWER = np.zeros((ROWS, JOINTS))
PAUSE_S = 0.002
"""Between two requests, as in a loop: caches have other things to hold meanwhile."""


class Ready:
    """Answers the same chunk at once, having looked at one pixel of every picture."""

    def __init__(self) -> None:
        self.spec = PolicySpec(
            "ready",
            list(CAMERAS),
            ["body"],
            outputs=[PolicyOutputSpec("body", "joint_position", JOINTS)],
            action_horizon=ROWS,
        )

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The chunk."""
        for name in CAMERAS:
            frame.images[name][0, 0, 0].item()
        return ActionChunk(ANSWER)


def robot() -> RobotSpec:
    """One body of 24 joints, and three cameras."""
    return RobotSpec("body", list(CAMERAS), [ComponentSpec("body", "arm", JOINTS, ["joint_position"])])


def pictures() -> list[NDArray[np.uint8]]:
    """Of one frame."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in CAMERAS]


def us(spent: list[float], percent: float = 50.0) -> float:
    """A percentile, in us."""
    return float(np.percentile(spent, percent)) * 1e6


def take(fresh: list[NDArray[np.uint8]], images: list[NDArray[np.uint8]]) -> None:
    """What a camera's driver does."""
    for image, seen in zip(images, fresh, strict=True):
        np.copyto(image, seen)


def yardstick(count: int) -> float:
    """Copying three pictures to one place, us."""
    images, there = pictures(), np.empty((len(CAMERAS), 480, 640, 3), dtype=np.uint8)
    fresh, spent = pictures(), []
    for _ in range(count):
        take(fresh, images)
        began = time.perf_counter()
        for index, image in enumerate(images):
            np.copyto(there[index], image)
        spent.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    return us(spent)


def measured(worker: Worker, count: int) -> dict[str, float]:
    """A worker's figures, us."""
    fresh, images = pictures(), pictures()
    submits, empties, trips = [], [], []
    for number in range(-10, count):  # the first ones make room
        take(fresh, images)
        state = {"body": np.zeros(JOINTS)}
        frame = Frame(dict(zip(CAMERAS, images, strict=True)), state)
        request = ChunkRequest(number + 10, id=number + 10)
        began = time.perf_counter()
        worker.submit(frame, request)
        submitted = time.perf_counter()
        worker.wait(5.0)
        (answer,) = worker.arrivals()
        answered = time.perf_counter()
        assert answer.chunk is not None, answer.error
        worker.arrivals()
        empty = time.perf_counter() - answered
        if number >= 0:
            submits.append(submitted - began)
            trips.append(answered - began)
            empties.append(empty)
        time.sleep(PAUSE_S)
    return {
        "submit p50": us(submits),
        "submit p99": us(submits, 99),
        "empty p50": us(empties),
        "round trip p50": us(trips),
        "round trip p99": us(trips, 99),
    }


def one(name: str, count: int) -> dict[str, float]:
    """The figures of a worker by name."""
    maker: Callable[..., Any] = plugins.load("workers", name)
    policy = place(Recipe(f"{Path(__file__).resolve()}:Ready"), maker)
    spec = getattr(policy, "spec", None)
    assert isinstance(spec, PolicySpec)
    worker = maker(BoundPolicy(policy, connect(robot(), spec)))
    try:
        return measured(worker, count)
    finally:
        worker.close()
        getattr(policy, "close", lambda: None)()


def page(rounds: list[dict[str, dict[str, float]]], sticks: list[float], count: int) -> str:
    """The figures as a document."""
    columns = list(rounds[0][WORKERS[0]])
    lines = [
        "# What a worker costs",
        "",
        "`python benchmarks/workers.py`. Three pictures of 480 x 640 x 3 bytes, written just before as a camera's driver",
        f"does, and {JOINTS} joints go to the policy, a chunk of {ROWS} x {JOINTS} comes back; the policy knows its answer. {count} requests a round, 2 ms apart; the",
        f"median of {len(rounds)} rounds, in us. Every worker is measured in every round. *submit* is the control loop's",
        "own share, *empty* what `arrivals()` costs it when there is nothing, *round trip* the time from `submit` to the",
        "answer. The yardstick, measured in the same rounds, is copying the three pictures once:",
        f"{statistics.median(sticks):.0f} us, from {min(sticks):.0f} to {max(sticks):.0f}.",
        f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores.",
        "",
        "| worker | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in WORKERS:
        cells = [f"{statistics.median(each[name][column] for each in rounds):.0f}" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    over = statistics.median(
        each["process"]["round trip p50"] - each["inline"]["round trip p50"] for each in rounds
    )
    lines += [
        "",
        f"The process worker's round trip costs {over / 1e3:.2f} ms (p50) over the policy itself.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--print", action="store_true", help="write no page")
    options = parser.parse_args()
    rounds, sticks = [], []
    for _ in range(options.rounds):
        sticks.append(yardstick(options.requests))
        rounds.append({name: one(name, options.requests) for name in WORKERS})
    text = page(rounds, sticks, options.requests)
    sys.stdout.write(text)
    if not options.print:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
