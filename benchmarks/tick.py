"""What one tick of the scheduler and one turn of the loop cost.

    python benchmarks/tick.py            # prints, and writes docs/benchmarks/tick.md

Every figure is the median of several rounds, and beside it stands a yardstick measured in the same round: a bare
Python call that picks a row of an array and copies it.  The spread of the yardstick is the machine's noise.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chunkwise import plugins
from chunkwise.chunking import Answer, Scheduler, Tick
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, checked_rows, robot_layout
from chunkwise.runtime.events import EventRing
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate

ROWS, STEPS, DELAY = 50, 4000, 6
STRATEGIES = ("switch", "rtc", "sync", "blend", "temporal_ensemble")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "tick.md"


class LateWorker:
    """Answers DELAY steps after the request, from a store of ready chunks, at no cost of its own."""

    def __init__(self, chunks: list[ActionChunk]) -> None:
        self._chunks, self._due = chunks, {}
        self.step = 0

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        chunk = self._chunks[request.id % len(self._chunks)]
        self._due[request.request_step + DELAY] = (Answer(request.id, chunk),)

    def arrivals(self) -> tuple[Answer, ...]:
        return self._due.pop(self.step, ())

    def restart(self) -> None: ...

    def close(self) -> None: ...


def chunks(width: int) -> list[ActionChunk]:
    """Smooth chunks that the gate has nothing to say against."""
    return [ActionChunk(checked_rows(np.full((ROWS, width), 0.01 * k))) for k in range(4)]


def measure(call: Callable[[int], object]) -> tuple[float, float]:
    """Median and 99th percentile of one call, in microseconds."""
    spent = np.empty(STEPS)
    for step in range(STEPS):
        start = time.perf_counter_ns()
        call(step)
        spent[step] = time.perf_counter_ns() - start
    return float(np.median(spent)) / 1e3, float(np.percentile(spent, 99)) / 1e3


def yardstick() -> float:
    rows = np.zeros((ROWS, 16))
    return measure(lambda step: rows[step % ROWS].copy())[0]


def tick_cost(strategy: str, horizon: int) -> tuple[float, float]:
    layout = robot_layout(plugins.load("robots", "mock")().spec)
    chosen = plugins.load("strategies", strategy)(execution_horizon=horizon)
    scheduler = Scheduler(layout, chosen, hold=np.zeros(layout.width))
    store, due = chunks(layout.width), {}

    def call(step: int) -> None:
        decision = scheduler.tick(Tick(step, due.pop(step, ())))
        if decision.request is not None:
            request = decision.request.id
            due[step + DELAY] = (Answer(request, store[request % len(store)]),)

    return measure(call)


def turn_cost(strategy: str, horizon: int) -> tuple[float, float]:
    robot = plugins.load("robots", "mock")()
    layout = robot_layout(robot.spec)
    chosen = plugins.load("strategies", strategy)(execution_horizon=horizon)
    worker, start = LateWorker(chunks(layout.width)), np.zeros(layout.width)
    pacer = Pacer(50.0, clock=time.perf_counter, sleep=lambda seconds: None)
    loop = ControlLoop(
        robot,
        worker,
        Scheduler(layout, chosen, hold=start),
        Gate(layout, pacer.period_s, start=start),
        pacer,
        EventRing(),
    )

    def call(step: int) -> None:
        worker.step = step
        loop.turn(step)

    return measure(call)


def import_cost(rounds: int) -> tuple[float, float]:
    """Seconds that ``import chunkwise`` takes beyond ``import numpy``: median, and the noise of the pair."""

    def once(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    pairs = [(once("import numpy"), once("import numpy, chunkwise")) for _ in range(rounds)]
    over = [b - a for a, b in pairs]
    return statistics.median(over), statistics.median(abs(value - statistics.median(over)) for value in over)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-page", action="store_true", help="print only")
    rounds = parser.parse_args().rounds
    sticks: list[float] = []
    results: dict[str, list[tuple[float, float]]] = {}
    for round_number in range(rounds):
        sticks.append(yardstick())
        for strategy in STRATEGIES:
            for horizon in (0, 25):
                every = f"s = {horizon}" if horizon else ("s = H/2" if strategy == "sync" else "s = d")
                results.setdefault(f"tick, {strategy}, {every}", []).append(tick_cost(strategy, horizon))
                if strategy in ("switch", "rtc"):
                    results.setdefault(f"turn, {strategy}, {every}", []).append(turn_cost(strategy, horizon))
        print(f"round {round_number + 1} of {rounds}", file=sys.stderr)
    stick = statistics.median(sticks)
    over, noise = import_cost(rounds)
    lines = [
        "# What a tick and a turn cost",
        "",
        "`make bench-tick`. A tick is `scheduler.tick` alone; a turn is one whole turn of the control loop on the",
        "`mock` robot without inference: observe, tick, gate, act, event. 16 columns, chunks of 50 rows, a delay of",
        f"{DELAY} steps, {STEPS} steps a round, median of {rounds} rounds. The yardstick, measured in the same rounds,",
        f"is a Python call that copies one row: {stick:.2f} us, from {min(sticks):.2f} to {max(sticks):.2f}: that",
        f"is this machine's noise. Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}.",
        "",
        "| what | median us | yardsticks | 99th percentile us |",
        "|---|---|---|---|",
    ]
    for name, rows in results.items():
        median = statistics.median(row[0] for row in rows)
        tail = statistics.median(row[1] for row in rows)
        lines.append(f"| {name} | {median:.2f} | {median / stick:.1f} | {tail:.1f} |")
    lines += [
        "",
        f"`import chunkwise` costs {1e3 * over:.0f} ms over `import numpy` (noise {1e3 * noise:.0f} ms).",
    ]
    page = "\n".join(lines) + "\n"
    print(page)
    if "--no-page" not in sys.argv:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
