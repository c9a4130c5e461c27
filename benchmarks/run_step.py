"""What run_step costs beyond the functions that it calls.

    python benchmarks/run_step.py        # prints, and writes docs/benchmarks/run_step.md

Every figure is the median of several rounds.  In each round the bare functions (observe, infer, act, without the
library) are measured as well, and the overhead is the difference of the two medians of that round; beside it stands
the yardstick of `benchmarks/tick.py`, whose spread is the machine's noise.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import chunkwise as infra

STEPS, ROWS, POLICY_S, STEADY_HZ = 2000, 50, 0.005, 500.0
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "run_step.md"
SIZES = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
KINDS = ("tiny frame", "3 VGA images")

PUBLISHED = (
    ("bare observe, infer, act", "5.6", "13.4"),
    ("no runtime", "43", "59"),
    ("sync, single action", "", "60"),
    ("sync, chunk of 50", "", "23"),
    ("async pop", "", "24"),
    ("async, 5 ms policy", "", "67"),
    ("async, 5 ms policy, ensemble", "", "68"),
    ("async, 5 ms policy, RTC", "", "67"),
    ("async, 5 ms policy, interpolation", "", "65"),
    ("async pop, profile", "", "35"),
)
"""Medians in us, the caller's functions included, that were measured of the inferaxis library on another day."""


class Arms:
    """A robot with a spec, which the actions are compared with; what its driver does is no concern here.

    Args:
        kind: of its frames, one of KINDS.
    """

    def __init__(self, kind: str) -> None:
        self._cameras = ("left", "right", "front") if kind == KINDS[1] else ()
        self._image = np.zeros((480, 640, 3), dtype=np.uint8)

    def get_spec(self) -> infra.RobotSpec:
        """Two arms with a gripper each."""
        components = [
            infra.ComponentSpec(name, "arm" if size > 1 else "gripper", size, [kind_of(size)])
            for name, size in SIZES.items()
        ]
        return infra.RobotSpec("arms", list(self._cameras), components)

    def get_obs(self) -> infra.Frame:
        """A new frame, as a driver makes it."""
        state = {name: np.zeros(size) for name, size in SIZES.items()}
        return infra.Frame(images=dict.fromkeys(self._cameras, self._image), state=state)

    def send_action(self, action: infra.Action) -> infra.Action:
        """Done."""
        return action


def kind_of(size: int) -> str:
    """The command kind of a component with so many numbers."""
    return "gripper_position" if size == 1 else "joint_position"


def make_action() -> infra.Action:
    """Four commands."""
    return infra.Action({name: infra.Command(kind_of(size), np.full(size, 0.5)) for name, size in SIZES.items()})


ONE, CHUNK = make_action(), [make_action() for _ in range(ROWS)]
LONG = [make_action() for _ in range(4000)]
"""Of which a whole round of steps is popped while nothing is under way."""


def slow(frame: infra.Frame, request: infra.ChunkRequest) -> list[infra.Action]:
    """A policy that sleeps, as one that waits for a GPU."""
    time.sleep(POLICY_S)
    return CHUNK


def timed(call: Callable[[], Any], pause: Callable[[], Any] | None = None, steps: int = STEPS) -> float:
    """Median of one call, us; what `pause` takes is not counted."""
    spent = np.empty(steps)
    for step in range(steps):
        start = time.perf_counter_ns()
        call()
        spent[step] = time.perf_counter_ns() - start
        if pause is not None:
            pause()
    return float(np.median(spent)) / 1e3


def yardstick() -> float:
    """The one of `benchmarks/tick.py`: a Python call that copies one row."""
    rows = np.zeros((ROWS, 16))
    return timed(lambda: (lambda step: rows[step % ROWS].copy())(3))


@contextmanager
def stepping(kind: str, source: Any, mode: str | None, **options: Any) -> Iterator[Callable[[], Any]]:
    """A function that makes one step of a warm loop."""
    arms = Arms(kind)
    if mode is None:
        yield lambda: infra.run_step(observe_fn=arms.get_obs, act_fn=arms.send_action, act_src_fn=source)
        return
    with infra.InferenceRuntime(mode, **options) as runtime:

        def step() -> Any:
            return infra.run_step(
                observe_fn=arms.get_obs,
                act_fn=arms.send_action,
                act_src_fn=source,
                runtime=runtime,
                pace_control=False,
            )

        step()
        yield step


def bare(kind: str) -> float:
    """Observe, infer and act without the library."""

    def step() -> Any:
        return arms.send_action(infer_one(arms.get_obs(), request))

    arms, infer_one, request = Arms(kind), quick(ONE), infra.ChunkRequest(0)
    return timed(step)


def quick(answer: Any) -> Callable[[infra.Frame, infra.ChunkRequest], Any]:
    """A policy that knows its answer."""
    return lambda frame, request: answer


