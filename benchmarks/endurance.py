"""A million control periods in simulated time, and ten minutes in real time, under faults at random.

    python benchmarks/endurance.py                                  # both; writes docs/benchmarks/endurance.md
    python benchmarks/endurance.py --periods 20000 --seconds 20     # a short look; prints only

Every command is checked at the robot by plain arithmetic that shares nothing with the gate it passed, or with the
checks of ``chunkwise chaos``.  After the real run the system is searched for processes and files that were left.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.chaos.measure import Effect
from chunkwise.chaos.plan import Harm, Injection, random_plan
from chunkwise.chaos.run import Outcome, endure
from chunkwise.chaos.simulated import endure_simulated
from chunkwise.contract import Action, Frame
from chunkwise.policies import Recipe
from chunkwise.runtime.session import Session
from chunkwise.testing.world import SimulatedClock

PERIODS, SECONDS = 1_000_000, 600.0
SIMULATED_HZ, REAL_HZ = 500.0, 200.0
REST_S = {"simulated": 0.5, "real": 1.0}
"""Between two faults, beyond half of the longest."""
RECOVER_S = 7.0
"""What is left of a run after its last fault, at least."""
TIMEOUT_S = 2.0
"""After which an inference that hangs is given up."""
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "endurance.md"
SHARED = Path("/dev/shm")


@dataclass
class Judge:
    """The mock robot, whose every command is checked before it gets it.

    Attributes:
        commands: that it got.
        wrong: those beyond a limit of position or speed; the first of them in words.
        fastest: the largest step of a joint, as a share of what its speed limit allows in a period.
        gap_s: the longest time between two commands.
    """

    hz: float
    clock: Callable[[], float]
    commands: int = 0
    wrong: list[str] = field(default_factory=list)
    fastest: float = 0.0
    gap_s: float = 0.0

    def __post_init__(self) -> None:
        self._robot = plugins.load("robots", "mock")(cameras=("head", "wrist"), control_hz=self.hz)
        self.spec = self._robot.spec
        self._limits = {
            item.name: list(zip(item.lower, item.upper, item.max_rate, strict=True))
            for item in self.spec.components
        }
        self._told: dict[str, list[float]] = {}
        self._last_s = math.inf

    def connect(self) -> None:
        self._robot.connect()

    def observe(self) -> Frame:
        frame: Frame = self._robot.observe()
        for name, value in frame.state.items():
            self._told.setdefault(name, value.tolist())  # what the first command counts from
        return frame

    def act(self, action: Action) -> Action:
        now = self.clock()
        self.gap_s, self._last_s = max(self.gap_s, now - self._last_s), now
        self.commands += 1
        for name, command in action.commands.items():
            values = command.value.tolist()
            for value, last, (lower, upper, rate) in zip(
                values, self._told[name], self._limits[name], strict=True
            ):
                share = abs(value - last) * self.hz / rate
                self.fastest = max(self.fastest, share)
                if not (lower - 1e-9 <= value <= upper + 1e-9 and share <= 1 + 1e-6):
                    self.wrong.append(f"command {self.commands}: {name} from {last} to {value}")
            self._told[name] = values
        return self._robot.act(action)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._robot.close()


def plan_of(judge: Judge, seconds: float, seed: int, rest_s: float) -> list[Injection]:
    """Faults at random for so many seconds, less a little to recover in."""
    drawn = random_plan(math.ceil(seconds / (rest_s + 1.0)) * 2 + 2, seed, judge.spec, rest_s=rest_s)
    return [item for item in drawn if item.end_s < seconds - RECOVER_S]


def wave(hz: float) -> dict[str, Any]:
    """A swing beyond the robot's limits (3.3 rad of 3.1) and close to its speed (9.4 rad/s of 10)."""
    return {"amplitude": 3.3, "period_s": 2.2, "rows": int(hz / 2), "control_hz": hz}


def told_now_and_then(what: str) -> Callable[[str], None]:
    """Shows every fiftieth fault."""
    count = 0

    def say(text: str) -> None:
        nonlocal count
        count += 1
        if count % 50 == 0:
            print(f"{what}: {count} faults, the last one {text.strip()}", flush=True)

    return say


