"""``chunkwise demo``: one robot, one policy, one delay, three strategies."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.chunking import FaultKind
from chunkwise.cli import pictures
from chunkwise.cli.assembly import make_policy, make_robot, make_session
from chunkwise.cli.film import Filmed
from chunkwise.cli.parser import Parser
from chunkwise.cli.run import setup, write_json
from chunkwise.cli.settings import Choice, Settings, adapter
from chunkwise.cli.table import table
from chunkwise.contract import Layout
from chunkwise.options import UsageError, convert
from chunkwise.runtime.events import Turn
from chunkwise.runtime.report import Report

EXAMPLES = """\
  chunkwise demo
  chunkwise demo --latency-ms 200 --seconds 10 --seed 3
  chunkwise demo --strategies switch,blend,temporal_ensemble,rtc --no-pictures
"""

ROBOT, POLICY = "openarm_sim", "demo"
FRAME_S = 0.08
FILM_S = 9.0
"""How much of the runs the moving picture shows, from their middle."""
REDRAW_S = 0.4
"""Seconds of the run between two pictures of its progress bar."""
PICTURE = (270, 320)
"""Height and width of one robot in the moving picture."""


@dataclass(slots=True)
class Run:
    """One strategy's run."""

    report: Report
    turns: list[Turn]
    layout: Layout
    robot: Filmed


def main(argv: Sequence[str]) -> int:
    """Run, print the table, draw the pictures; 0 when all the runs completed."""
    description = (
        "A two-armed OpenArm in simulation steers past posts on two belts, under the same inference delay."
    )
    parser = Parser("demo", description, EXAMPLES)
    parser.add_argument("--latency-ms", default="100", metavar="X", help="every answer takes at least this long")
    parser.add_argument("--seconds", default="20", metavar="X", help="how long each strategy runs")
    parser.add_argument("--seed", default="0", metavar="N", help="of the posts and of the policy's noise")
    parser.add_argument("--strategies", default="sync,switch,rtc", metavar="A,B", help="which to compare")
    parser.add_argument("--out", default="demo", metavar="FOLDER", help="where the pictures and report.json go")
    parser.add_argument("--no-pictures", action="store_true", help="run and report only")
    parsed = parser.parse(argv)
    latency_ms = convert(parsed.latency_ms, float, "latency_ms")
    seconds = convert(parsed.seconds, float, "seconds")
    seed = convert(parsed.seed, int, "seed")
    strategies = convert(parsed.strategies, tuple[str, ...], "strategies")
    if not (seconds > 0 and latency_ms >= 0 and seed >= 0 and strategies):
        raise UsageError("seconds must be above zero; latency_ms and seed at least zero; one strategy at least")
    for name in strategies:
        adapter("strategy", name)
    settings = [
        Settings(
            robot=Choice(ROBOT, {"seed": seed}),
            policy=Choice(POLICY, {"seed": seed}),
            strategy=Choice(name),
            seconds=seconds,
            latency_ms=latency_ms,
        )
        for name in strategies
    ]
    folder = Path(parsed.out)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Two arms, {len(settings)} strategies of {seconds:g} s each, {latency_ms:g} ms of inference latency.\n")
    runs = _run_all(settings)
    reports = {name: run.report for name, run in runs.items()}
    write_json(folder / "report.json", {name: report.to_dict() for name, report in reports.items()})
    print(f"\n{table(reports)}\n")
    print(f"  {folder / 'report.json'}")
    if any(report.interrupted for report in reports.values()):
        return 130
    if not parsed.no_pictures:
        _draw(folder, runs, latency_ms)
    return 0


def _run_all(settings: Sequence[Settings]) -> dict[str, Run]:
    """Every strategy in turn, with a bar each; an interrupted one is the last."""
    runs: dict[str, Run] = {}
    with _bars() as bars:
        for item in settings:
            bar = bars.add_task(item.strategy.name, total=item.seconds, note="")
            run = runs[item.strategy.name] = _run(item, bars, bar)
            if run.report.interrupted:
                break
    return runs


def _run(settings: Settings, bars: Any, bar: Any) -> Run:
    assert settings.robot is not None and settings.policy is not None
    robot: Any = make_robot(settings.robot)
    filmed = Filmed(robot, period_s=FRAME_S)
    with make_session(settings, filmed, make_policy(settings.policy), on_message=lambda text: None) as session:
        shown_s = 0.0

        def show(turns: list[Turn], *, now: bool = False) -> None:
            """Drawing takes the interpreter from the control loop for milliseconds: not too often."""
            nonlocal shown_s
            run_s = session.pacer.period_s * (turns[-1].step + 1) if turns else 0.0
            if now or run_s - shown_s >= REDRAW_S:
                shown_s = run_s
                bars.update(bar, completed=run_s, note=_note(filmed))
                bars.refresh()

        report = session.run(seconds=settings.seconds, on_progress=show)
        show(session.turns, now=True)
        if FaultKind.TOO_SHORT in report.fault_details:
            bars.console.print(f"{settings.strategy.name}: {report.fault_details[FaultKind.TOO_SHORT]}")
        report.setup = setup(settings)
        return Run(report, session.turns, session.binding.layout, filmed)


def _note(robot: Filmed) -> str:
    if not robot.shots:
        return ""
    score = robot.shots[-1][2]
    return f"posts passed {score['passed']}, hit {score['hits']}"


def _draw(folder: Path, runs: dict[str, Run], latency_ms: float) -> None:
    """The timeline, then the moving picture where this machine can draw one."""
    path = folder / "timeline.png"
    layout = next(iter(runs.values())).layout
    title = f"commands under {latency_ms:g} ms of latency: "
    pictures.timeline(path, {name: run.turns for name, run in runs.items()}, layout, title=title)
    print(f"  {path}")
    path = folder / "openarm.gif"
    try:
        with _bars() as bars:
            pictures.animate(path, _scenes(runs, bars), FRAME_S)
    except (RuntimeError, plugins.MissingExtra) as error:
        print(f"  no moving picture: {error}", file=sys.stderr)
        return
    print(f"  {path}")


def _scenes(runs: dict[str, Run], bars: Any) -> Iterator[pictures.Scene]:
    """The runs side by side, moment for moment."""
    count = min(len(run.robot.shots) for run in runs.values())
    shown = min(round(FILM_S / FRAME_S), count)
    first = (count - shown) // 2
    painter: Any = make_robot(Choice(ROBOT))
    bar = bars.add_task("drawing", total=shown, note="")
    try:
        for index in range(first, first + shown):
            drawn, captions = [], []
            for name, run in runs.items():
                _, snapshot, score = run.robot.shots[index]
                drawn.append(painter.render(snapshot, size=PICTURE))
                captions.append(f"{name}:  passed {score['passed']},  hit {score['hits']}")
            bars.advance(bar)
            bars.refresh()
            yield pictures.Scene(drawn, captions)
    finally:
        painter.close()


def _bars() -> Any:
    """Progress bars that redraw only when told: a thread of their own would disturb the control loop."""
    progress = plugins.require("rich.progress", extra="demo")
    return progress.Progress(
        progress.TextColumn("  {task.description:<18}"),
        progress.BarColumn(bar_width=32),
        progress.TextColumn("{task.completed:5.1f} of {task.total:g}  {task.fields[note]}"),
        auto_refresh=False,
    )
