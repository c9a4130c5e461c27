"""Golden conversations with the scheduler: plain text that shows a situation, checked and recorded again.

A transcript is a sequence of commands, each followed by ``----`` and what came of it, up to an empty line::

    # What this shows.
    scheduler strategy=switch rows=8 timeout=20
    ----

    network ok+2, nan+2, ok+2
    run 12
    ----
    0       wait             hold 0      ask r0 d=1
    ...

Commands:

``scheduler [name=value ...]``
    A new scheduler and a new network.  ``strategy`` and its own parameters; ``rows`` (``H``), ``timeout``,
    ``start_timeout``, ``on_arrival`` (yes, no), ``robot`` (arm, rover), ``hold`` (a number, or none), ``averages``
    (yes where the strategy mixes plans).
``network OUTCOME, ...``
    What becomes of the requests from now on, one outcome each, the last one for ever.  An outcome is a kind and
    the steps that it takes: ``ok+2``; ``ok+2@5`` starts 5 steps later than its request; ``nan+2``, ``wide+2``,
    ``empty+2`` are malformed; ``error+2`` raises; ``lost`` never comes.
``run N``, ``jump N``, ``reset [hold]``
    N control steps; N steps whose deadlines are missed; a new episode.

The policy counts: column 0 of row ``i`` asked for at step ``s`` is ``s + i``, every other column is the request's
number.  So the line ``5..9  r1[2..6]  sends 5..9`` reads: in steps 5 to 9 ran rows 2 to 6 of request 1's chunk,
and they were predicted for these steps.

Beside the recording, whatever it says, each step is checked: what is sent comes from the plan that was running,
from the plan that has just arrived or is the hold; after a fault the policy is asked again in the same step; and
a good answer runs in the step in which it arrives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chunkwise import plugins
from chunkwise.chunking import Answer, Decision, FaultKind, Plan, Scheduler, SourceKind, Tick
from chunkwise.contract import ActionChunk, ChunkRequest, InterfaceValidationError, Layout, nearest
from chunkwise.contract.values import Array
from chunkwise.testing.world import arm_layout, rover_layout

_LAYOUTS = {"arm": arm_layout, "rover": rover_layout}
_KINDS = ("ok", "nan", "wide", "empty", "error", "lost")


class Outcome(NamedTuple):
    """What becomes of one request: an answer of some kind after some steps."""

    kind: str
    steps: int
    ahead: int = 0


@dataclass
class Conversation:
    """One scheduler, one network, and the step they have reached."""

    scheduler: Scheduler
    rows: int
    averages: bool = False
    outcomes: list[Outcome] = field(default_factory=lambda: [Outcome("ok", 1)])
    step: int = 0

    def __post_init__(self) -> None:
        self._under_way: list[tuple[int, Outcome, ChunkRequest]] = []
        self._coming: list[ActionChunk] = []  # good answers that start later than they arrived
        self._last: Array | None = None
        self._in_flight: int | None = None

    def run(self, steps: int) -> list[Decision]:
        """That many control steps, each of them checked."""
        return [self._turn() for _ in range(steps)]

    def jump(self, steps: int) -> None:
        """Miss that many deadlines."""
        self.step += steps

    def reset(self, hold: Array | None) -> None:
        """A new episode; what is under way stays under way."""
        self.scheduler.reset(hold)
        self._last, self._in_flight = hold, None

    def _turn(self) -> Decision:
        before = self.scheduler.plan
        arrived = self._arrivals()
        answers = [self._answer(outcome, request) for _, outcome, request in arrived]
        decision = self.scheduler.tick(Tick(self.step, answers))
        request, faults = decision.request, decision.faults
        if request is not None:
            self._in_flight = request.id
            self._send(request)
            at_once = self._arrivals()
            if at_once:
                more = [self._answer(outcome, asked) for _, outcome, asked in at_once]
                decision = self.scheduler.tick(Tick(self.step, more))
                decision = decision._replace(request=request, faults=faults + decision.faults)
                arrived, answers = arrived + at_once, answers + more
        self._check(decision, before, arrived, answers)
        self._last = decision.row
        self.step += 1
        return decision

    def _send(self, request: ChunkRequest) -> None:
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome.kind != "lost":
            self._under_way.append((self.step + outcome.steps, outcome, request))

    def _arrivals(self) -> list[tuple[int, Outcome, ChunkRequest]]:
        there = [item for item in self._under_way if item[0] <= self.step]
        self._under_way = [item for item in self._under_way if item[0] > self.step]
        return sorted(there, key=lambda item: item[0])

    def _answer(self, outcome: Outcome, request: ChunkRequest) -> Answer:
        if outcome.kind == "error":
            return Answer(request.id, None, "RuntimeError: out of memory")
        width = self.scheduler.layout.width + (outcome.kind == "wide")
        first = request.request_step + outcome.ahead
        rows = np.full((0 if outcome.kind == "empty" else self.rows, width), float(request.id))
        rows[:, 0] = np.arange(first, first + len(rows))
        if outcome.kind == "nan":
            rows[len(rows) // 2, 1] = np.nan
        rows.flags.writeable = False
        return Answer(request.id, ActionChunk(rows, first if outcome.ahead else None))

    def _check(
        self,
        decision: Decision,
        before: Plan | None,
        arrived: Sequence[tuple[int, Outcome, ChunkRequest]],
        answers: Sequence[Answer],
    ) -> None:
        """The rules that no recording can overrule."""
        row, step = decision.row, decision.step
        allowed = self._candidates(before, answers)
        if row is None:
            assert not allowed, f"step {step} sent nothing although there was something to send"
        elif not any(np.array_equal(row, candidate) for candidate in allowed):
            between = np.array(allowed)
            mixed = len(between) and (row >= between.min(axis=0)).all() and (row <= between.max(axis=0)).all()
            assert self.averages and mixed, (
                f"step {step} sent {row}, which is neither the running plan's, the new plan's nor the hold"
            )
        refused = {fault.request for fault in decision.faults if fault.kind is not FaultKind.TOO_SHORT}
        if self._in_flight in refused and decision.request is None:
            raise AssertionError(
                f"step {step}: request {self._in_flight} failed and the policy was not asked again"
            )
        for _, outcome, request in arrived:
            if outcome.kind == "ok" and request.id not in refused and request.request_step + outcome.ahead <= step:
                assert decision.source.kind is SourceKind.CHUNK and decision.source.chunk >= request.id, (
                    f"step {step}: the good answer to request {request.id} arrived and does not run"
                )

    def _candidates(self, before: Plan | None, answers: Sequence[Answer]) -> list[Array]:
        """Everything that may be sent in this step."""
        layout, now = self.scheduler.layout, self.scheduler.plan
        found = [
            plan.rows[self.step - plan.first_step]
            for plan in (before, now if self.averages else None)
            if plan is not None and plan.first_step <= self.step < plan.end
        ]
        for answer in answers:
            rows = answer.chunk.rows if answer.chunk is not None else np.empty((0, 0))
            if rows.shape[1:] == (layout.width,) and np.isfinite(rows).all():
                found += list(rows)
            if answer.chunk is not None and answer.chunk.first_step is not None:
                self._coming.append(answer.chunk)
        for chunk in self._coming:
            assert chunk.first_step is not None
            found += list(chunk.rows[max(self.step - chunk.first_step, 0) :][:1])
        if self._last is not None:
            found.append(layout.hold(self._last))
        return found


def play(text: str) -> str:
    """The transcript again, with what really came of each command.

    Raises:
        ValueError: a command that is none.
        AssertionError: a rule was broken, see the module.
    """
    played = []
    conversation: Conversation | None = None
    for commands in _blocks(text):
        said: list[str] = []
        for line in commands:
            word, _, rest = line.partition(" ")
            if not line or word.startswith("#"):
                continue
            if word == "scheduler":
                conversation = _scheduler(rest)
            elif conversation is None:
                raise ValueError(f"{line!r} comes before a scheduler")
            elif word == "network":
                conversation.outcomes = [_outcome(part.strip()) for part in rest.split(",")]
            elif word == "run":
                said += _fold(conversation.run(int(rest)))
            elif word == "jump":
                conversation.jump(int(rest))
            elif word == "reset":
                conversation.reset(_hold(rest or "none", conversation.scheduler.layout))
            else:
                known = ["scheduler", "network", "run", "jump", "reset"]
                raise ValueError(f"no command {word!r}{nearest(word, known)}")
        played.append("\n".join([*commands, "----", *said]))
    return "\n\n".join(played) + "\n"


def _blocks(text: str) -> Iterator[list[str]]:
    """The command lines of each block; recorded output is left out."""
    for block in text.strip().split("\n\n"):
        lines = block.strip("\n").split("\n")
        yield lines[: lines.index("----")] if "----" in lines else lines


def _scheduler(line: str) -> Conversation:
    given: dict[str, str] = dict(part.split("=", 1) for part in line.split())
    layout = _LAYOUTS[given.pop("robot", "arm")]()
    rows = int(given.pop("rows", "16"))
    averages = given.pop("averages", "no") == "yes"
    settings: dict[str, Any] = {
        "timeout_steps": int(given.pop("timeout", "250")),
        "start_timeout_steps": int(given.pop("start_timeout", "6000")),
        "first_chunk_on_arrival": given.pop("on_arrival", "yes") == "yes",
        "hold": _hold(given.pop("hold", "0"), layout),
    }
    made = plugins.load("strategies", given.pop("strategy", "switch"))
    strategy = made(**{name: _number(value) for name, value in given.items()})
    conversation = Conversation(Scheduler(layout, strategy, **settings), rows, averages)
    conversation._last = settings["hold"]
    return conversation


def _number(text: str) -> int | float | str:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _hold(text: str, layout: Layout) -> Array | None:
    return None if text == "none" else layout.hold(np.full(layout.width, float(text)))


def _outcome(text: str) -> Outcome:
    kind, _, steps = text.partition("+")
    if kind not in _KINDS:
        raise InterfaceValidationError(f"no outcome {kind!r}{nearest(kind, _KINDS)}")
    steps, _, ahead = steps.partition("@")
    return Outcome(kind, int(steps or 0), int(ahead or 0))


def _fold(decisions: Sequence[Decision]) -> list[str]:
    """One line per run of steps that go on as before; a request or a fault begins a new line."""
    lines: list[list[Decision]] = []
    for decision in decisions:
        if lines and _continues(lines[-1], decision):
            lines[-1].append(decision)
        else:
            lines.append([decision])
    return [_line(run) for run in lines]


def _continues(run: list[Decision], decision: Decision) -> bool:
    last = run[-1]
    rows = 0 if decision.source.row < 0 else 1
    return (
        decision.request is None
        and not decision.faults
        and decision.step == last.step + 1
        and decision.source == last.source._replace(row=last.source.row + rows)
        and _shown(decision) == _shown(last) + rows
    )


def _shown(decision: Decision) -> float:
    """What a line tells of a row: its first number."""
    return float("nan") if decision.row is None else float(decision.row[0])


def _line(run: list[Decision]) -> str:
    first, last = run[0], run[-1]
    if first.source.kind is SourceKind.CHUNK:
        source = f"r{first.source.chunk}[{_span(first.source.row, last.source.row)}]"
        sent = f"sends {_span(_shown(first), _shown(last))}"
        others = "" if first.row is None else f" of {first.row[1]:.3g}"
        sent += others if first.row is not None and first.row[1] != first.source.chunk else ""
    else:
        source = str(first.source.kind)
        sent = "nothing" if first.row is None else f"hold {_shown(first):g}"
    notes = [f"{fault.kind} r{fault.request}: {fault.detail}" for fault in first.faults]
    if first.request is not None:
        notes.append(_asked(first.request))
    return f"{_span(first.step, last.step):<12}{source:<14}{sent:<20}{'; '.join(notes)}".rstrip()


def _asked(request: ChunkRequest) -> str:
    text = f"ask r{request.id} d={request.latency_steps}"
    if request.prefix is not None and request.prefix_weights is not None:
        firm = int((request.prefix_weights == 1).sum())
        text += f" s={request.execute_horizon} prefix {len(request.prefix)} rows, {firm} firm"
    return text


def _span(first: float, last: float) -> str:
    return f"{first:g}" if first == last else f"{first:g}..{last:g}"


def main(arguments: Sequence[str]) -> int:
    """``python -m chunkwise.testing.transcripts [--rewrite] DIR``: check every transcript of a folder, or record
    it again; 1 where one differs."""
    rewrite = "--rewrite" in arguments
    folders = [Path(argument) for argument in arguments if argument != "--rewrite"]
    differing = 0
    for path in sorted(path for folder in folders for path in folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        played = play(text)
        if played != text:
            differing += 1
            print(f"{path}: {'recorded again' if rewrite else 'differs'}")
            if rewrite:
                path.write_text(played, encoding="utf-8")
    return 0 if rewrite or not differing else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
