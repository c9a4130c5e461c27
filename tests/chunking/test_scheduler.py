"""The scheduler's own rules, beside the strong law and the transcripts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking import Answer, DelayEstimate, FaultKind, Scheduler, SourceKind, Tick, Timing
from chunkwise.chunking.scheduler import REMEMBERED_LOST
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.testing.world import CountingPolicy, World, arm_layout, counting_world, rover_layout

Switch = plugins.load("strategies", "switch")


def scheduler(**settings: Any) -> Scheduler:
    return Scheduler(arm_layout(), Switch(), **({"hold": np.zeros(3)} | settings))


def rows(value: float = 1.0, count: int = 8, width: int = 3) -> ActionChunk:
    return ActionChunk(np.full((count, width), value))


def test_the_first_request_asks_for_the_step_of_its_frame() -> None:
    decision = scheduler().tick(Tick(17))
    assert decision.request is not None
    assert (decision.request.request_step, decision.request.id) == (17, 0)
    assert decision.request.prefix is None


def test_nothing_is_sent_before_the_first_chunk_where_no_hold_is_known() -> None:
    assert scheduler(hold=None).tick(Tick(0)).row is None


def test_steps_count_forwards() -> None:
    made = scheduler()
    made.tick(Tick(5))
    made.tick(Tick(5))
    with pytest.raises(ValueError, match="4 after 5"):
        made.tick(Tick(4))


def test_a_second_tick_of_a_step_does_not_ask_twice() -> None:
    made = scheduler()
    assert made.tick(Tick(0)).request is not None
    again = made.tick(Tick(0, [Answer(0, None, "no")]))
    assert again.request is None and again.faults[0].kind is FaultKind.POLICY_FAILED
    assert made.tick(Tick(1)).request is not None


def test_rows_that_are_handed_out_cannot_be_written() -> None:
    for layout in (arm_layout(), rover_layout()):
        made = Scheduler(layout, Switch(), hold=np.zeros(layout.width))
        world = World(made, CountingPolicy(layout, 4).infer, lambda request: 1 if request < 2 else None)
        for decision in world.run(range(20)):
            assert decision.row is not None and not decision.row.flags.writeable


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(0, None, "OSError: gone"), FaultKind.POLICY_FAILED, "OSError: gone"),
        (Answer(0, None), FaultKind.POLICY_FAILED, "no chunk"),
        (Answer(0, rows(width=4)), FaultKind.MALFORMED, "4 columns, the robot takes 3"),
        (Answer(0, rows(count=0)), FaultKind.MALFORMED, "0 rows"),
        (Answer(0, rows(count=5000)), FaultKind.MALFORMED, "5000 rows"),
        (Answer(0, ActionChunk(np.zeros(3))), FaultKind.MALFORMED, "float64 array"),
        (Answer(0, ActionChunk(np.zeros((4, 3), dtype=np.float32))), FaultKind.MALFORMED, "float64 array"),  # type: ignore[arg-type]
        (Answer(0, ActionChunk([[0.0] * 3])), FaultKind.MALFORMED, "float64 array"),  # type: ignore[arg-type]
        (Answer(0, [1, 2, 3]), FaultKind.MALFORMED, "not an ActionChunk but list"),  # type: ignore[arg-type]
        (Answer(0, ActionChunk(np.zeros((4, 3)), "now")), FaultKind.MALFORMED, "not a step: 'now'"),  # type: ignore[arg-type]
        (Answer(0, ActionChunk(np.zeros((4, 3)), -3)), FaultKind.MALFORMED, "starts at step -3"),
        (Answer(0, ActionChunk(np.zeros((4, 3)), 10**6)), FaultKind.MALFORMED, "starts at step 1000000"),
        (Answer(0, rows(np.nan)), FaultKind.NOT_FINITE, "row 0, arm.0 is nan"),
        (Answer(0, rows(-np.inf)), FaultKind.NOT_FINITE, "row 0, arm.0 is -inf"),
        (Answer(0, ActionChunk(np.zeros((2, 3)), 0)), FaultKind.EXPIRED, "all past at step 2"),
        (Answer(7, rows()), FaultKind.STALE, "closed"),
    ],
)
def test_what_goes_wrong_outside_is_a_fault_and_not_an_exception(
    answer: Answer, kind: FaultKind, words: str
) -> None:
    made = scheduler()
    made.tick(Tick(0))
    decision = made.tick(Tick(2, [answer]))
    (fault,) = decision.faults
    assert (fault.kind, fault.request) == (kind, answer.request)
    assert words in fault.detail
    np.testing.assert_array_equal(decision.row, np.zeros(3))
    assert (decision.request is None) == (kind is FaultKind.STALE)


def test_the_first_delay_is_not_measured_and_the_later_ones_are() -> None:
    made = scheduler(delay=DelayEstimate(initial=2))
    world = counting_world(made, 16, lambda request: 400 if request == 0 else 5)
    world.run(range(401))
    assert made.delay.steps == 2
    world.run(range(401, 420))
    assert made.delay.steps == 5


def test_a_failed_answer_is_no_measurement() -> None:
    made = scheduler()
    made.tick(Tick(0))
    made.tick(Tick(1, [Answer(0, rows())]))
    made.tick(Tick(2))
    made.tick(Tick(40, [Answer(1, None, "no")]))
    assert made.delay.steps == 1


def test_the_start_has_a_time_out_of_its_own() -> None:
    made = scheduler(timeout_steps=10, start_timeout_steps=100)
    assert made.tick(Tick(0)).request is not None
    assert not made.tick(Tick(99)).faults
    decision = made.tick(Tick(100))
    assert decision.faults[0].kind is FaultKind.LOST and decision.request is not None


def test_reset_keeps_the_delay_and_the_numbers_of_requests() -> None:
    made = scheduler()
    world = counting_world(made, 16, 5)
    world.run(range(40))
    delay, asked = made.delay.steps, max(d.request.id for d in world.decisions if d.request is not None)
    made.reset(np.full(3, 9.0))
    assert made.plan is None
    decision = made.tick(Tick(40))
    assert decision.request is not None and decision.request.id == asked + 1
    assert decision.request.latency_steps == delay == 5
    np.testing.assert_array_equal(decision.row, [9.0, 9.0, 9.0])
    assert decision.source.kind is SourceKind.WAIT


def test_an_answer_of_a_policy_that_was_found_again_makes_the_delay_unknown() -> None:
    made = scheduler()
    world = counting_world(made, 16, 5)
    world.run(range(40))
    plan = made.plan
    assert made.delay.steps == 5 and made.delay.measured
    asked = max(d.request.id for d in world.decisions if d.request is not None)
    made.tick(Tick(40, [Answer(asked, None, "ConnectionResetError: gone")]))
    assert made.plan is plan and made.delay.steps == 5  # the plan runs on, and nothing was measured
    back = ActionChunk(np.full((16, 3), 7.0), meta={"reconnected": True})
    decision = made.tick(Tick(43, [Answer(asked + 1, back)]))
    assert not made.delay.measured and made.delay.steps == DelayEstimate().steps  # it waited for the way there
    assert not decision.faults and decision.source.kind is SourceKind.CHUNK
    np.testing.assert_array_equal(decision.row, np.full(3, 7.0))
    request = next(d.request for d in (decision, made.tick(Tick(44))) if d.request is not None)
    made.tick(Tick(request.request_step + 3, [Answer(request.id, rows(7.0, 16))]))
    assert made.delay.measured and made.delay.steps == 3  # and from then on it is measured again


def test_a_hold_that_is_handed_in_is_made_one() -> None:
    hold = np.full(4, 3.0)
    made = Scheduler(rover_layout(), Switch(), hold=hold)
    np.testing.assert_array_equal(made.tick(Tick(0)).row, [0, 0, 0, 3])
    hold[:] = 7.0
    np.testing.assert_array_equal(made.tick(Tick(1)).row, [0, 0, 0, 3])


def test_age_counts_from_the_frame_and_for_a_first_chunk_from_its_arrival() -> None:
    world = counting_world(scheduler(), 16, lambda request: 1000 if request == 0 else 4)
    decisions = world.run(range(1010))
    assert [decision.age for decision in decisions[998:1009]] == [0, 0, 0, 1, 2, 3, 4, 4, 5, 6, 7]


def test_a_chunk_that_starts_later_is_led_up_to_by_the_running_plan() -> None:
    made = scheduler(first_chunk_on_arrival=False)
    made.tick(Tick(0))
    made.tick(Tick(1, [Answer(0, rows(0.0, 10))]))
    decision = made.tick(Tick(3, [Answer(1, ActionChunk(np.ones((6, 3)), 7))]))
    sent = [decision, *(made.tick(Tick(step)) for step in range(4, 13))]
    assert [item.row[0] for item in sent if item.row is not None] == [0.0] * 4 + [1.0] * 6


def test_a_chunk_that_starts_where_the_running_plan_ends_is_one_plan_with_it() -> None:
    made = scheduler(first_chunk_on_arrival=False)
    made.tick(Tick(0))
    made.tick(Tick(1, [Answer(0, rows(0.0, 5))]))
    made.tick(Tick(3, [Answer(1, ActionChunk(np.ones((4, 3)), 5))]))
    assert made.plan is not None and made.plan.end == 9
    assert made.plan.since(3)[:, 0].tolist() == [0, 0, 1, 1, 1, 1]


def test_an_average_remembers_its_counts_when_a_chunk_starts_later() -> None:
    ensemble = plugins.load("strategies", "temporal_ensemble")()
    made = Scheduler(arm_layout(), ensemble, hold=np.zeros(3), first_chunk_on_arrival=False)
    made.tick(Tick(0))
    made.tick(Tick(1, [Answer(0, rows(0.0, 10))]))
    made.tick(Tick(2, [Answer(1, rows(0.0, 10))]))
    made.tick(Tick(3, [Answer(2, ActionChunk(np.zeros((10, 3)), 5))]))
    assert made.plan is not None and made.plan.counts is not None
    # steps 3 and 4 were predicted twice, 5 to 9 three times, 10 twice, the rest once
    assert made.plan.counts.tolist() == [2, 2, 3, 3, 3, 3, 3, 2, 1, 1, 1, 1]


def test_a_failure_is_asked_again_whatever_the_strategy_wants() -> None:
    class Once(Switch):  # type: ignore[misc]
        def wants(self, timing: Timing) -> bool:
            return timing.step == 4

    made = Scheduler(arm_layout(), Once(), hold=np.zeros(3), timeout_steps=5)
    made.tick(Tick(0))
    made.tick(Tick(1, [Answer(0, rows())]))
    assert made.tick(Tick(4)).request is not None
    assert made.tick(Tick(5, [Answer(1, None, "no")])).request is not None
    assert made.tick(Tick(6, [Answer(2, rows(np.nan))])).request is not None
    assert made.tick(Tick(11)).request is not None  # lost
    assert made.tick(Tick(12, [Answer(4, rows())])).request is None


def test_only_so_many_lost_requests_are_remembered() -> None:
    made = scheduler(start_timeout_steps=1)
    for step in range(REMEMBERED_LOST + 2):
        made.tick(Tick(step))
    forgotten = made.tick(Tick(REMEMBERED_LOST + 2, [Answer(0, rows())]))
    assert forgotten.faults[0].kind is FaultKind.STALE
    known = made.tick(Tick(REMEMBERED_LOST + 3, [Answer(REMEMBERED_LOST, rows())]))
    assert known.source.chunk == REMEMBERED_LOST


def test_a_gap_before_a_chunk_that_starts_later_is_held_by_kind() -> None:
    layout = rover_layout()
    made = Scheduler(layout, Switch(), hold=np.zeros(4), first_chunk_on_arrival=False)
    made.tick(Tick(0))
    made.tick(Tick(1, [Answer(0, ActionChunk(np.full((4, 4), 2.0)))]))
    sent = [made.tick(Tick(2, [Answer(1, ActionChunk(np.full((3, 4), 5.0), 6))]))]
    sent += [made.tick(Tick(step)) for step in range(3, 9)]
    assert [item.source.kind for item in sent] == [SourceKind.CHUNK] * 2 + [SourceKind.STARVED] * 2 + [
        SourceKind.CHUNK
    ] * 3
    np.testing.assert_array_equal(sent[2].row, [0, 0, 0, 2])


@pytest.mark.parametrize("wrong", [{"timeout_steps": 0}, {"start_timeout_steps": 0}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="time-outs"):
        scheduler(**wrong)


def test_recorded_ticks_replay_to_the_same_decisions() -> None:
    recorded: list[Tick] = []

    class Recorder(Scheduler):
        def tick(self, tick: Tick) -> Any:
            recorded.append(Tick(tick.step, list(tick.arrivals)))
            return super().tick(tick)

    world = counting_world(Recorder(arm_layout(), Switch()), 16, lambda request: request * 7 % 11)
    decisions = world.run(range(200))
    again = scheduler(hold=None)
    last = {tick.step: again.tick(tick) for tick in recorded}
    for decision in decisions:
        replayed = last[decision.step]
        assert replayed.source == decision.source
        np.testing.assert_array_equal(replayed.row, decision.row)


def test_a_request_that_was_refused_by_the_policy_is_not_the_end() -> None:
    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        if request.id % 2:
            raise RuntimeError("busy")
        return CountingPolicy(arm_layout(), 16).infer(frame, request)

    world = World(scheduler(), infer, 2)
    assert SourceKind.STARVED not in {decision.source.kind for decision in world.run(range(100))}


def test_an_answer_is_late_by_the_delays_so_far_and_not_before_one_was_measured() -> None:
    made = scheduler()

    def asked(step: int) -> int:
        """The next step that asks."""
        return next(at for at in range(step, step + 60) if made.tick(Tick(at)).request is not None)

    assert asked(0) == 0
    assert made.overdue(100) == 0, "the first answer has its own time-out"
    made.tick(Tick(4, [Answer(0, rows(count=20))], may_ask=False))
    second = asked(5)
    assert made.overdue(second + 50) == 0, "no delay was measured yet"
    made.tick(Tick(second + 6, [Answer(1, rows(count=20))], may_ask=False))
    third = asked(second + 7)
    expected = 6 + 3 + 1
    assert [made.overdue(third + steps) for steps in (6, expected, expected + 1, expected + 5)] == [0, 0, 1, 5]
