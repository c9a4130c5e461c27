"""The server's end: what OpenArm's dataflow is answered, and when it is answered nothing new."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from chunkwise.contract import Frame, InterfaceValidationError
from chunkwise.contract.values import Array
from chunkwise.wires import (
    Buffer,
    Call,
    Fetch,
    Observe,
    Offer,
    Played,
    Problem,
    Readiness,
    Reply,
    Result,
    Status,
    WireError,
)
from chunkwise.wires.openarm import observation
from chunkwise.wires.openarm.arms import Arms, sides_of
from chunkwise.wires.openarm.lines import Lines, parsed

if TYPE_CHECKING:
    from chunkwise.wires.openarm import OpenArm

MAX_LINE: Final = 1 << 20
MAX_WAITING: Final = 16
"""Requests that may be without an answer; the genuine peer has one."""
REFILL_S: Final = 0.2
"""The next rows of a running plan are sent when so much of what was sent has not been played [s]."""
UNIX_TIME: Final = 10**18
"""A stamp from here on (the year 2001) counts nanoseconds since 1970; a smaller one is of another clock."""
MAX_TEXT: Final = 300

_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


@dataclass(slots=True)
class _Request:
    """One that has not been answered, or not before an earlier one.

    Attributes:
        reset: what the request says of it; None where it says nothing.
        begins: whether it is the first of an episode, once that is known.
        measured: the positions that it shows.
        line: the answer.
    """

    id: int
    metadata: dict[str, Any] = field(default_factory=dict)
    reset: bool | None = None
    begins: bool = False
    measured: Array | None = None
    line: bytes | None = None


class Server:
    """One connection: one dataflow, and every episode that it runs."""

    def __init__(self, wire: OpenArm) -> None:
        self._wire = wire
        self._lines = Lines(MAX_LINE, MAX_WAITING)
        self._waiting: dict[int, _Request] = {}
        self._ids = 0
        self._first, self._owed = True, False
        self._unbegun = False  # an episode's first observation was refused: the next one begins it
        self._number: int | None = None
        self._arms: Arms | None = None
        self._paced: _Pace | None = None
        self._unsent, self._sent_end = False, -1
        self._quiet_until_s = -math.inf

    def opened(self, offer: Offer, now_s: float) -> bytes | None:
        """Nothing: the peer speaks first."""
        return None

    def receive(self, data: Buffer, now_s: float) -> Sequence[Call]:
        """The calls in a piece of the stream.

        Raises:
            WireError: a line without an end, or one request after the other without waiting.
        """
        calls: list[Call] = []
        for line in self._lines.feed(data):
            if len(self._waiting) >= MAX_WAITING:
                raise WireError("the peer asks without waiting for answers")
            request = _Request(self._ids)
            self._ids += 1
            self._waiting[request.id] = request
            try:
                calls.append(self._call(request, line))
            except WireError as error:
                calls += self._refuse(request, str(error))
        return calls

    def _call(self, request: _Request, line: bytes) -> Call:
        asked = parsed(line, refuse_nan=True)
        if asked.get("ping") and "name" not in asked:
            return Status(request.id)
        said = asked.get("reset")
        request.reset = said if isinstance(said, bool) else None
        if asked.get("name") != "inference":
            raise WireError(f"no request {asked.get('name')!r:.60}; there are: inference")
        if asked.get("transport") is not None:
            raise WireError(f"no transport {asked['transport']!r:.60}; observations come by data_path")
        path, metadata = asked.get("data_path"), asked.get("metadata", {})
        if not isinstance(path, str) or not path.startswith("/") or not path.isprintable():
            raise WireError("data_path must be an absolute path")
        if not isinstance(metadata, dict):
            raise WireError("metadata must be an object")
        request.metadata = metadata
        return Fetch(path, self._wire.max_file_bytes, request.id)

    def fetched(self, call: Fetch, content: memoryview | Problem, now_s: float) -> Sequence[Call]:
        """The observation in the file; where there is none, the answer that says so."""
        request = self._waiting.get(call.id)
        if request is None or request.line is not None:
            return []
        try:
            if isinstance(content, Problem):
                raise WireError(content.text)
            return [self._observe(request, observation.read(self._wire.pa, content, request.metadata))]
        except WireError as error:
            return self._refuse(request, str(error))

    def _observe(self, request: _Request, seen: observation.Observation) -> Observe:
        wire = self._wire
        pictures = {wire.cameras.get(name, name): picture for name, picture in seen.pictures.items()}
        if len(pictures) != len(seen.pictures):
            raise WireError(f"two cameras of one name among {', '.join(pictures)}")
        numbers = self._shaped(seen.phase) if isinstance(seen.phase, np.ndarray) else None
        sides = sides_of(wire.arms, seen.position.size, seen.pictures)
        arms = self._arms
        if arms is not None and self._paced is not None and arms.sides != sides:
            raise WireError(f"the arms were {', '.join(arms.sides)}, and are {', '.join(sides)} now")
        if arms is None or arms.key != (sides, tuple(pictures), numbers is not None):
            arms = Arms.of(wire, sides, tuple(pictures), numbers is not None)
        state = {name: seen.position[columns] for name, columns in arms.columns.items()}
        frame = Frame(
            state=state if numbers is None else {**state, wire.phase: numbers},
            task={} if seen.prompt is None else {"prompt": seen.prompt},
            meta={wire.phase: seen.phase} if isinstance(seen.phase, dict) else {},
            timestamp_ns=_unix_time_ns(request.metadata.get("timestamp")),
            sequence_id=seen.number,
        )
        self._arms = arms
        request.measured = seen.position
        request.begins = self._begins(request.reset, seen.number)
        return Observe(
            arms.spec,
            frame,
            observation.complete(frame, pictures),
            wire.control_hz,
            patience_s=wire.reset_patience_s if request.begins else wire.patience_s,
            reset=request.begins or self._unbegun,
            id=request.id,
            rows=wire.rows,
            lead_s=wire.lead_s,
            stale_s=wire.stale_s,
        )

    def _shaped(self, numbers: Array) -> Array:
        shape = self._wire.phase_shape
        if shape and numbers.size != math.prod(shape):
            raise WireError(f"column {observation.PHASE!r} holds {numbers.size} numbers, phase_shape is {shape}")
        return numbers.reshape(shape) if shape else numbers

    def _begins(self, said: bool | None, number: int | None) -> bool:
        """Whether an episode begins: as the peer says; an older one, by its first request and falling numbers."""
        fell = number is not None and self._number is not None and number < self._number
        begins = self._owed or ((self._first or fell) if said is None else said)
        self._first = self._owed = False
        if number is not None:
            self._number = number
        return begins

    def answer(self, call: Call, result: Result, now_s: float) -> bytes | None:
        """The line for a call; None until the requests before it have theirs."""
        if not isinstance(call, (Observe, Status, Fetch)):
            return None
        request = self._waiting.get(call.id)
        if request is None or request.line is not None:
            return None
        if isinstance(call, Status):
            ready = isinstance(result, Offer) and result.readiness is Readiness.READY
            return self._settle(request, {"ready": ready})
        if isinstance(call, Fetch):
            self._owed |= bool(request.reset)
        elif call.reset:
            self._unbegun = not isinstance(result, Played)
        return self._settle(request, self._reply(request, result, now_s))

    def _reply(self, request: _Request, result: Result, now_s: float) -> dict[str, Any]:
        if request.begins:
            self._unsent, self._sent_end = False, -1
            self._quiet_until_s = now_s + self._wire.hold_after_reset_s
        if not isinstance(result, Played):
            text = f"{result.kind}: {result.text}" if isinstance(result, Problem) else "no answer"
            return self._standing(request, text, self._wire.control_hz) if request.begins else _nothing(text)
        self._unsent |= result.fresh
        errors = list(result.faults)
        if self._due(result) and (request.begins or now_s >= self._quiet_until_s):
            try:
                return self._playing(request, result)
            except InterfaceValidationError as refused:
                errors.append(str(refused))
        error = "; ".join(errors)
        return self._standing(request, error, result.control_hz) if request.begins else _nothing(error)

    def _due(self, played: Played) -> bool:
        """Whether to send: a chunk has joined, or a longer plan goes on where what was sent is nearly played."""
        if self._unsent or self._sent_end < 0 or self._paced is None or played.plan is None:
            return self._unsent
        ahead = round((self._wire.lead_s + REFILL_S) * self._paced.control_hz)
        return played.plan.end > self._sent_end and played.step + ahead >= self._sent_end

    def _playing(self, request: _Request, played: Played) -> dict[str, Any]:
        """The rows that the gate let pass.

        Raises:
            InterfaceValidationError: there are none, or they would be unsafe.
        """
        if played.rows is None:
            self._unsent = False
            raise InterfaceValidationError("the plan has run out before it could be played")
        reply = self._positions(request, played.rows, self._pace(played.control_hz))
        self._unsent = False
        lead = round(self._wire.lead_s * played.control_hz)
        self._sent_end = played.step + lead + self._wire.rows
        return reply

    def _standing(self, request: _Request, error: str, control_hz: float | None) -> dict[str, Any]:
        """Where the arms are, as a chunk: the `reset` of a request reaches the executor with positions only."""
        if request.measured is None or (control_hz is None and self._paced is None):
            return _nothing(error)
        try:
            pace = self._pace(control_hz)
            rows = np.repeat(request.measured[None], self._wire.rows, axis=0)
            return {**self._positions(request, rows, pace), **_error(error)}
        except InterfaceValidationError as refused:
            return _nothing(f"{error}; {refused}" if error else str(refused))

    def _positions(self, request: _Request, rows: Array, pace: _Pace) -> dict[str, Any]:
        """The answer with exactly as many rows as ever, that no executor stumbles over.

        Raises:
            InterfaceValidationError: they would be unsafe.
        """
        assert self._arms is not None and request.measured is not None
        safe = self._arms.safe(rows, request.measured)[: self._wire.rows]
        if len(safe) < self._wire.rows:
            safe = np.concatenate([safe, np.repeat(safe[-1:], self._wire.rows - len(safe), axis=0)])
        self._paced = pace
        return {"interval": pace.interval_ns, "cutoff_hz": self._wire.cutoff_hz, "positions": safe.tolist()}

    def _pace(self, control_hz: float | None) -> _Pace:
        """The rate of this connection: that of the first rows, for ever, because the executor reads it once.

        Args:
            control_hz: the policy's; None where that is not known.

        Raises:
            InterfaceValidationError: there is none, or the policy's is another one now.
        """
        if self._paced is None:
            if control_hz is None or not 1e-3 <= control_hz <= 1e6:
                raise InterfaceValidationError(f"no rate to play at: {control_hz}")
            return _Pace(control_hz, round(1e9 / control_hz))
        there = self._paced.control_hz
        if control_hz is not None and not abs(control_hz - there) <= 0.01 * there:
            text = f"the policy's rate is {control_hz:g} Hz now, the dataflow plays {there:g} Hz for ever"
            raise InterfaceValidationError(text)
        return self._paced

    def _refuse(self, request: _Request, text: str) -> Sequence[Call]:
        """Answer that nothing can be had of a request; what it says of an episode is not forgotten."""
        self._owed |= bool(request.reset)
        sent = self._settle(request, _nothing(text))
        return [] if sent is None else [Reply(sent)]

    def _settle(self, request: _Request, reply: dict[str, Any]) -> bytes | None:
        """Note an answer; the lines that may go out now, which is in the order of the requests."""
        request.line = (_ENCODE(reply) + "\n").encode("ascii")
        ready: list[bytes] = []
        for other in self._waiting.values():
            if other.line is None:
                break
            ready.append(other.line)
        for id in list(self._waiting)[: len(ready)]:
            del self._waiting[id]
        return b"".join(ready) or None


@dataclass(slots=True, frozen=True)
class _Pace:
    """How fast the rows of a connection are played."""

    control_hz: float
    interval_ns: int


def _nothing(error: str) -> dict[str, Any]:
    return {"positions": [], **_error(error)}


def _error(text: str) -> dict[str, str]:
    return {"error": text[:MAX_TEXT]} if text else {}


def _unix_time_ns(stamp: object) -> int:
    """The stamp of an observation, or 0 where it can be no wall clock's."""
    if isinstance(stamp, bool) or not isinstance(stamp, int) or not UNIX_TIME <= stamp < 1 << 63:
        return 0
    return stamp
