"""Reports as a table for people: one column each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from chunkwise.runtime.report import Report


class Line(NamedTuple):
    """One line of the table: what it shows of a report; an empty text everywhere leaves the line out."""

    label: str
    text: Callable[[Report], str]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _delays(report: Report) -> str:
    delay = report.delay_steps
    if report.chunks < 2:  # the first one's is a start and no measurement
        return "-"
    return f"{delay['min']:.0f} / {delay['median']:.0f} / {delay['max']:.0f}"


def _rules(counts: Mapping[str, int]) -> str:
    """Broken rules summed over the components; the JSON report has them one by one."""
    sums: Counter[str] = Counter()
    for name, count in counts.items():
        sums[name.rpartition(".")[2]] += count
    return _counts(sums) or "never"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


LINES = (
    Line("control rate", lambda r: f"{r.control_hz_achieved:.2f} of {r.control_hz:g} Hz"),
    Line("periods late / missed", lambda r: f"{r.late_periods} / {r.missed_periods} of {r.steps}"),
    Line("lateness p50 / p99 / max, ms", lambda r: " / ".join(map(_milliseconds, r.lateness_s.values()))),
    Line("work per period p50 / p99 / max, ms", lambda r: " / ".join(map(_milliseconds, r.busy_s.values()))),
    Line("chunks run / requested", lambda r: f"{r.chunks} / {r.requests}"),
    Line("delay min / median / max, steps", _delays),
    Line("steps starved", lambda r: str(r.starved_steps)),
    Line("steps waiting (start, sync)", lambda r: str(r.waiting_steps)),
    Line("faults", lambda r: f"{r.faults}" + (f" ({_counts(r.faults_by_kind)})" if r.faults else "")),
    Line("seam jump, rad/step", lambda r: f"{r.seam_jump:.4f}"),
    Line("jerk, rad/s^3", lambda r: f"{r.jerk:.0f}"),
    Line("gate stepped in", lambda r: _rules(r.gate)),
    Line("loop stood still", lambda r: f"{r.watchdog_trips} times" if r.watchdog_trips else ""),
    Line("events lost", lambda r: str(r.events_lost) if r.events_lost else ""),
)


def table(reports: Mapping[str, Report]) -> str:
    """The reports side by side, each under its name; a robot's own score below."""
    rows = [["", *reports]]
    for line in LINES:
        texts = [line.text(report) for report in reports.values()]
        if any(texts):
            rows.append([line.label, *texts])
    keys = dict.fromkeys(key for report in reports.values() for key in report.score)
    rows += [
        [f"score: {key}", *(_value(report.score.get(key, "")) for report in reports.values())] for key in keys
    ]
    return _grid(rows)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _grid(rows: list[list[str]]) -> str:
    """Columns as wide as they need; the first to the left, the others to the right.

    >>> print("|" + _grid([["", "rtc"], ["steps", "12"]]))
    |          rtc
      steps    12
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for label, *cells in rows:
        right = "".join(f"   {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"  {label:<{widths[0]}}{right}".rstrip())
    return "\n".join(lines)
