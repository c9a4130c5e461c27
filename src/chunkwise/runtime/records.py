"""One request, one control step: what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from chunkwise.chunking import SourceKind


@dataclass(slots=True)
class RequestRecord:
    """One request and what became of it.  Times are on the loop's clock; None is not known, or not yet.

    Attributes:
        index: its number in the run, from 0.
        request_step: the control step whose frame went with it.
        launch_time_s: when it was made; None for a chunk that was there before the first step.
        latency_hint_steps: the delay it told the policy to expect.
        prepare_s: how long making it took.
        reply_time_s: when the policy was done.
        accept_time_s, accept_step: when the loop took the answer, or learned that there is none.
        first_step: the control step of its row 0.
        returned_rows: rows in its answer.
        accepted: the answer joined the plan.
        dropped_as_stale: every row of it was past.
        error: why there was no usable answer.
    """

    index: int
    request_step: int
    launch_time_s: float | None = None
    latency_hint_steps: int = 0
    prepare_s: float = 0.0
    reply_time_s: float | None = None
    accept_time_s: float | None = None
    accept_step: int | None = None
    first_step: int | None = None
    returned_rows: int = 0
    accepted: bool = False
    dropped_as_stale: bool = False
    error: str = ""

    @property
    def request_latency_s(self) -> float | None:
        """From launch to reply: the policy."""
        return _between(self.launch_time_s, self.reply_time_s)

    @property
    def accept_delay_s(self) -> float | None:
        """From reply to acceptance: waiting for the next control step."""
        return _between(self.reply_time_s, self.accept_time_s)

    @property
    def usable_latency_s(self) -> float | None:
        """From launch to acceptance: what the plan has to bridge."""
        return _between(self.launch_time_s, self.accept_time_s)

    @property
    def waited_steps(self) -> int | None:
        """Control steps from request to acceptance (``d``)."""
        return None if self.accept_step is None else self.accept_step - self.request_step

    @property
    def stale_rows(self) -> int:
        """Rows that were past on arrival."""
        if self.dropped_as_stale:
            return self.returned_rows
        if self.accept_step is None or self.first_step is None:
            return 0
        return min(max(self.accept_step - self.first_step, 0), self.returned_rows)

    @property
    def accepted_rows(self) -> int:
        """Rows that joined the plan."""
        return self.returned_rows - self.stale_rows if self.accepted else 0

    def to_dict(self) -> dict[str, Any]:
        """Fields and properties, ready for JSON."""
        names = (*RequestRecord.__slots__, *_DERIVED)
        return {name: getattr(self, name) for name in names}


_DERIVED = [name for name, value in vars(RequestRecord).items() if isinstance(value, property)]


class StepRecord(NamedTuple):
    """One control step.

    Attributes:
        step: its number in the run.
        time_s: when it began.
        late_s: how long after its deadline.
        source: ``chunk``, ``wait`` (holding by design) or ``starved`` (holding because the plan ran dry).
        chunk, row: what ran: which request's answer, and which row of it; -1 for a hold.
        buffered_rows: rows that the plan still had, this step's included; -1 where it is not known.
        request: the request made in this step, or None.
        faults: what went wrong outside since the step before, ``kind: detail``.
    """

    step: int
    time_s: float
    late_s: float
    source: str
    chunk: int
    row: int
    buffered_rows: int
    request: int | None
    faults: tuple[str, ...]

    @property
    def underrun(self) -> bool:
        """Whether the plan had run dry."""
        return self.source == SourceKind.STARVED


def fates(record: RequestRecord, ran: Set[int]) -> Iterator[dict[str, Any]]:
    """What became of an answer's rows, as runs of rows that fared alike.

    ``accepted`` ran; ``dropped`` had its time pass before it could; ``unused`` was overtaken by a newer chunk,
    or by the end of the run.

    Args:
        record: of a request that was answered.
        ran: the rows of it that ran.
    """
    assert record.first_step is not None
    passed = min(max(max(ran, default=-1) + 1, record.stale_rows), record.returned_rows)
    runs = [
        ("accepted" if did else "dropped", len(list(rows)))
        for did, rows in groupby(range(passed), ran.__contains__)
    ]
    if passed < record.returned_rows:
        runs.append(("unused", record.returned_rows - passed))
    row = 0
    for status, count in runs:
        yield {
            "request": record.index,
            "status": status,
            "first_row": row,
            "first_step": record.first_step + row,
            "rows": count,
        }
        row += count


def _between(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else later - earlier
