"""The strong law: if row i of a chunk asked for at step s has the value s + i, what is sent at step k is k."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise import plugins
from chunkwise.chunking import Decision, FaultKind, Scheduler, SourceKind
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.testing.world import CountingPolicy, World, arm_layout, rover_layout

STRATEGIES = {name: plugins.load("strategies", name) for name in plugins.names("strategies")}
ALIGNED = [name for name, made in STRATEGIES.items() if made.aligned]
START = -1000.0
"""The value of the hold before the first chunk; no row has it."""

latencies = st.lists(st.one_of(st.none(), st.integers(0, 40)), min_size=1, max_size=30)
strides = st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 20]), min_size=20, max_size=60)


def weather(
    name: str, delays: list[int | None], ahead: list[int], strides: list[int], **settings: object
) -> World:
    """A run through latencies, losses, missed deadlines and answers that start later than their request."""
    layout = arm_layout()
    strategy = STRATEGIES[name](execution_horizon=settings.pop("horizon", 0))  # type: ignore[arg-type]
    options: dict[str, object] = {"timeout_steps": 15, "start_timeout_steps": 15, "hold": np.full(3, START)}
    scheduler = Scheduler(layout, strategy, **(options | settings))  # type: ignore[arg-type]

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        return CountingPolicy(layout, 16, ahead=ahead[request.id % len(ahead)]).infer(frame, request)

    world = World(scheduler, infer, lambda request: delays[request % len(delays)])
    world.run(itertools.accumulate(strides, initial=0))
    return world


def check(decisions: list[Decision]) -> None:
    """Every row that ran belongs to its step; every hold repeats what was sent last."""
    last = np.full(3, START)
    for decision in decisions:
        assert decision.row is not None
        if decision.source.kind is SourceKind.CHUNK:
            # equal but for the rounding of an average of equal numbers
            np.testing.assert_allclose(decision.row, decision.step, rtol=1e-12, atol=1e-12)
        else:
            np.testing.assert_array_equal(decision.row, last)
        last = decision.row


@pytest.mark.parametrize("name", ALIGNED)
@settings(max_examples=200)
@given(delays=latencies, strides=strides, horizon=st.integers(0, 18))
def test_what_is_sent_at_step_k_is_k(
    name: str, delays: list[int | None], strides: list[int], horizon: int
) -> None:
    check(weather(name, delays, [0], strides, horizon=horizon, first_chunk_on_arrival=False).decisions)


@pytest.mark.parametrize("name", ALIGNED)
@settings(max_examples=100)
@given(delays=latencies, ahead=st.lists(st.integers(0, 45), min_size=1, max_size=9), strides=strides)
def test_the_law_holds_for_answers_that_start_later_than_their_request(
    name: str, delays: list[int | None], ahead: list[int], strides: list[int]
) -> None:
    check(weather(name, delays, ahead, strides, first_chunk_on_arrival=False).decisions)


@pytest.mark.parametrize("name", ALIGNED)
@settings(max_examples=60)
@given(first=st.integers(0, 30), delays=latencies, strides=strides)
def test_the_first_chunk_starts_at_its_row_0_and_the_law_holds_for_every_later_one(
    name: str, first: int, delays: list[int | None], strides: list[int]
) -> None:
    world = weather(name, [first, *delays], [0], strides, start_timeout_steps=100)
    running = [item for item in world.decisions if item.source.kind is SourceKind.CHUNK]
    anchored = [item for item in running if item.source.chunk == 0]
    if not anchored:
        return
    start = anchored[0].step
    assert anchored[0].source.row == 0
    for decision in anchored:
        np.testing.assert_array_equal(decision.row, decision.step - start)
    if name in ("blend", "temporal_ensemble"):
        return  # the second chunk is averaged with the anchored one
    for decision in running[len(anchored) :]:
        np.testing.assert_array_equal(decision.row, decision.step)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=60)
@given(delays=latencies, strides=strides)
def test_requests_come_one_at_a_time_and_never_stop(
    name: str, delays: list[int | None], strides: list[int]
) -> None:
    flying: int | None = None
    for decision in weather(name, delays, [0], strides).decisions:
        closed = {fault.request for fault in decision.faults if fault.kind is not FaultKind.STALE}
        if flying is not None and (flying in closed or decision.source.chunk >= flying):
            flying = None
        if decision.request is not None:
            assert flying is None, "asked again with a request in flight"
            if delays[decision.request.id % len(delays)] != 0:  # else it was answered in the same step
                flying = decision.request.id


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=60)
@given(delays=latencies, strides=strides)
def test_a_hold_is_zero_where_zero_holds(name: str, delays: list[int | None], strides: list[int]) -> None:
    layout = rover_layout()
    scheduler = Scheduler(layout, STRATEGIES[name](), timeout_steps=15, start_timeout_steps=15, hold=np.ones(4))
    policy = CountingPolicy(layout, 16)
    world = World(scheduler, policy.infer, lambda request: delays[request % len(delays)])
    lift = 1.0
    for decision in world.run(itertools.accumulate(strides, initial=0)):
        assert decision.row is not None
        if decision.source.kind is not SourceKind.CHUNK:
            np.testing.assert_array_equal(decision.row, [0.0, 0.0, 0.0, lift])
        lift = decision.row[3]
