"""Strategies under inference delay, on the task "two belts" in the full MuJoCo model, in simulated time.

    python benchmarks/chunking.py                # everything: tens of CPU-minutes; writes docs/benchmarks/
    python benchmarks/chunking.py --episodes 16  # a quick look; writes nothing unless --out is given
    python benchmarks/chunking.py --method "rtc, trained prefix"  # these rows anew, the others as they are

Every cell is a strategy at a delay, run by the package's own scheduler in lock step: an answer to the request of
control step k is there at step k + d.  The same fresh seeds of the belts for every cell, and three policies that
differ in nothing but their training seed; and for training-time guidance the three of `training/train_prefix.py`,
of the same seeds, episodes and optimiser's steps.  Nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

for library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(library, "1")

import numpy as np  # noqa: E402  (after the libraries were told to keep to one thread)

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "benchmarks"
POLICIES = [
    str(ROOT / "src" / "chunkwise" / "policies" / "demo_assets"),
    str(ROOT / "benchmarks" / "policies" / "seed1"),
    str(ROOT / "benchmarks" / "policies" / "seed2"),
]
PREFIXED = [str(ROOT / "benchmarks" / "policies" / f"prefix{seed}") for seed in range(3)]
FIRST_SEED = 2_000_000
"""Belts of the published figures; neither training nor design nor the policies' own records saw them."""
PERIOD_MS = 20
DELAYS_MS = (0, 40, 80, 120, 160, 200)
FIXED_S = 12
SYNC_ROWS = 8
"""Rows that `sync` runs of a chunk where the others ask as often as possible."""
WORLDS = 64


@dataclass(frozen=True)
class Method:
    """A row of the table: a strategy, and how the policy answers it."""

    name: str
    strategy: str
    options: tuple[tuple[str, Any], ...] = ()
    jacobian: str = "vjp"
    """``trained`` for the networks that were trained to continue a plan, which have no use for one."""


METHODS = (
    Method("rtc", "rtc"),
    Method("rtc, hard mask", "rtc", (("schedule", "zeros"),)),
    Method("rtc, identity Jacobian", "rtc", (), "identity"),
    Method("rtc, trained prefix", "rtc", (), "trained"),
    Method("switch", "switch"),
    Method("blend", "blend"),
    Method("temporal_ensemble", "temporal_ensemble"),
    Method("sync", "sync"),
)

GUIDANCE = tuple(method.name for method in METHODS if method.strategy == "rtc")
"""Ways to continue a plan."""


@dataclass(frozen=True)
class Cell:
    """One method at one delay: `horizon` 0 asks as often as possible, else every that many steps."""

    method: Method
    delay_ms: int
    horizon: int


@dataclass
class Outcome:
    """What came of some episodes of a cell."""

    episodes: int
    successes: int
    seam_jump: float
    jerk: float
    starved: int


