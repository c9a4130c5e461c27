"""What a run did, request by request and step by step: kept in bounded memory, written as JSON and as a page."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.chunking import Answer, Decision, Fault, FaultKind, SourceKind
from chunkwise.contract import ChunkRequest
from chunkwise.runtime.events import Turn
from chunkwise.runtime.records import RequestRecord, StepRecord, fates

if TYPE_CHECKING:
    from chunkwise.runtime.inference import InferenceRuntime
    from chunkwise.runtime.step import StepResult

MAX_RECORDS = 20_000
"""Newest steps, and newest requests, that are kept; at 50 Hz almost seven minutes."""
MAX_LANES = 14
"""Chunks drawn above one another."""
PAGE = Path(__file__).with_name("timeline.html")
"""The page around the numbers; everything it needs is in it."""


class Timeline:
    """A run as records.

    Args:
        mode: for the reader, ``async`` or a strategy's name.
        config: the run's settings, for the reader.
        period_s: the control period; None where the run was not paced.
        limit: newest steps and requests that are kept.

    Attributes:
        steps, requests: the records, oldest first; requests by number.
        forgotten_steps, forgotten_requests: how many older ones are gone.
    """

    def __init__(
        self,
        *,
        mode: str = "",
        config: Mapping[str, Any] | None = None,
        period_s: float | None = None,
        limit: int = MAX_RECORDS,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be >= 1, got {limit}")
        self.mode, self.config, self.period_s = mode, dict(config or {}), period_s
        self.steps: deque[StepRecord] = deque(maxlen=limit)
        self.requests: dict[int, RequestRecord] = {}
        self.forgotten_steps = self.forgotten_requests = 0
        self._limit = limit
        self._first_step = self._first_index = 0  # of the episode
        self._newest = -1
        self._begin()

    def _begin(self) -> None:
        """A new episode: steps and requests are numbered from 0 again, the records go on counting."""
        self._last_step, self._chunk, self._end = -1, -1, -1
        self._source = SourceKind.WAIT

    def episode(self, step: int) -> int:
        """The record's number of control step `step`, which begins a new episode where steps start again."""
        if step <= self._last_step:
            self._first_step += self._last_step + 1
            self._first_index = self._newest + 1
            self._begin()
        return self._first_step + step

    def request(self, index: int, step: int) -> RequestRecord:
        """The record of the episode's request `index`; a new one, made at control step `step`, if need be."""
        number = self._first_index + index
        record = self.requests.get(number)
        if record is None:
            record = self.requests[number] = RequestRecord(number, self._first_step + step)
            self._newest = max(self._newest, number)
            if len(self.requests) > self._limit:
                del self.requests[next(iter(self.requests))]
                self.forgotten_requests += 1
        return record

    def add(self, decision: Decision, time_s: float, *, late_s: float = 0.0, end: int | None = None) -> None:
        """Record one step.

        Args:
            decision: the scheduler's.
            time_s: when the step began.
            late_s: how long after its deadline.
            end: the first step that the plan does not cover; read off the requests where it is None.
        """
        step = self.episode(decision.step)
        asked, source = decision.request, decision.source
        if asked is not None:
            record = self.request(asked.id, decision.step)
            record.latency_hint_steps = asked.latency_steps
            if record.launch_time_s is None:
                record.launch_time_s = time_s
        for fault in decision.faults:
            self._fault(fault, decision.step, time_s)
        row = -1
        if source.kind is SourceKind.CHUNK:
            record = self.request(source.chunk, decision.step - source.row)
            if source.chunk != self._chunk:
                self._accept(record, decision, time_s)
            row = step - (record.first_step or 0)
        if end is None and asked is not None and asked.remaining_steps:
            end = decision.step + asked.remaining_steps
        if end is not None:
            self._end = end
        buffered = max(self._end - decision.step, 0) if self._end >= 0 else -1
        if source.kind is SourceKind.CHUNK:
            record.returned_rows = max(record.returned_rows, row + max(buffered, 1))
        if len(self.steps) == self._limit:
            self.forgotten_steps += 1
        self.steps.append(
            StepRecord(
                step,
                time_s,
                late_s,
                str(source.kind),
                record.index if source.kind is SourceKind.CHUNK else -1,
                row,
                0 if source.kind is SourceKind.STARVED else buffered,
                None if asked is None else self._first_index + asked.id,
                tuple(f"{fault.kind}: {fault.detail}" for fault in decision.faults),
            )
        )
        self._last_step, self._source = decision.step, source.kind

    def _accept(self, record: RequestRecord, decision: Decision, time_s: float) -> None:
        """The first row of a chunk runs: that is when its answer joined the plan."""
        step, source = self._first_step + decision.step, decision.source
        record.accepted, record.accept_step = True, step
        if record.accept_time_s is None:
            record.accept_time_s = time_s
        if record.first_step is None:
            # A plan that was cut at the hand-over counts its rows from there; the chunk's begin at its request,
            # unless the robot was waiting for it.
            cut = source.row == 0 and self._chunk >= 0 and self._source is not SourceKind.WAIT
            record.first_step = record.request_step if cut else step - source.row
        self._chunk, self._end = source.chunk, -1

    def _fault(self, fault: Fault, step: int, time_s: float) -> None:
        if fault.kind in (FaultKind.TOO_SHORT, FaultKind.STALE):
            return  # a warning, and an answer to a request that was settled before
        record = self.request(fault.request, step)
        record.accept_step = self._first_step + step
        if record.accept_time_s is None:
            record.accept_time_s = time_s
        if fault.kind is FaultKind.EXPIRED:
            record.dropped_as_stale = True
            record.first_step = record.request_step
        else:
            record.error = f"{fault.kind}: {fault.detail}"

    def summary(self) -> dict[str, Any]:
        """The run in a few numbers."""
        requests, steps = list(self.requests.values()), self.steps
        ran = sum(step.source == SourceKind.CHUNK for step in steps)
        rows = dict.fromkeys(("accepted", "dropped", "unused"), 0)
        for run in self.chunk_actions():
            rows[run["status"]] += run["rows"]
        elapsed = steps[-1].time_s - steps[0].time_s if len(steps) > 1 else 0.0
        return {
            "steps": len(steps),
            "control_hz": round((len(steps) - 1) / elapsed, 4) if elapsed > 0 else None,
            "chunk_steps": ran,
            "underrun_steps": sum(step.underrun for step in steps),
            "waiting_steps": sum(step.source == SourceKind.WAIT for step in steps),
            "requests": len(requests),
            "accepted": sum(record.accepted for record in requests),
            "dropped_as_stale": sum(record.dropped_as_stale for record in requests),
            "failed": sum(bool(record.error) for record in requests),
            "rows": rows,
            "delay_steps": _spread([record.waited_steps for record in requests if record.accepted]),
            "request_latency_s": _spread([record.request_latency_s for record in requests]),
            "usable_latency_s": _spread([record.usable_latency_s for record in requests if record.accepted]),
            "late_s": _spread([step.late_s for step in steps]),
            "forgotten_steps": self.forgotten_steps,
            "forgotten_requests": self.forgotten_requests,
        }

    def chunk_actions(self) -> list[dict[str, Any]]:
        """What became of every row of every answer, as runs of rows that fared alike.

        Each is ``{request, status, first_row, first_step, rows}``; :func:`~chunkwise.runtime.records.fates` says
        what the statuses mean.
        """
        ran: dict[int, set[int]] = {}
        for step in self.steps:
            if step.chunk >= 0:
                ran.setdefault(step.chunk, set()).add(step.row)
        oldest = self.steps[0].step if self.forgotten_steps else -1
        made = []
        for record in self.requests.values():
            if record.returned_rows and record.first_step is not None and record.request_step >= oldest:
                made += list(fates(record, ran.get(record.index, set())))
        return made

    def to_dict(self) -> dict[str, Any]:
        """``{mode, config, summary, requests, action_steps, chunk_actions}``, ready for JSON."""
        return {
            "mode": self.mode,
            "config": self.config,
            "summary": self.summary(),
            "requests": [record.to_dict() for record in self.requests.values()],
            "action_steps": [{**step._asdict(), "underrun": step.underrun} for step in self.steps],
            "chunk_actions": self.chunk_actions(),
        }

    def write_json(self, path: str | Path) -> Path:
        """Write :meth:`to_dict`; the folder is made where there is none."""
        return _write(path, json.dumps(self.to_dict(), default=str))

    def write_html(self, path: str | Path, *, title: str = "") -> Path:
        """Write the page: it needs no network and no other file."""
        data = json.dumps(self._drawing(title or f"chunkwise {self.mode}".strip()), default=str)
        page = PAGE.read_text(encoding="utf-8")
        # Inside a script element only "</" could end it, and "<!--" confuse it.
        return _write(path, page.replace("__TIMELINE__", data.replace("<", "\\u003c")))

    def _drawing(self, title: str) -> dict[str, Any]:
        """What the page draws: columns instead of records, times in milliseconds from the first step on."""
        steps, requests = self.steps, list(self.requests.values())
        start = steps[0].time_s if steps else 0.0

        def ms(seconds: float | None, since: float = 0.0) -> float | None:
            return None if seconds is None else round(1e3 * (seconds - since), 3)

        return {
            "title": title,
            "config": self.config,
            "period_ms": ms(self.period_s),
            "summary": self.summary(),
            "steps": [
                (s.step, ms(s.time_s, start), ms(s.late_s), s.source, s.chunk, s.row, s.buffered_rows)
                for s in steps
            ],
            "faults": [(s.step, fault) for s in steps for fault in s.faults],
            "requests": [
                {
                    "index": record.index,
                    "lane": lane,
                    "step": record.request_step,
                    "accept": record.accept_step,
                    "launch_ms": ms(record.launch_time_s, start),
                    "latency_ms": ms(record.request_latency_s),
                    "usable_ms": ms(record.usable_latency_s),
                    "hint": record.latency_hint_steps,
                    "rows": record.returned_rows,
                    "stale": record.stale_rows,
                    "accepted": record.accepted,
                    "error": record.error or ("every row was past" if record.dropped_as_stale else ""),
                }
                for record, lane in zip(requests, _lanes(requests), strict=True)
            ],
            "runs": [tuple(run.values()) for run in self.chunk_actions()],
        }


