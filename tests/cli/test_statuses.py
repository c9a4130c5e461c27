"""Lines of JSON for whoever started a run: whole ones, whatever their reader does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chunkwise.chunking import Decision, Source, SourceKind
from chunkwise.cli.statuses import RATE_TURNS, Statuses, Words
from chunkwise.contract import ChunkRequest
from chunkwise.runtime.events import Turn
from chunkwise.safety import Change, Mode


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reads, writes = os.pipe()
    yield reads, writes
    for fd in (reads, writes):
        try:
            os.close(fd)
        except OSError:
            continue


def lines(fd: int) -> list[dict[str, Any]]:
    os.set_blocking(fd, False)
    data = b""
    while True:
        try:
            more = os.read(fd, 1 << 20)
        except BlockingIOError:
            break
        if not more:
            break
        data += more
    return [json.loads(line) for line in data.splitlines()]


def test_a_reader_that_does_not_read_gets_whole_lines_and_the_last_one(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    words = Words(writes)
    for number in range(200):
        words.say({"number": number, "text": "x" * 1000})
    read: list[dict[str, Any]] = []

    def follow() -> None:
        with os.fdopen(os.dup(reads), "rb") as said:
            read.extend(map(json.loads, said))

    reader = threading.Thread(target=follow)
    reader.start()
    words.say({"report": "y" * 200_000}, within_s=30.0)
    os.close(writes)
    reader.join()
    numbers = [each["number"] for each in read[:-1]]
    assert numbers == list(range(len(numbers))) and 0 < len(numbers) < 200
    assert read[-1] == {"report": "y" * 200_000}


def test_a_reader_that_has_left_costs_nothing(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    words = Words(writes)
    os.close(reads)
    words.say({"number": 1})
    words.say({"report": 2}, within_s=30.0)


def turn(step: int, source: Source, request: ChunkRequest | None = None, change: Change | None = None) -> Turn:
    mode = Mode.HOLD if source.kind is SourceKind.STARVED else Mode.RUNNING
    verdict: Any = None
    return Turn(step, step * 0.02, 0.0, Decision(step, None, source, request, ()), None, verdict, mode, change)


def test_a_status_counts_every_turn_and_is_said_at_every_change(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    now = [0.0]
    statuses = Statuses(writes, clock=lambda: now[0])
    chunk, starved = Source(SourceKind.CHUNK, 3, 0), Source(SourceKind.STARVED)
    turns = [turn(step, chunk, ChunkRequest(step) if step == 4 else None) for step in range(2 * RATE_TURNS)]
    statuses(turns[:5])
    statuses(turns)  # too soon
    change = Change(len(turns), 2.0, Mode.RUNNING, Mode.HOLD, "the plan ended")
    turns.append(turn(len(turns), starved, change=change))
    statuses(turns)
    first, last = lines(reads)
    assert (first["state"], first["steps"], first["requests"], first["chunks"]) == ("running", 5, 1, 1)
    assert (last["state"], last["why"]) == ("hold", "the plan ended")
    assert (last["steps"], last["starved"], last["step"]) == (len(turns), 1, len(turns) - 1)
    assert last["rate_hz"] == 50.0
