"""How well the control loop keeps its rate while a policy holds the interpreter.

    python benchmarks/jitter.py              # 5 minutes; prints, and writes docs/benchmarks/jitter.md
    python benchmarks/jitter.py --seconds 1 --rounds 1

The policy spends 50 ms of pure Python on every answer and never lets go of the interpreter by itself.  Measured is when
each command reaches the robot.  A loop that only sleeps stands beside: what it loses, the machine took.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.policies import Recipe
from chunkwise.runtime.realtime import RealTime
from chunkwise.runtime.session import Session

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "jitter.md"
RATES = (50.0, 200.0, 500.0)
BUSY_S, ROWS, DOF = 0.05, 100, 7
WAYS = (
    ("a loop that only sleeps", "", False),
    ("thread worker", "thread", False),
    ("process worker", "process", False),
    ("a loop that only sleeps, real time", "", True),
    ("process worker, real time", "process", True),
)
EDGES_US = (10, 30, 100, 300, 1000, 3000, 10_000)
"""Of the histograms."""


class Busy:
    """Holds the interpreter for 50 ms, then answers."""

    def __init__(self) -> None:
        outputs = [PolicyOutputSpec("arm", "joint_position", DOF)]
        self.spec = PolicySpec("busy", [], ["arm"], outputs=outputs, action_horizon=ROWS)

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        end = time.perf_counter() + BUSY_S
        while time.perf_counter() < end:
            pass
        return ActionChunk(np.zeros((ROWS, DOF)))


class Bench:
    """Writes down when it is told something."""

    def __init__(self) -> None:
        self.spec = RobotSpec("bench", [], [ComponentSpec("arm", "arm", DOF, ["joint_position"])])
        self.times: list[float] = []
        self._state = np.zeros(DOF)

    def connect(self) -> None: ...

    def observe(self) -> Frame:
        return Frame(state={"arm": self._state})

    def act(self, action: Action) -> Action:
        self.times.append(time.perf_counter())
        return action

    def close(self) -> None: ...


class Kept(NamedTuple):
    """One run."""

    hz: float
    errors_us: np.ndarray
    starved: int
    granted: list[str]


def slept(hz: float, seconds: float, real_time: bool) -> Kept:
    """The loop that only sleeps until its next deadline, and leaves out the ones that have passed."""
    times: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        step = 0
        while step < seconds * hz:
            wait = start + step / hz - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            times.append(time.perf_counter())
            step = max(step + 1, int((times[-1] - start) * hz))

    if not real_time:
        run()
        return kept(times, hz, 0, [])
    with RealTime() as granted:
        run()
    return kept(times, hz, 0, granted.said)


def driven(hz: float, seconds: float, worker: str, real_time: bool) -> Kept:
    """The control loop with the busy policy."""
    robot, said = Bench(), []
    recipe = Recipe(f"{Path(__file__).resolve()}:Busy")
    with Session(
        robot, recipe, "switch", worker=worker, control_hz=hz, realtime=real_time, on_message=said.append
    ) as session:
        report = session.run(seconds=seconds)
    begun = round(0.2 * hz)  # the first chunk is there
    return kept(robot.times[begun:], hz, report.starved_steps, said[-4:] if real_time else [])


def kept(times: list[float], hz: float, starved: int, granted: list[str]) -> Kept:
    """What the times of the commands say."""
    periods = np.diff(times)
    rate = len(periods) / (times[-1] - times[0])
    return Kept(rate, np.abs(periods - 1 / hz) * 1e6, starved, granted)


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PAGE)
    parsed = parser.parse_args()
    runs: dict[tuple[str, float], list[Kept]] = {}
    load = os.getloadavg()[0]
    for number in range(parsed.rounds):
        for hz in RATES:
            for name, worker, real_time in WAYS:
                measured = (
                    driven(hz, parsed.seconds, worker, real_time)
                    if worker
                    else slept(hz, parsed.seconds, real_time)
                )
                runs.setdefault((name, hz), []).append(measured)
                errors = np.percentile(measured.errors_us, [50, 99])
                print(
                    f"round {number + 1}: {hz:g} Hz, {name}: {measured.hz:.1f} Hz, "
                    f"p50 {errors[0]:.0f}, p99 {errors[1]:.0f} us, starved {measured.starved}",
                    flush=True,
                )
    parsed.out.write_text(page(runs, parsed.seconds, parsed.rounds, load), encoding="utf-8")
    print(f"wrote {parsed.out}")


def page(runs: dict[tuple[str, float], list[Kept]], seconds: float, rounds: int, load: float) -> str:
    """The page."""
    lines = [
        "# Keeping the rate while a policy holds the interpreter",
        "",
        "`python benchmarks/jitter.py` (`make bench-jitter`). The policy spends 50 ms of pure Python on every answer, "
        "chunks have 100 rows. Measured is when each command reaches the robot: the rate that was kept, and by how much "
        "the time between two commands differs from the period. "
        f"Each figure is the median of {rounds} runs of {seconds:g} s, in brackets the worst run. "
        "A loop that does nothing but sleep stands beside: what it loses, the machine took.",
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f} when it began.",
        "",
        "| rate | | rate kept | share | error p50, us | error p99, us | largest, us | starved steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, hz), made in sorted(runs.items(), key=lambda item: item[0][1]):
        rate = [run.hz for run in made]
        p50, p99, most = ([float(np.percentile(run.errors_us, share)) for run in made] for share in (50, 99, 100))
        lines.append(
            f"| {hz:g} Hz | {name} | {_both(rate, min, 1)} | {100 * statistics.median(rate) / hz:.2f} % | {_both(p50, max)} | "
            f"{_both(p99, max)} | {_both(most, max)} | {max(run.starved for run in made)} |"
        )
    lines += [
        "",
        "inferaxis, as its own study published it for the same policy on a loaded machine of two cores: "
        "39, 100 and 145 Hz at 50, 200 and 500.",
        "",
        "## Histograms of the error",
        "",
        "Shares of all periods of all runs, in per cent.",
        "",
        "| rate | | " + " | ".join(f"≤ {edge} us" for edge in EDGES_US) + " | more |",
        "|---|---|" + "---|" * (len(EDGES_US) + 1),
    ]
    for (name, hz), made in sorted(runs.items(), key=lambda item: item[0][1]):
        errors = np.concatenate([run.errors_us for run in made])
        counts, _ = np.histogram(errors, [0, *EDGES_US, np.inf])
        shares = " | ".join(f"{100 * count / len(errors):.2f}" if count else "" for count in counts)
        lines.append(f"| {hz:g} Hz | {name} | {shares} |")
    granted = next((run.granted for (_, _), made in runs.items() for run in made if run.granted), [])
    lines += ["", "Real time here was: " + "; ".join(granted) + ".", ""]
    return "\n".join(lines)


def _both(values: list[float], worst: object, digits: int = 0) -> str:
    """The median, and the worst of several."""
    return f"{statistics.median(values):.{digits}f} ({worst(values):.{digits}f})"  # type: ignore[operator]


if __name__ == "__main__":
    main()
