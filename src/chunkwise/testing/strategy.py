"""The laws of a strategy, as checks: inherit, say how yours is made, and run them with pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chunkwise.chunking import (
    Answer,
    Decision,
    DelayEstimate,
    FaultKind,
    Plan,
    Scheduler,
    SourceKind,
    Strategy,
    Tick,
    Timing,
)
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, Layout
from chunkwise.contract.values import Array
from chunkwise.testing.world import World, arm_layout, counting_world, rover_layout
from chunkwise.workers import Infer

_SEEDS = range(20)
_ROWS = 16
_TIMEOUT = 12
_BAD: dict[str, Callable[[ChunkRequest, Layout], ActionChunk]] = {
    "not finite": lambda request, layout: ActionChunk(np.full((_ROWS, layout.width), np.nan)),
    "too wide": lambda request, layout: ActionChunk(np.zeros((_ROWS, layout.width + 1))),
    "without rows": lambda request, layout: ActionChunk(np.zeros((0, layout.width))),
    "before its request": lambda request, layout: ActionChunk(
        np.zeros((_ROWS, layout.width)), request.request_step - 1
    ),
}


class StrategyConformance:
    """What every strategy keeps, whatever the policy and the network do.

    ::

        class TestMine(StrategyConformance):
            def make_strategy(self) -> Strategy:
                return Mine()

    Two flags of the strategy itself decide what applies: ``aligned`` (rows run at the step they were predicted
    for, or not at all) and ``waits`` (the robot stands still for the policy by design).
    """

    def make_strategy(self) -> Strategy:
        """The strategy under test; override this."""
        raise NotImplementedError("override make_strategy()")

    def make_scheduler(self, layout: Layout, **settings: Any) -> Scheduler:
        """The scheduler it runs in; seldom overridden."""
        return Scheduler(layout, self.make_strategy(), **settings)

    def test_holds_before_the_first_chunk(self) -> None:
        hold = np.array([0.3, -0.2, 0.05])
        world = counting_world(self.make_scheduler(arm_layout(), hold=hold), _ROWS, delay=5)
        for decision in world.run(range(5)):
            assert decision.row is not None and np.array_equal(decision.row, hold), (
                "before the first chunk a robot is sent the row that holds it"
            )
            assert decision.source.kind is SourceKind.WAIT, "before the first chunk the source is a wait"

    def test_never_sends_nothing_once_started(self) -> None:
        for seed in _SEEDS:
            for decision in self._weather(seed).decisions:
                assert decision.row is not None, f"step {decision.step} sent nothing (seed {seed})"
                assert decision.row.shape == (3,), "a row has one number per column of the layout"
                assert np.isfinite(decision.row).all(), f"step {decision.step} sent a number that is not finite"

    def test_aligned_rows_run_at_their_own_step(self) -> None:
        if not self.make_strategy().aligned:
            return
        for seed in _SEEDS:
            for decision in self._weather(seed).decisions:
                if decision.source.kind is SourceKind.CHUNK:
                    assert decision.row is not None and np.allclose(decision.row, decision.step), (
                        f"step {decision.step} ran a row that was predicted for step {decision.row} (seed {seed})"
                    )

    def test_one_request_is_in_flight(self) -> None:
        world = counting_world(self.make_scheduler(arm_layout()), _ROWS, delay=6)
        asked = -100
        for decision in world.run(range(200)):
            if decision.request is not None:
                assert decision.step - asked >= 6, "a second request was made before the first was answered"
                asked = decision.step

    def test_a_lost_answer_is_asked_for_again(self) -> None:
        scheduler = self.make_scheduler(arm_layout(), timeout_steps=_TIMEOUT)
        world = counting_world(scheduler, _ROWS, lambda request: None if request == 1 else 2)
        lost = [
            decision
            for decision in world.run(range(100))
            if any(fault.kind is FaultKind.LOST for fault in decision.faults)
        ]
        assert lost, "an answer that does not come within the time-out is reported as lost"
        assert lost[0].request is not None, "a lost answer is asked for again in the step that gave it up"

    def test_deltas_and_velocities_hold_at_zero(self) -> None:
        scheduler = self.make_scheduler(rover_layout(), hold=np.zeros(4))
        world = World(scheduler, _constant(scheduler.layout, 0.5), lambda request: 2 if request < 2 else None)
        held = world.run(range(100))[-1].row
        assert held is not None and np.array_equal(held, [0.0, 0.0, 0.0, 0.5]), (
            f"with nothing to run, velocities and deltas are zero and positions repeat; sent {held}"
        )

    def test_replay_is_identical(self) -> None:
        strategy = self.make_strategy()  # the same one, so that state it keeps would show
        for seed in _SEEDS[:5]:
            first, again = (self._weather(seed, strategy).decisions for _ in range(2))
            assert all(map(_same, first, again)), "the same ticks give the same decisions, bit for bit"

    def test_inputs_are_left_alone(self) -> None:
        strategy, layout = self.make_strategy(), arm_layout()
        rng = np.random.default_rng(1)
        for step in (0, 4, 7):
            plan = self._plan(strategy, layout, rng)
            chunk = Plan(step, rng.normal(size=(_ROWS, 3)), 1, step)
            timing = Timing(step + 2, 3, _ROWS, 2, plan.end - step - 2)
            before = plan.rows.copy(), chunk.rows.copy()
            strategy.wants(timing)
            strategy.ask(plan, timing)
            joined = strategy.join(plan, chunk, step + 2, layout)
            untouched = np.array_equal(plan.rows, before[0]) and np.array_equal(chunk.rows, before[1])
            assert untouched, "join() and ask() change neither the plan nor the chunk that they are given"
            assert joined.end > step + 2, "a plan that a chunk has joined reaches beyond the present step"

    def test_grippers_are_never_averaged(self) -> None:
        layout = arm_layout()

        def decides_anew(frame: Frame, request: ChunkRequest) -> ActionChunk:
            return ActionChunk(np.full((_ROWS, layout.width), float(request.id % 2)))

        world = World(self.make_scheduler(layout, hold=np.zeros(3)), decides_anew, delay=3)
        for decision in world.run(range(120)):
            assert decision.row is not None and decision.row[2] in (0.0, 1.0), (
                f"a gripper between 0 and 1 was asked for by nobody; step {decision.step} sent {decision.row}"
            )

    def test_never_runs_dry_at_a_delay_the_chunk_carries(self) -> None:
        if self.make_strategy().waits:
            return
        for delay in range(_ROWS // 2 + 1):  # d <= s <= H - d has a solution up to H / 2
            world = counting_world(
                self.make_scheduler(arm_layout(), delay=DelayEstimate(initial=delay)), _ROWS, delay
            )
            starved = [item.step for item in world.run(range(200)) if item.source.kind is SourceKind.STARVED]
            assert not starved, f"the plan ran dry at step {starved[:1]} with a delay of {delay} and {_ROWS} rows"

    def test_a_bad_answer_never_empties_a_healthy_plan(self) -> None:
        for what, make in _BAD.items():
            scheduler = self.make_scheduler(arm_layout())
            self._meet(scheduler, what, lambda request, make=make: make(request, arm_layout()))  # type: ignore[misc]
        self._meet(self.make_scheduler(arm_layout()), "an error", lambda request: None)

    def test_the_prefix_is_what_runs(self) -> None:
        for delay in (0, 2, 5):
            world = counting_world(self.make_scheduler(arm_layout()), _ROWS, delay)
            for decision in world.run(range(80)):
                request = decision.request
                if request is None or request.prefix is None or delay == 0:
                    continue
                weights = request.prefix_weights
                assert decision.row is not None and np.array_equal(request.prefix[0], decision.row), (
                    "row 0 of the prefix is the row that runs in the step of the request"
                )
                assert weights is not None and weights.shape == (len(request.prefix),), (
                    "a prefix has one weight per row"
                )
                assert ((weights >= 0) & (weights <= 1)).all() and (np.diff(weights) <= 0).all(), (
                    "weights lie in [0, 1] and never rise"
                )

    def _weather(self, seed: int, strategy: Strategy | None = None) -> World:
        """A run with random delays, losses, reordering and missed deadlines."""
        rng = np.random.default_rng(seed)
        delays = [None if rng.random() < 0.1 else int(rng.integers(0, 2 * _TIMEOUT)) for _ in range(300)]
        steps = np.cumsum(rng.choice([1, 1, 1, 1, 2, 7], size=150)).tolist()
        scheduler = self.make_scheduler(
            arm_layout(),
            hold=np.zeros(3),
            timeout_steps=_TIMEOUT,
            start_timeout_steps=_TIMEOUT,
            first_chunk_on_arrival=False,
        )
        if strategy is not None:
            scheduler.strategy = strategy
        world = counting_world(scheduler, _ROWS, lambda request: delays[request])
        world.run(steps)
        return world

    @staticmethod
    def _plan(strategy: Strategy, layout: Layout, rng: np.random.Generator) -> Plan:
        """A running plan that the strategy itself has made."""
        return strategy.join(None, Plan(0, rng.normal(size=(_ROWS, layout.width)), 0, 0), 0, layout)

    @staticmethod
    def _meet(scheduler: Scheduler, what: str, bad: Callable[[ChunkRequest], ActionChunk | None]) -> None:
        """Run until a plan has some rows left and a request is out, then answer that one badly."""
        world = counting_world(scheduler, _ROWS, delay=lambda request: 1 if request < 3 else None)
        request = None
        for step in range(100):
            request = world.turn(step).request or request
            if request is not None and request.id == 3:
                break
        assert request is not None and request.id == 3, "a strategy asks for the next chunk in time"
        plan = scheduler.plan
        step = world.step + 1
        answer = Answer(request.id, bad(request), "broken on purpose")
        decision = scheduler.tick(Tick(step, [answer]))
        assert decision.faults and decision.faults[0].request == request.id, (
            f"a chunk {what} is reported as a fault"
        )
        assert decision.row is not None, f"a chunk {what} must not cost the robot its command"
        if plan is not None and plan.end > step:
            expected = plan.rows[step - plan.first_step]
            assert decision.source.kind is SourceKind.CHUNK and np.array_equal(decision.row, expected), (
                f"a chunk {what} left the running plan, which had a row for this step"
            )
        assert decision.request is not None, f"after a chunk {what} the strategy asks again at once"


def _constant(layout: Layout, value: float) -> Infer:
    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        return ActionChunk(np.full((_ROWS, layout.width), value))

    return infer


def _same(a: Decision, b: Decision) -> bool:
    return (
        (a.step, a.source, a.faults, a.age) == (b.step, b.source, b.faults, b.age)
        and _equal(a.row, b.row)
        and (a.request is None) == (b.request is None)
        and (a.request is None or b.request is None or _equal(a.request.prefix, b.request.prefix))
    )


def _equal(a: Array | None, b: Array | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and a.tobytes() == b.tobytes())