def simulated(periods: int, seed: int) -> tuple[Judge, Outcome, float]:
    """So many periods in simulated time."""
    clock = SimulatedClock(1000.0)
    judge, seconds = Judge(SIMULATED_HZ, clock), periods / SIMULATED_HZ
    plan = plan_of(judge, seconds, seed, REST_S["simulated"])
    settle_s = max(seconds - max((item.end_s for item in plan), default=0.0), RECOVER_S) + 0.1
    began = time.monotonic()
    outcome = endure_simulated(
        judge,
        "wave",
        plan,
        clock,
        options=wave(SIMULATED_HZ),
        control_hz=SIMULATED_HZ,
        latency_s=0.06,
        inference_timeout_s=TIMEOUT_S,
        seed=seed,
        settle_s=settle_s,
        say=told_now_and_then("simulated"),
    )
    return judge, outcome, time.monotonic() - began


def real(seconds: float, seed: int, realtime: bool) -> tuple[Judge, Outcome, list[str]]:
    """So many seconds with an inference process, and what is left of it afterwards."""
    judge = Judge(REAL_HZ, time.monotonic)
    plan = plan_of(judge, seconds, seed, REST_S["real"])
    settle_s = max(seconds - max((item.end_s for item in plan), default=0.0), RECOVER_S)
    recipe = Recipe("chunkwise.chaos.policy:FaultyPolicy", {"name": "wave", "options": wave(REAL_HZ)})
    files = {path.name for path in SHARED.iterdir()}
    say = told_now_and_then("real")

    def session(wrapped: Any) -> Session:
        return Session(
            wrapped,
            recipe,
            worker="process",
            inference_timeout_s=TIMEOUT_S,
            realtime=realtime,
            on_message=say_what_was_granted,
        )

    outcome = endure(judge, session, plan, settle_s=settle_s, gap_s=math.inf, say=say)
    left = [f"process {pid}" for pid in ours()]
    left += [f"/dev/shm/{path.name}" for path in SHARED.iterdir() if path.name not in files and is_ours(path)]
    return judge, outcome, left


def say_what_was_granted(text: str) -> None:
    if "inference process" not in text:
        print(text, flush=True)


