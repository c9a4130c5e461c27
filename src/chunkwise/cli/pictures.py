"""Pictures of a demo: the commands with their seams, and the robot in motion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.chunking import SourceKind
from chunkwise.contract import Layout, Motion
from chunkwise.plugins import require
from chunkwise.runtime.events import Turn

INKS = ("#1f6feb", "#e8751a")
"""Chunks take turns between two inks, so that every seam shows."""
HOLD_INK = "#c9ced6"
TEXT_INK = "#24292f"


class Flight(NamedTuple):
    """One inference on the time axis: seconds of its request and of the first row of its answer that ran."""

    chunk: int
    asked_s: float
    ran_s: float


def timeline(
    path: Path, runs: Mapping[str, Sequence[Turn]], layout: Layout, *, window_s: float = 4.0, title: str = ""
) -> None:
    """Draw the commands of one joint: a panel per run, coloured by chunk, with every inference below it.

    Args:
        path: of the PNG.
        runs: turns by name.
        layout: of the rows that were sent.
        window_s: how much of each run to show, from its middle.
        title: above all.
    """
    require("matplotlib", extra="demo").use("Agg")
    pyplot = require("matplotlib.pyplot", extra="demo")
    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#8c959f",
        "text.color": TEXT_INK,
        "axes.labelcolor": TEXT_INK,
    }
    with pyplot.rc_context(style):
        column = most_moved(runs, layout)
        figure, panels = pyplot.subplots(
            len(runs), 1, figsize=(11, 2.4 * len(runs) + 1.0), sharex=True, squeeze=False
        )
        windows = {name: middle(turns, window_s) for name, turns in runs.items()}
        extents = {name: _extent(shown, column) for name, shown in windows.items()}
        span = max(high - low for low, high in extents.values()) + 1e-6
        for axes, (name, shown) in zip(panels[:, 0], windows.items(), strict=True):
            low, high = extents[name]  # one scale for all, each around its own middle
            _panel(axes, name, shown, flights(runs[name]), column, (low + high - span) / 2, span)
        panels[0, 0].set_xlim(0, window_s)
        panels[-1, 0].set_xlabel(f"time [s] within {window_s:g} s from the middle of each run")
        for axes in panels[:, 0]:
            axes.set_ylabel(f"command [{layout.slots[0].unit}]")
        inches = figure.get_figheight()
        figure.text(0.012, 1 - 0.30 / inches, f"{title}{layout.names[column]}", fontsize=13, fontweight="bold")
        _legend(figure, 1 - 0.50 / inches)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.62 / inches))
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def most_moved(runs: Mapping[str, Sequence[Turn]], layout: Layout) -> int:
    """The column of targets that was commanded over the widest range."""
    targets = [
        column for slot in layout.slots if slot.motion is Motion.TARGET for column in range(slot.start, slot.stop)
    ]
    rows = np.array([turn.sent for turns in runs.values() for turn in turns if turn.sent is not None])
    if not len(rows) or not targets:
        return 0
    return targets[int(np.argmax(np.std(rows[:, targets], axis=0)))]


def middle(turns: Sequence[Turn], window_s: float) -> list[Turn]:
    """The turns of the window in the middle of a run."""
    if not turns:
        return []
    first, last = turns[0].time_s, turns[-1].time_s
    start = first + max((last - first - window_s) / 2, 0.0)
    return [turn for turn in turns if start <= turn.time_s <= start + window_s]


def flights(turns: Sequence[Turn]) -> list[Flight]:
    """Every inference whose answer ran, in order."""
    asked: dict[int, float] = {}
    found: list[Flight] = []
    newest = -1
    for turn in turns:
        request, chunk = turn.decision.request, turn.decision.source.chunk
        if chunk > newest and chunk in asked:
            found.append(Flight(chunk, asked[chunk], turn.time_s))
            newest = chunk
        if request is not None:
            asked[request.id] = turn.time_s
    return found


def _extent(shown: Sequence[Turn], column: int) -> tuple[float, float]:
    values = [float(turn.sent[column]) for turn in shown if turn.sent is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _holds(shown: Sequence[Turn]) -> list[tuple[float, float]]:
    """From when to when, in seconds from the first turn, no chunk's row ran."""
    start = shown[0].time_s
    spans: list[tuple[float, float]] = []
    since: float | None = None
    for turn in shown:
        held = turn.decision.source.kind is not SourceKind.CHUNK
        if held and since is None:
            since = turn.time_s - start
        elif not held and since is not None:
            spans.append((since, turn.time_s - start))
            since = None
    return spans if since is None else [*spans, (since, shown[-1].time_s - start)]