STEADY: dict[str, dict[str, Any]] = {
    "": {},
    ", ensemble": {"ensemble_weight": (0.2, 0.8)},
    ", RTC": {"enable_rtc": True, "execution_steps": 20},
    ", interpolation": {"interpolation_steps": 2},
}


def one_round(kind: str) -> Iterator[tuple[str, float]]:
    """Every case once: its name, us per step."""
    yield "bare observe, infer, act", bare(kind)
    with stepping(kind, quick(ONE), None) as step:
        yield "no runtime", timed(step)
    with stepping(kind, quick(ONE), "sync") as step:
        yield "sync, single action", timed(step)
    with stepping(kind, quick(CHUNK), "sync") as step:
        yield "sync, chunk of 50", timed(step)
    with stepping(kind, quick(LONG), "async", steps_before_request=3900) as step:
        yield "async pop", timed(step)
    with tempfile.TemporaryDirectory() as folder:
        options = {"profile": True, "profile_output_dir": folder}
        with stepping(kind, quick(LONG), "async", steps_before_request=3900, **options) as step:
            yield "async pop, profile", timed(step)
    for name, options in STEADY.items():
        paced = infra.RealtimeController(hz=STEADY_HZ, warning_emitter=lambda text: None)
        with stepping(kind, slow, "async", **options) as step:
            yield f"async, 5 ms policy{name}", timed(step, paced.wait, steps=STEPS // 4)


def close_cost() -> float:
    """Seconds that closing a profiled run of 3300 steps takes."""
    with tempfile.TemporaryDirectory() as folder:
        arms = Arms(KINDS[0])
        runtime = infra.InferenceRuntime("async", worker="inline", profile=True, profile_output_dir=folder)
        for _ in range(3300):
            infra.run_step(
                observe_fn=arms.get_obs, act_fn=arms.send_action, act_src_fn=quick(CHUNK), runtime=runtime
            )
        start = time.perf_counter()
        runtime.close()
        return time.perf_counter() - start


def page(results: dict[tuple[str, str], list[float]], sticks: list[float], closing_s: float, rounds: int) -> str:
    """The figures as a document."""
    stick = statistics.median(sticks)
    lines = [
        "# What run_step costs",
        "",
        "`make bench-run-step`. Overhead of one `run_step` over the bare functions that it calls (make a frame, answer,",
        "act), which were measured in the same rounds; four components, chunks of 50 actions. The 5 ms policy sleeps in",
        f"a thread beside a loop at {STEADY_HZ:g} Hz, whose pauses are not counted, so a step begins with cold caches.",
        f"Median of {rounds} rounds of {STEPS} steps ({STEPS // 4} for the 5 ms policy), with the lowest and the highest",
        f"round. The yardstick, a Python call that copies one row, is {stick:.2f} us, from {min(sticks):.2f} to",
        f"{max(sticks):.2f}: that is this machine's noise. Python {platform.python_version()}, numpy {np.__version__},",
        f"{platform.machine()}.",
        "",
        f"| what | {KINDS[0]}, us | {KINDS[1]}, us | yardsticks | goal |",
        "|---|---|---|---|---|",
    ]
    goals = {"no runtime": "<= 30", "async pop": "<= 15"}
    for name in dict.fromkeys(name for _, name in results):
        cells = []
        for kind in KINDS:
            over = results[kind, name]
            cells.append(f"{statistics.median(over):.1f} ({min(over):.1f} to {max(over):.1f})")
        yards = statistics.median(results[KINDS[1], name]) / stick
        lines.append(f"| {name} | {' | '.join(cells)} | {yards:.0f} | {goals.get(name, '')} |")
    lines += [
        "",
        "The first row is the bare functions themselves; the others stand on top of it. A chunk's own check is made",
        "where the policy runs: in the thread for async, and for sync in one step of fifty, which a median passes over.",
        "",
        f"Closing a profiled run of 3300 steps, page and JSON written: {closing_s:.2f} s.",
        "",
        "## Beside the published library",
        "",
        "Quoted, not measured here: medians of the inferaxis library in us, on another day of a machine like this one",
        "under a real-time scheduler, four components too, *with* the caller's functions in them (its first row). So",
        "compare orders of magnitude, and differences to the first row.",
        "",
        "| what | tiny frame | 3 VGA images |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {tiny} | {images} |" for name, tiny, images in PUBLISHED]
    lines += ["", "Its `close()` of a profiled run of 3300 steps: 1.9 to 6.3 s."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-page", action="store_true", help="print only")
    options = parser.parse_args()
    results: dict[tuple[str, str], list[float]] = {}
    sticks = []
    for number in range(options.rounds):
        sticks.append(yardstick())
        for kind in KINDS:
            base = 0.0
            for name, spent in one_round(kind):
                results.setdefault((kind, name), []).append(spent - base)
                base = base or spent
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    made = page(results, sticks, close_cost(), options.rounds)
    print(made)
    if not options.no_page:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
