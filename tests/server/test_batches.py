"""Requests of several sessions in one call of the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.wires import Trouble

Play = Callable[..., Any]


@pytest.fixture
def batched(make_held: Any) -> Any:
    """A policy that answers three at once; what it was asked together is in `together`."""

    class Batched(make_held):  # type: ignore[misc]
        max_batch = 3

        def __init__(self) -> None:
            super().__init__()
            self.together: list[list[float]] = []
            self.answers: Callable[[list[Any]], Any] = list

        def infer_many(self, calls: Sequence[Any]) -> Any:
            self.together.append([float(frame.state["arm"][0]) for frame, _ in calls])
            self.entered.release()
            self.go.wait(10)
            return self.answers([self.says(frame, request) for frame, request in calls])

    return Batched()


def crowd(bench: Any, count: int) -> list[Any]:
    """A client whose request runs, and others whose requests wait; client `i` asks with the value `i`."""
    return [bench.greeted() for _ in range(count)]


async def flood(bench: Any, lines: Sequence[Any]) -> None:
    """Client 0 holds the policy while the others ask."""
    bench.policy.go.clear()
    lines[0].ask(1, 0.0)
    await bench.entered()
    for value, line in enumerate(lines[1:], 1):
        line.ask(1, float(value))


def test_what_waits_is_asked_together_and_told_apart(play: Play, batched: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 6)
        await flood(bench, lines)
        batched.go.set()
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(batched, story)
    assert batched.together == [[1.0, 2.0, 3.0], [4.0, 5.0]]
    assert [value for value, _ in batched.seen] == [0.0]  # who is alone needs no batch


def test_one_bad_frame_does_not_spoil_the_others(play: Play, batched: Any) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        await flood(bench, lines)
        wrong = lines[2]
        wrong.tell(wrong.half.ask(1, Frame(state={"leg": np.zeros(2)}), ChunkRequest(0, id=1), None))
        batched.go.set()
        assert await lines[1].rows(1) == [1.0, 1.0] and await lines[3].rows(1) == [3.0, 3.0]
        await wrong.until(lambda: len(wrong.about(1)) == 2)
        assert wrong.about(1)[1].problem.kind is Trouble.MALFORMED

    play(batched, story)
    assert batched.together == [[1.0, 3.0]]


def test_one_bad_answer_does_not_spoil_the_others(play: Play, batched: Any) -> None:
    def answers(rows: list[Any]) -> list[Any]:
        return [rows[0], RuntimeError("no grasp"), np.full((4, 2), np.nan)]

    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        await flood(bench, lines)
        batched.answers = answers
        batched.go.set()
        assert await lines[1].rows(1) == [1.0, 1.0]
        assert await lines[2].problem(1) == (Trouble.POLICY_FAILED, "RuntimeError: no grasp")
        assert "nan for a in row 0" in (await lines[3].problem(1))[1]

    play(batched, story)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (lambda rows: rows[:-1], "2 answers to 3 calls"),
        (lambda rows: 1 / 0, "ZeroDivisionError"),
        (len, "TypeError"),
    ],
)
def test_a_batch_that_fails_is_told_to_all_of_it(
    play: Play, batched: Any, answers: Callable[[list[Any]], Any], words: str
) -> None:
    async def story(bench: Any) -> None:
        lines = crowd(bench, 4)
        await flood(bench, lines)
        batched.answers = answers
        batched.go.set()
        for line in lines[1:]:
            kind, text = await line.problem(1)
            assert kind is Trouble.POLICY_FAILED and words in text
        batched.answers = list
        lines[1].ask(2, 7.0)
        assert await lines[1].rows(2) == [7.0, 7.0]

    play(batched, story)


def test_a_session_with_a_policy_of_its_own_is_not_batched(play: Play, batched: Any, make_held: Any) -> None:
    own = make_held()
    batched.session = lambda: own

    async def story(bench: Any) -> None:
        lines = crowd(bench, 3)
        for value, line in enumerate(lines):
            line.ask(1, float(value))
        for value, line in enumerate(lines):
            assert await line.rows(1) == [value, value]

    play(batched, story)
    assert not batched.together and len(own.seen) == 3