class LiveProfile:
    """The timeline of an :class:`~chunkwise.runtime.inference.InferenceRuntime`, written when it closes.

    Args:
        runtime: whose options are recorded, and who says where to write.
        clock: the one that the runtime stamps its requests with.
    """

    def __init__(self, runtime: InferenceRuntime, *, clock: Callable[[], float] = time.perf_counter) -> None:
        controller = runtime.realtime_controller
        config = {name: value for name, value in vars(runtime).items() if name[0] != "_" and _is_plain(value)}
        config["mode"] = str(runtime.mode)
        config["control_hz"] = None if controller is None else controller.hz
        period_s = None if controller is None else 1 / controller.hz
        self.timeline = Timeline(mode=str(runtime.mode), config=config, period_s=period_s)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.folder = Path(runtime.profile_output_dir or f"profiles/inference-runtime-{stamp}")
        self._clock = clock

    def asked(self, step: int, request: ChunkRequest) -> None:
        """A request is on its way to the worker."""
        self.timeline.episode(step)
        record = self.timeline.request(request.id, step)
        record.launch_time_s = request.request_time_s
        record.prepare_s = self._clock() - request.request_time_s

    def arrived(self, step: int, answer: Answer, reply_time_s: float | None = None) -> None:
        """The loop took an answer, which the policy gave at `reply_time_s` where that is known."""
        self.timeline.episode(step)
        record = self.timeline.request(answer.request, step)
        record.reply_time_s, record.accept_time_s = reply_time_s, self._clock()
        if answer.chunk is not None:
            record.returned_rows = len(answer.chunk.rows)

    def step(self, step: int, decision: Decision, result: StepResult) -> None:
        """A step is over."""
        end = step + result.plan_length if result.plan_length else None
        self.timeline.add(decision, self._clock(), end=end)

    def write(self) -> tuple[Path, Path]:
        """Write ``runtime_profile.json`` and ``runtime_profile.html``; their paths."""
        made = self.timeline.write_json(self.folder / "runtime_profile.json")
        return made, self.timeline.write_html(self.folder / "runtime_profile.html")