def _panel(
    axes: Any,
    name: str,
    shown: Sequence[Turn],
    all_flights: Sequence[Flight],
    column: int,
    low: float,
    span: float,
) -> None:
    if not shown:
        return
    start = shown[0].time_s
    times = np.array([turn.time_s - start for turn in shown])
    values = np.array([np.nan if turn.sent is None else turn.sent[column] for turn in shown])
    chunks = np.array([turn.decision.source.chunk for turn in shown])
    axes.grid(axis="y", color="#eaeef2", linewidth=0.8)
    axes.set_axisbelow(True)
    for begin, end in _holds(shown):
        axes.axvspan(begin, end, color=HOLD_INK, alpha=0.6, linewidth=0)
    axes.plot(times, values, color="#d0d7de", linewidth=1.0, zorder=1)
    seams = [index for index in range(1, len(shown)) if chunks[index] >= 0 and chunks[index] != chunks[index - 1]]
    order = np.searchsorted(np.unique(chunks[chunks >= 0]), chunks)
    for parity, ink in enumerate(INKS):
        mine = np.where((chunks >= 0) & (order % 2 == parity), values, np.nan)
        axes.plot(times, mine, color=ink, linewidth=2.0, marker=".", markersize=3.5, zorder=2)
    axes.vlines(times[seams], low - 0.06 * span, low + 1.06 * span, color="#8c959f", linewidth=0.7, alpha=0.6)
    strip = low - 0.16 * span
    axes.plot(times[seams], values[seams], "o", color="white", markeredgecolor=TEXT_INK, markersize=4.5, zorder=3)
    for number, flight in enumerate(all_flights):
        begin, end = flight.asked_s - start, flight.ran_s - start
        if end < 0 or begin > times[-1]:
            continue
        ink = INKS[int(np.searchsorted(np.unique(chunks[chunks >= 0]), flight.chunk)) % 2]
        height = strip - 0.07 * span * (number % 2)
        axes.hlines(height, begin, end, color=ink, linewidth=3.0)
        axes.plot(begin, height, "|", color=TEXT_INK, markersize=7, markeredgewidth=1.2)
    axes.set_ylim(low - 0.30 * span, low + 1.10 * span)
    axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=4)


def _legend(figure: Any, top: float) -> None:
    lines = require("matplotlib.lines", extra="demo")
    patches = require("matplotlib.patches", extra="demo")
    entries = [
        lines.Line2D([], [], color=INKS[0], linewidth=2, label="rows of one chunk"),
        lines.Line2D([], [], color=INKS[1], linewidth=2, label="rows of the next"),
        lines.Line2D([], [], color="none", marker="o", markeredgecolor=TEXT_INK, label="seam"),
        lines.Line2D([], [], color="none", marker="|", markeredgecolor=TEXT_INK, label="request (bar: inference)"),
        patches.Patch(color=HOLD_INK, label="holding"),
    ]
    figure.legend(
        handles=entries, loc="center left", bbox_to_anchor=(0.002, top), ncols=5, frameon=False, fontsize=9
    )


class Scene(NamedTuple):
    """One moment of a film: pictures ``(height, width, 3)`` uint8 with a line of text above each."""

    pictures: list[NDArray[np.uint8]]
    captions: list[str]


CAPTION_PX = 22


def animate(path: Path, scenes: Iterator[Scene], frame_s: float, colours: int = 64) -> None:
    """Write an endless GIF, the scenes' pictures side by side.

    Args:
        path: of the GIF.
        scenes: all with as many pictures of the same size.
        frame_s: how long each stays.
        colours: in the palette that all frames share; fewer make a smaller file.
    """
    image = require("PIL.Image", extra="demo")
    frames = [_side_by_side(scene) for scene in scenes]
    if not frames:
        return
    sampled = image.fromarray(np.concatenate(frames[:: max(len(frames) // 12, 1)]))
    palette = sampled.quantize(
        colours, method=image.Quantize.MAXCOVERAGE
    )  # so that small bright things stay bright
    none = image.Dither.NONE  # dots that dance between frames look worse than bands, and weigh more
    made = [image.fromarray(frame).quantize(palette=palette, dither=none) for frame in frames]
    made[0].save(
        path, save_all=True, append_images=made[1:], duration=round(1e3 * frame_s), loop=0, optimize=False
    )


def _side_by_side(scene: Scene) -> NDArray[np.uint8]:
    image = require("PIL.Image", extra="demo")
    draw = require("PIL.ImageDraw", extra="demo")
    font = require("PIL.ImageFont", extra="demo").load_default(13)
    framed = []
    for picture, caption in zip(scene.pictures, scene.captions, strict=True):
        strip = image.new("RGB", (picture.shape[1], CAPTION_PX), "white")
        draw.Draw(strip).text((6, 3), caption, fill=TEXT_INK, font=font)
        framed.append(np.concatenate([np.asarray(strip), picture]))
    return np.concatenate(framed, axis=1)
