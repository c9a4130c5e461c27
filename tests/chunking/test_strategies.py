"""What each strategy does that the others do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise import plugins
from chunkwise.chunking import DelayEstimate, FaultKind, Scheduler, SourceKind, Timing, prefix_weights
from chunkwise.chunking.plan import Plan
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, Layout
from chunkwise.contract.values import Array
from chunkwise.testing.world import World, arm_layout, counting_world

Blend = plugins.load("strategies", "blend")
Rtc = plugins.load("strategies", "rtc")
Switch = plugins.load("strategies", "switch")
Sync = plugins.load("strategies", "sync")
TemporalEnsemble = plugins.load("strategies", "temporal_ensemble")


def plan(first_step: int, value: float, rows: int = 8, chunk: int = 0) -> Plan:
    return Plan(first_step, np.full((rows, 3), value), chunk, first_step)


# blend


@pytest.mark.parametrize("arrives", [4, 5, 7])
def test_the_ramp_starts_at_the_hand_over_with_low(arrives: int) -> None:
    joined = Blend(ensemble_weight=(0.2, 0.8)).join(plan(0, 0.0, 12), plan(4, 1.0, 12, 1), arrives, arm_layout())
    assert joined.first_step == arrives
    shared = 12 - arrives
    np.testing.assert_allclose(joined.rows[:shared, 0], np.linspace(0.2, 0.8, shared))
    assert (joined.rows[shared:] == 1.0).all()
    assert (joined.rows[:, 2] == 1.0).all()  # the gripper


def test_one_weight_for_every_row() -> None:
    joined = Blend(ensemble_weight=0.25).join(plan(0, 0.0), plan(4, 1.0, chunk=1), 4, arm_layout())
    np.testing.assert_allclose(joined.rows[:, 0], [0.25] * 4 + [1.0] * 4)


def test_a_single_shared_row_has_the_low_weight() -> None:
    joined = Blend(ensemble_weight=(0.1, 0.9)).join(plan(0, 0.0), plan(7, 1.0, chunk=1), 7, arm_layout())
    assert joined.rows[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("weight", [1.5, -0.1, (0.8, 0.2), (0.0, 2.0)])
def test_a_weight_out_of_range_is_refused(weight: float | tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="ensemble_weight"):
        Blend(ensemble_weight=weight)


# temporal ensemble


@settings(max_examples=100)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.sampled_from([0.01, 0.5, 0.0, -0.3]))
def test_temporal_ensemble_is_the_direct_formula(delays: list[int], decay: float) -> None:
    """ACT, algorithm 2: the mean of all predictions for a step, the j-th oldest weighing exp(-m j)."""
    rows, layout, rng = 10, arm_layout(), np.random.default_rng(0)
    answers: dict[int, Array] = {}
    arrived: list[tuple[int, int, Array]] = []  # (arrival, first step, rows)

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        answers[request.id] = rng.normal(size=(rows, layout.width))
        delay = delays[request.id % len(delays)]
        arrived.append((request.request_step + delay, request.request_step, answers[request.id]))
        return ActionChunk(answers[request.id])

    scheduler = Scheduler(layout, TemporalEnsemble(decay=decay), hold=np.zeros(3), first_chunk_on_arrival=False)
    world = World(scheduler, infer, lambda request: delays[request % len(delays)])
    covered = -1  # the ensemble begins anew when the plan has run dry
    began = 0
    for decision in world.run(range(60)):
        step = decision.step
        there = [item for item in arrived if item[0] <= step]
        if decision.source.kind is not SourceKind.CHUNK:
            began = step + 1
            continue
        covering = [item for item in there if item[1] <= step < item[1] + rows and item[0] >= began]
        weights = np.exp(-decay * np.arange(len(covering)))
        predictions = np.array([item[2][step - item[1]] for item in covering])
        expected = weights @ predictions / weights.sum()
        assert decision.row is not None
        np.testing.assert_allclose(decision.row[:2], expected[:2], atol=1e-12)
        assert decision.row[2] == predictions[-1, 2]  # grippers take the newest
        covered = step
    assert covered > 0


# rtc


@pytest.mark.parametrize("delay", [1, 3, 5, 8])
@pytest.mark.parametrize("schedule", ["exp", "linear", "ones", "zeros"])
def test_a_request_in_steady_state_carries_the_plan_its_weights_and_the_delay(delay: int, schedule: str) -> None:
    rows = 16
    world = counting_world(Scheduler(arm_layout(), Rtc(schedule=schedule)), rows, delay)
    request = [decision.request for decision in world.run(range(200)) if decision.request is not None][-1]
    assert request.inference_delay == request.latency_steps == delay
    assert request.execute_horizon == delay  # s: as often as possible
    overlap = rows - delay  # H - s
    assert request.prefix is not None and request.prefix_weights is not None
    np.testing.assert_array_equal(request.prefix[:, 0], request.request_step + np.arange(overlap))
    np.testing.assert_array_equal(request.prefix_weights, prefix_weights(delay, overlap, schedule))  # type: ignore[arg-type]
    assert request.remaining_steps == overlap


def test_rtc_with_a_longer_execution_horizon_leaves_more_rows_free() -> None:
    world = counting_world(Scheduler(arm_layout(), Rtc(execution_horizon=6)), 16, 3)
    asked = [decision.request for decision in world.run(range(100)) if decision.request is not None]
    steps = [request.request_step for request in asked[2:]]
    assert set(np.diff(steps)) == {6}
    assert asked[-1].execute_horizon == 6
    assert asked[-1].prefix is not None and len(asked[-1].prefix) == 10


def test_the_whole_rest_of_the_plan_goes_with_the_request() -> None:
    timing = Timing(step=6, delay=3, horizon=16, waited=6, remaining=10)
    ask = Rtc(execution_horizon=6).ask(Plan(0, np.zeros((16, 3)), 0, 0), timing)
    assert ask.prefix is not None and len(ask.prefix) == 10  # H - s
    assert ask.prefix_weights is not None and len(ask.prefix_weights) == 10


def test_a_delay_beyond_the_plan_binds_all_of_it_and_does_not_lose_it() -> None:
    timing = Timing(step=3, delay=40, horizon=31, waited=3, remaining=28)
    ask = Rtc().ask(Plan(0, np.zeros((31, 3)), 0, 0), timing)
    assert ask.prefix_weights is not None
    assert ask.prefix_weights.tolist() == [1.0] * 28


@pytest.mark.parametrize("name", ["switch", "rtc", "blend", "temporal_ensemble"])
def test_until_a_delay_is_known_it_asks_at_once(name: str) -> None:
    strategy = plugins.load("strategies", name)(execution_horizon=25)
    early = Timing(step=41, delay=1, horizon=31, waited=1, remaining=30, measured=False)
    assert strategy.wants(early)
    assert not strategy.wants(early._replace(measured=True))


def test_rtc_without_a_plan_asks_plainly() -> None:
    ask = Rtc().ask(None, Timing(step=5, delay=2, horizon=16, waited=9, remaining=0))
    assert ask.prefix is None and ask.prefix_weights is None and ask.inference_delay == 2


def test_with_a_hard_mask_and_no_delay_nothing_of_the_plan_binds() -> None:
    timing = Timing(step=3, delay=0, horizon=16, waited=1, remaining=13)
    ask = Rtc(schedule="zeros").ask(Plan(0, np.zeros((16, 3)), 0, 0), timing)
    assert ask.prefix_weights is not None and not ask.prefix_weights.any()


# sync


def test_sync_runs_half_a_chunk_and_then_waits() -> None:
    world = counting_world(Scheduler(arm_layout(), Sync(), hold=np.zeros(3)), rows=9, delay=2)
    kinds = [decision.source.kind for decision in world.run(range(20))]
    wait, run = SourceKind.WAIT, SourceKind.CHUNK
    assert kinds == ([wait] * 2 + [run] * 5) * 2 + [wait] * 2 + [run] * 4


def test_sync_without_delay_never_waits() -> None:
    world = counting_world(Scheduler(arm_layout(), Sync(execution_horizon=4)), rows=8, delay=0)
    assert {decision.source.kind for decision in world.run(range(30))} == {SourceKind.CHUNK}


# when to ask


@settings(max_examples=150)
@given(st.integers(4, 40), st.data())
def test_no_row_is_missed_where_d_s_and_h_fit(rows: int, data: st.DataObject) -> None:
    """d <= s <= H - d: the plan never runs dry, and requests come every s steps."""
    delay = data.draw(st.integers(1, rows // 2))
    horizon = data.draw(st.integers(delay, rows - delay))
    name = data.draw(st.sampled_from(["switch", "rtc", "blend", "temporal_ensemble"]))
    strategy = plugins.load("strategies", name)(execution_horizon=horizon, margin=0)
    world = counting_world(Scheduler(arm_layout(), strategy, delay=DelayEstimate(initial=delay)), rows, delay)
    decisions = world.run(range(6 * rows))
    assert SourceKind.STARVED not in {decision.source.kind for decision in decisions}
    assert not any(decision.faults for decision in decisions)
    asked = [decision.step for decision in decisions if decision.request is not None]
    assert set(np.diff(asked[1:])) <= {horizon}


def test_an_execution_horizon_that_does_not_fit_the_delay_is_shortened() -> None:
    timing = Timing(step=0, delay=6, horizon=16, waited=0, remaining=16)
    assert Switch(execution_horizon=15).next_horizon(timing) == 10  # H - d
    assert Switch(execution_horizon=2).next_horizon(timing) == 6  # d
    world = counting_world(Scheduler(arm_layout(), Switch(execution_horizon=15)), 16, 6)
    kinds = [decision.source.kind for decision in world.run(range(200))][60:]
    assert SourceKind.STARVED not in kinds


@pytest.mark.parametrize(("before", "delay"), [(0, 3), (2, 3), (5, 1), (7, 4)])
def test_counted_from_the_hand_over_s_is_steps_before_request_and_d(before: int, delay: int) -> None:
    strategy = Rtc(steps_before_request=before)
    world = counting_world(Scheduler(arm_layout(), strategy), 16, delay)
    asked = [decision.request for decision in world.run(range(120)) if decision.request is not None][2:]
    assert set(np.diff([request.request_step for request in asked])) == {before + delay}
    assert {request.execute_horizon for request in asked} == {before + delay}


def test_the_margin_is_how_many_rows_are_left_when_the_answer_comes() -> None:
    for margin in (0, 1, 3):
        strategy = Switch(execution_horizon=100, margin=margin)
        assert strategy.wants(Timing(step=0, delay=4, horizon=16, waited=9, remaining=4 + margin))
        assert not strategy.wants(Timing(step=0, delay=4, horizon=16, waited=9, remaining=5 + margin))


@pytest.mark.parametrize(("rows", "delay"), [(8, 5), (8, 6), (8, 7), (20, 13), (50, 40)])
def test_the_warning_tells_the_truth(rows: int, delay: int) -> None:
    """It names H, d, the H that is needed, and how many steps of how many will hold."""
    world = counting_world(Scheduler(arm_layout(), Switch()), rows, delay)
    decisions = world.run(range(30 * delay))
    said = [fault for decision in decisions for fault in decision.faults if fault.kind is FaultKind.TOO_SHORT]
    assert len(said) == 1, "said once"
    held = 2 * delay - rows
    for words in (f"H={rows} ", f"d={delay} ", f"2d = {2 * delay};", f"about {held} of every {delay} steps"):
        assert words in said[0].detail
    period = decisions[-delay:]
    assert sum(decision.source.kind is SourceKind.STARVED for decision in period) == held


@pytest.mark.parametrize(("rows", "delay"), [(8, 4), (16, 8), (50, 10)])
def test_there_is_no_warning_where_the_chunk_is_long_enough(rows: int, delay: int) -> None:
    world = counting_world(Scheduler(arm_layout(), Switch()), rows, delay)
    assert not any(decision.faults for decision in world.run(range(100)))


@pytest.mark.parametrize("wrong", [{"execution_horizon": -1}, {"margin": -1}])
@pytest.mark.parametrize("name", plugins.names("strategies"))
def test_nonsense_is_refused(name: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"execution_horizon.*margin.*>= 0"):
        plugins.load("strategies", name)(**wrong)


def test_strategies_compare_by_their_parameters() -> None:
    assert Rtc(schedule="exp") == Rtc() != Rtc(schedule="ones")


def test_the_layout_decides_what_blends() -> None:
    layout: Layout = arm_layout()
    assert [slot.blends for slot in layout.slots] == [True, False]