def timeline_of(turns: Iterable[Turn], *, control_hz: float | None = None, **options: Any) -> Timeline:
    """The timeline of a session's turns.

    Arrivals are known by the step: an answer counts as taken in the first turn that runs a row of it.

    Args:
        turns: in order, such as ``session.turns``.
        control_hz: the loop's rate.
        options: further arguments of :class:`Timeline`.
    """
    made = Timeline(period_s=1 / control_hz if control_hz else None, **options)
    for turn in turns:
        made.add(turn.decision, turn.time_s, late_s=turn.late_s)
    return made


def write_html(path: str | Path, events: Timeline | Iterable[Turn], *, title: str = "", **options: Any) -> Path:
    """Write the page of a run.

    Args:
        path: of the page; the folder is made where there is none.
        events: a timeline, or turns with `options` for :func:`timeline_of`.
        title: stands above it.
    """
    timeline = events if isinstance(events, Timeline) else timeline_of(events, **options)
    return timeline.write_html(path, title=title)


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    p50, p95, most = (round(float(value), 9) for value in np.percentile(known, [50, 95, 100]))
    return {"p50": p50, "p95": p95, "max": most}


def _lanes(requests: Iterable[RequestRecord]) -> Iterator[int]:
    """A lane for each request, so that chunks do not overlap while there are lanes."""
    free_from = [-1] * MAX_LANES
    for record in requests:
        first = record.request_step
        lane = next((i for i, free in enumerate(free_from) if free <= first), record.index % MAX_LANES)
        starts = first if record.first_step is None else record.first_step
        free_from[lane] = max(starts + record.returned_rows, record.accept_step or first) + 1
        yield lane


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple, list, Path))


def _write(path: str | Path, text: str) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target