def run(cell: Cell, index: int, seeds: Iterable[int]) -> Outcome:
    """Episodes of one cell with the policies of one training seed, all worlds in lock step."""
    sys.path.append(str(ROOT / "training"))
    from _prefix_demo import PrefixDemo
    from lockstep import World, play

    from chunkwise import plugins
    from chunkwise.contract import robot_layout
    from chunkwise.runtime.report import jerk, seam_jump

    seeds = list(seeds)
    policy: Any
    if cell.method.jacobian == "trained":
        policy = PrefixDemo(PREFIXED[index])
    else:
        policy = plugins.load("policies", "demo")(model=POLICIES[index], jacobian=cell.method.jacobian)
    horizon = cell.horizon or (SYNC_ROWS if cell.method.strategy == "sync" else 0)
    strategy = plugins.load("strategies", cell.method.strategy)(
        execution_horizon=horizon, **dict(cell.method.options)
    )
    rng = np.random.default_rng(seeds[0])
    played = play(World(seeds), policy.infer_batch, strategy, cell.delay_ms // PERIOD_MS, rng)
    policy.close()
    layout = robot_layout(plugins.load("robots", "openarm_sim")().spec)
    seams = [[k for k in range(1, len(row)) if 0 <= row[k] != row[k - 1]] for row in played.chunks]
    return Outcome(
        len(seeds),
        int((~played.score.failed).sum()),
        float(np.mean([seam_jump(*pair) for pair in zip(played.commands, seams, strict=True)])),
        float(np.mean([jerk(rows, layout, 1000 / PERIOD_MS) for rows in played.commands])),
        int(played.starved.sum()),
    )


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson 1927)."""
    z, p = 1.959964, successes / episodes
    centre, spread = p + z * z / (2 * episodes), z * math.sqrt(p * (1 - p) / episodes + (z / (2 * episodes)) ** 2)
    return (centre - spread) / (1 + z * z / episodes), (centre + spread) / (1 + z * z / episodes)


def merge(outcomes: list[Outcome]) -> dict[str, Any]:
    """Pool the outcomes of one cell."""
    episodes = sum(item.episodes for item in outcomes)
    successes = sum(item.successes for item in outcomes)
    return {
        "episodes": episodes,
        "successes": successes,
        "rate": successes / episodes,
        "interval": wilson(successes, episodes),
        "seam_jump": sum(item.seam_jump * item.episodes for item in outcomes) / episodes,
        "jerk": sum(item.jerk * item.episodes for item in outcomes) / episodes,
        "starved_per_episode": sum(item.starved for item in outcomes) / episodes,
    }


def sweep(
    episodes: int, first_seed: int, jobs: int, methods: Iterable[Method], horizons: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Every cell with every policy; `episodes` per cell and policy."""
    cells = [Cell(method, delay, s) for method in methods for s in horizons for delay in DELAYS_MS]
    batches = [
        (cell, index, range(first_seed + start, first_seed + min(start + WORLDS, episodes)))
        for cell in cells
        for index in range(len(POLICIES))
        for start in range(0, episodes, WORLDS)
    ]
    found: dict[Cell, list[tuple[int, Outcome]]] = {cell: [] for cell in cells}
    began = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        futures = {pool.submit(run, cell, index, seeds): (cell, index) for cell, index, seeds in batches}
        for count, future in enumerate(as_completed(futures), 1):
            cell, index = futures[future]
            found[cell].append((index, future.result()))
            left = (time.monotonic() - began) * (len(batches) - count) / count
            print(f"\r{count} of {len(batches)} batches, about {left / 60:.0f} min left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    rows = []
    for cell, outcomes in found.items():
        by_policy = [[item for index, item in outcomes if index == policy] for policy in range(len(POLICIES))]
        rows.append(
            {
                "method": cell.method.name,
                "delay_ms": cell.delay_ms,
                "horizon": cell.horizon,
                **merge([item for _, item in outcomes]),
                "rate_by_training_seed": [merge(items)["rate"] for items in by_policy],
            }
        )
    return rows


def table(rows: list[dict[str, Any]], horizon: int, value: str, methods: Iterable[str] | None = None) -> list[str]:
    """Methods down, delays across."""
    names = [method.name for method in METHODS] if methods is None else methods
    lines = [
        "| method | " + " | ".join(f"{ms} ms" for ms in DELAYS_MS) + " |",
        "|---" * (len(DELAYS_MS) + 1) + "|",
    ]
    for name in names:
        cells = []
        for delay in DELAYS_MS:
            row = pick(rows, name, delay, horizon)
            if row is None:
                break
            if value == "rate":
                low, high = row["interval"]
                cells.append(f"{row['rate']:.3f} [{low:.2f}, {high:.2f}]")
            elif value == "spread":
                cells.append(" ".join(f"{rate:.2f}" for rate in row["rate_by_training_seed"]))
            else:
                cells.append(f"{row[value]:.4g}")
        if cells:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def pick(rows: list[dict[str, Any]], method: str, delay_ms: int, horizon: int) -> dict[str, Any] | None:
    """The row of a cell, or None."""
    wanted = (method, delay_ms, horizon)
    return next((row for row in rows if (row["method"], row["delay_ms"], row["horizon"]) == wanted), None)


def claims(rows: list[dict[str, Any]]) -> list[str]:
    """The orders that the strategies were built for, as they came out."""
    lines = []
    for delay in DELAYS_MS:
        rtc, switch = pick(rows, "rtc", delay, 0), pick(rows, "switch", delay, 0)
        ensemble = pick(rows, "temporal_ensemble", delay, 0)
        assert rtc and switch and ensemble
        for better, name, worse, other in (
            (rtc, "rtc", switch, "switch"),
            (switch, "switch", ensemble, "ensemble"),
        ):
            lines.append(
                f"* {delay} ms: {name} {better['rate']:.3f} against {other} {worse['rate']:.3f}: "
                f"{name} is {order(better, worse)}"
            )
    return lines


def order(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Which of two cells did better, as far as the intervals tell."""
    if one["interval"][0] > other["interval"][1]:
        return "above, intervals apart"
    return "below, intervals apart" if one["interval"][1] < other["interval"][0] else "not separated"


def guidance(rows: list[dict[str, Any]], horizon: int) -> list[str]:
    """How exact guidance compares with each of the others, delay by delay, whatever the order."""
    lines = []
    for name in GUIDANCE[1:]:
        said = []
        for delay in DELAYS_MS:
            exact, other = pick(rows, GUIDANCE[0], delay, horizon), pick(rows, name, delay, horizon)
            if exact and other:
                said.append(f"{delay} ms {order(exact, other).split(',')[0]}")
        if said:
            lines.append(f"* rtc against {name.removeprefix('rtc, ')}: {', '.join(said)}")
    return lines


def page(data: dict[str, Any]) -> str:
    """docs/benchmarks/chunking.md."""
    rows, setup = data["rows"], data["setup"]
    episodes = setup["episodes_per_cell"]
    return "\n".join(
        [
            "# Strategies under inference delay",
            "",
            f"`make bench-chunking`; {episodes} episodes per cell, three training seeds pooled, 95 % Wilson intervals.",
            "",
            "The task is *two belts* (`chunkwise/tasks/two_belts.py`): the two hands of an OpenArm in MuJoCo steer rods",
            "past posts that come on a belt, left or right of each; an episode of 6.5 s succeeds when none of ten posts",
            "is touched. The policy is `demo`, a flow-matching network (16 knots of 40 ms per hand, played as 31 rows at",
            "50 Hz) that does not see which side it chose before. The scheduler, the strategies and the delay estimate",
            "are the package's own, in lock step: an answer takes exactly the delay. Episodes use seeds of the belts from",
            f"{setup['first_seed']} on, the same for every cell; task, policy and training were fixed before these seeds",
            "were run. Times do not enter, so the machine does not either.",
            "",
            "![success under delay](chunking.png)",
            "",
            f"## Asking as often as possible (s = max(d, 1)); `sync` runs {SYNC_ROWS} rows, then waits",
            "",
            *table(rows, 0, "rate"),
            "",
            f"## Asking every {FIXED_S} steps (s = {FIXED_S}, {FIXED_S * PERIOD_MS} ms); `sync` runs {FIXED_S} rows",
            "",
            *table(rows, FIXED_S, "rate"),
            "",
            "## Ways to continue a plan, side by side",
            "",
            "`rtc` is guided by the exact vector-Jacobian product under the soft mask; *hard mask* binds only the rows",
            "that will run anyway; *identity Jacobian* leaves the backward pass out; *trained prefix* guides nothing, but",
            "was trained to continue up to six given knots (`training/train_prefix.py`). s = max(d, 1):",
            "",
            *table(rows, 0, "rate", GUIDANCE),
            "",
            *guidance(rows, 0),
            "",
            f"s = {FIXED_S}:",
            "",
            *table(rows, FIXED_S, "rate", GUIDANCE),
            "",
            *guidance(rows, FIXED_S),
            "",
            "What each of them costs is in [guidance.md](guidance.md).",
            "",
            "## Orders, as they came out (s = max(d, 1))",
            "",
            *claims(rows),
            "",
            "## Training seeds apart (s = max(d, 1))",
            "",
            *table(rows, 0, "spread"),
            "",
            "## Seam jump: mean largest second difference of a joint at a hand-over, rad (s = max(d, 1))",
            "",
            *table(rows, 0, "seam_jump"),
            "",
            "## Jerk of the commands, root mean square, rad/s^3 (s = max(d, 1))",
            "",
            *table(rows, 0, "jerk"),
            "",
            "## What to read from it, and what not",
            "",
            "* At zero delay, asking as often as possible, `switch` draws a side anew at every step and `rtc` does not:",
            "  a difference there is not latency. The table with s fixed shows latency alone.",
            "* A small seam jump or jerk is not success: averaging is smooth, and drives into the post.",
            "* The task was made so that there are two right ways and a late change of mind cannot be undone. On tasks",
            "  with one right way and sudden disturbances, guiding a chunk towards an old plan can cost more than it",
            '  gains; `schedule="zeros"` or `switch` may then be the better choice.',
            "* The gate is not in the loop here: its limits (6 rad/s a joint) would cut some of the jumps of `switch`.",
            "* One task, one network size, one simulator: an order of methods, not a promise for another robot.",
            "",
            f"Setup: `{json.dumps(setup)}`.",
            "",
        ]
    )


def plot(data: dict[str, Any], path: Path) -> None:
    """Success over delay, both schedules side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for panel, horizon, title in (
        (panels[0], 0, "asking as often as possible"),
        (panels[1], FIXED_S, f"asking every {FIXED_S * PERIOD_MS} ms"),
    ):
        for number, method in enumerate(METHODS):
            cells = [row for ms in DELAYS_MS if (row := pick(data["rows"], method.name, ms, horizon))]
            if not cells:
                continue
            at = [row["delay_ms"] for row in cells]
            low, high = zip(*(row["interval"] for row in cells), strict=True)
            style = {"color": f"C{number}", "linestyle": "--" if "," in method.name else "-"}
            panel.plot(at, [row["rate"] for row in cells], marker="o", markersize=4, label=method.name, **style)
            panel.fill_between(at, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        panel.set(title=title, xlabel="inference delay, ms", ylim=(0, 1.02), xticks=DELAYS_MS)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("episodes without a touch")
    panels[0].legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=256, help="per cell and training seed (default 256)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="first seed of the belts")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--out", type=Path, help=f"folder of the page (default {PAGES.relative_to(ROOT)})")
    parser.add_argument("--only", choices=("often", "fixed"), help="one table; the other stays as it is")
    names = [method.name for method in METHODS]
    parser.add_argument("--method", action="append", choices=names, help="rows of this one; the others stay")
    parser.add_argument("--page-only", action="store_true", help="write the page again from chunking.json")
    arguments = parser.parse_args()
    published = arguments.episodes >= 171
    out = arguments.out or (PAGES if published or arguments.page_only else None)
    if arguments.page_only:
        data = json.loads((out / "chunking.json").read_text(encoding="utf-8"))
    else:
        horizons = {"often": (0,), "fixed": (FIXED_S,), None: (0, FIXED_S)}[arguments.only]
        chosen = [method for method in METHODS if method.name in (arguments.method or names)]
        rows = sweep(arguments.episodes, arguments.first_seed, arguments.jobs, chosen, horizons)
        if arguments.only or arguments.method:
            there = out if out is not None and (out / "chunking.json").exists() else PAGES
            kept = json.loads((there / "chunking.json").read_text(encoding="utf-8"))["rows"]
            made = {(method.name, s) for method in chosen for s in horizons}
            rows += [row for row in kept if (row["method"], row["horizon"]) not in made]
        setup = {
            "episodes_per_cell": arguments.episodes * len(POLICIES),
            "first_seed": arguments.first_seed,
            "fixed_s": FIXED_S,
            "methods": [asdict(method) for method in METHODS],
            "numpy": np.__version__,
        }
        data = {"setup": setup, "rows": rows}
    text = page(data)
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "chunking.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        (out / "chunking.md").write_text(text, encoding="utf-8")
        plot(data, out / "chunking.png")


if __name__ == "__main__":
    main()
