"""What a connection is not allowed; the limits of sessions and inferences are in test_service.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chunkwise.server import Settings, connection
from chunkwise.testing import SimulatedClock

Play = Callable[..., Any]


def said(bench: Any, name: str) -> list[str]:
    """The errors of the events of that name."""
    return [details.get("error", "") for event, details in bench.said if event == name]


def test_a_connection_that_sends_more_than_it_may_is_closed_and_no_other(play: Play, held: Any) -> None:
    clock = SimulatedClock(5.0)

    async def story(bench: Any) -> None:
        line, other = bench.greeted(), bench.greeted()
        for id in range(1, int(connection.MAX_CALLS_HZ) + 1):
            if not line.closed:
                line.tell(line.half.status(id))
        assert line.closed and not other.closed
        other.ask(1, 2.0)
        assert await other.rows(1) == [2.0, 2.0]

    bench = play(held, story, clock=clock)
    assert said(bench, "refused") == ["more than 2000 messages per second"]


def test_more_shared_memory_than_there_is_for_one_ends_the_connection(play: Play, held: Any) -> None:
    async def story(bench: Any) -> None:
        line = bench.greeted()
        line.tell(line.half.ask_for_memory(1, (64 << 20) + 1))
        assert line.closed

    bench = play(held, story)
    assert f"1 to {64 << 20} can be had" in said(bench, "refused")[0]


def test_who_shows_no_token_for_too_long_is_let_go(play: Play, held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.GREETING_S == 10.0
    monkeypatch.setattr(connection, "GREETING_S", 0.0)

    async def story(bench: Any) -> None:
        silent, known = bench.line(guarded=True), bench.line(guarded=True)
        known.hello(token="s3cret")
        await silent.until(lambda: silent.closed)
        assert not known.closed and not silent.events

    play(held, story, Settings(token="s3cret"))


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({"authorization": "Bearer s3cret"}, True),
        ({"authorization": "bearer s3cret"}, True),
        ({"authorization": "Bearer another"}, False),
        ({"authorization": "s3cret"}, False),
        ({}, False),
    ],
)
def test_only_who_shows_the_token_is_read_on(
    play: Play, held: Any, headers: dict[str, str], admitted: bool
) -> None:
    async def story(bench: Any) -> None:
        line = bench.line(guarded=True)
        assert line.connection.admits(headers) is admitted
        assert [event.problem.kind for event in line.events] == [] if admitted else ["unauthorised"]
        assert bench.line(guarded=False).connection.admits({})

    bench = play(held, story, Settings(token="s3cret"))
    assert len(said(bench, "refused")) == (not admitted)