def ours() -> list[int]:
    """Processes that were started by this one, whoever is their parent now."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid() or f'"parent": {os.getpid()},'.encode() in words:
            found.append(int(entry.name))
    return found


def is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid() and path.is_file()
    except OSError:
        return False


def by_kind(effects: list[Effect]) -> list[str]:
    """A row for each kind of fault."""
    rows = []
    for harm in Harm:
        some = [effect for effect in effects if effect.injection.harm is harm]
        if not some:
            continue
        periods, commands = sum(effect.periods for effect in some), sum(effect.commands for effect in some)
        held = [effect.hold_s for effect in some if effect.hold_s is not None]
        recovered = [effect.recover_s for effect in some if effect.recover_s is not None]
        share = max((effect.largest.share for effect in some if not math.isnan(effect.largest.share)), default=0.0)
        rows.append(
            f"| {harm} | {len(some)} | {periods} | {periods - commands} | {1e3 * max(e.gap_s for e in some):.1f} "
            f"| {100 * share:.1f} | {f'{len(held)}, {np.median(held):.2f}' if held else 'none'} "
            f"| {np.median(recovered):.2f} / {max(recovered):.2f} |"
            if recovered
            else f"| {harm} | {len(some)} | {periods} | {periods - commands} | | | | never |"
        )
    return rows


def section(title: str, text: str, judge: Judge, outcome: Outcome, left: list[str] | None) -> list[str]:
    silent = outcome.periods - outcome.commands - outcome.missed
    broken = [*outcome.broken, *judge.wrong[:5], *(left or [])]
    leaks = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in outcome.leaks.items()) or "nothing"
    share = 100 * outcome.missed / max(outcome.periods, 1)
    report = outcome.report
    states = ", ".join(f"{mode} {count}" for mode, count in (report.modes if report else {}).items())
    lines = [
        f"## {title}",
        "",
        text,
        "",
        "| | |",
        "|---|---|",
        f"| control periods since the first chunk | {outcome.periods} |",
        f"| faults | {len(outcome.effects)} |",
        f"| turns of the loop without a command | {silent} |",
        f"| periods without a turn, and so without a command: the loop woke too late | {outcome.missed} ({share:.3f} %) |",
        f"| longest time between two commands, ms | {1e3 * outcome.gap_s:.1f} of {1e3 / outcome.control_hz:.1f} |",
        f"| commands beyond a limit, by the check at the robot | {len(judge.wrong)} of {judge.commands} |",
        f"| fastest joint, % of its limit | {100 * judge.fastest:.3f} |",
        f"| faults that were not recovered from | {sum(e.recover_s is None for e in outcome.effects)} |",
        f"| left behind (files, descriptors, threads, processes) | {leaks} |",
    ]
    if left is not None:
        lines.append(
            f"| left on the machine (processes of this run, files in /dev/shm) | {', '.join(left) or 'nothing'} |"
        )
    lines += [
        f"| states of the run, in periods | {states} |",
        f"| **promises broken** | **{'; '.join(broken) or 'none'}** |",
        "",
        "| fault | times | periods | without a command | longest gap, ms | largest step, % of its limit "
        "| held: times, median s until then | recovered: median / longest s |",
        "|---|---|---|---|---|---|---|---|",
        *by_kind(outcome.effects),
        "",
    ]
    return lines


def shown(lines: list[str]) -> list[str]:
    """The lines, once they are printed."""
    print("\n".join(lines), flush=True)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--periods", type=int, default=PERIODS, help="in simulated time; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in real time; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--realtime", action="store_true", help="ask for real-time scheduling")
    parser.add_argument("--no-page", action="store_true", help="print only")
    parser.add_argument("--page", action="store_true", help="write the page of a short run too")
    asked = parser.parse_args()
    pages, failed = [], False
    if asked.periods:
        judge, outcome, took_s = simulated(asked.periods, asked.seed)
        text = (
            f"{outcome.periods} periods at {SIMULATED_HZ:g} Hz in {took_s:.0f} s, strategy `rtc`, chunks of 0.5 s, a "
            f"simulated inference process: answers take 30 to 90 ms, a new start 0.5 s; one that hangs is given up after {TIMEOUT_S:g} s."
        )
        pages += shown(section("Simulated time", text, judge, outcome, None))
        failed |= bool(outcome.broken or judge.wrong) or outcome.periods < asked.periods or outcome.missed > 0
    if asked.seconds:
        judge, outcome, left = real(asked.seconds, asked.seed, asked.realtime)
        how = "with real-time scheduling asked for" if asked.realtime else "without real-time scheduling"
        text = (
            f"{asked.seconds:g} s at {REAL_HZ:g} Hz, strategy `rtc`, chunks of 0.5 s, `--worker process`, {how}, on "
            f"{os.cpu_count()} cores. An inference that hangs is given up after {TIMEOUT_S:g} s."
        )
        pages += shown(section("Real time", text, judge, outcome, left))
        failed |= bool(outcome.broken or judge.wrong or left)
    whole = asked.periods >= PERIODS and asked.seconds >= SECONDS
    if (whole or asked.page) and not asked.no_page:
        PAGE.write_text("\n".join([*HEAD, *pages]).rstrip() + "\n", encoding="utf-8")
    return int(failed)


HEAD = [
    "# Endurance",
    "",
    "`python benchmarks/endurance.py`. The `mock` robot with two cameras swings beyond its limits and close to its",
    "greatest speed, so that the gate has work, while every kind of fault of `chunkwise chaos` comes at random",
    "([chaos.md](../chaos.md)). Every command is checked at the robot by arithmetic of the benchmark's own.",
    "A period without a turn is counted, and is not among the promises below: in real time no program can keep it on a "
    "machine that others use too.",
    f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}.",
    "",
]

if __name__ == "__main__":
    sys.exit(main())
