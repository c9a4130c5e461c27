"""Adapters broken on purpose, each in the way that one check is there for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from chunkwise import plugins
from chunkwise.chunking import Answer, Ask, Decision, Plan, Scheduler, SourceKind, Strategy, Tick, Timing
from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    Layout,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.engines import Engine, TensorSpec
from chunkwise.engines._devices import choose
from chunkwise.engines._network import Network, zeros
from chunkwise.testing import (
    EngineConformance,
    PolicyConformance,
    RobotConformance,
    StrategyConformance,
    TransportConformance,
    WireConformance,
    WorkerConformance,
)
from chunkwise.transports import Address, Limits
from chunkwise.wires import Answered, Problem, WireError
from chunkwise.wires import Infer as InferCall
from chunkwise.workers import Infer

BROKEN: list[tuple[type, str]] = []
"""A kit around a broken adapter, and the check that must fail."""


def fails(check: str) -> Callable[[type], type]:
    """The decorated kit makes an adapter that this check must find out."""

    def register(kit: type) -> type:
        BROKEN.append((kit, check))
        return kit

    return register


# Strategies, and schedulers where the scheduler is what keeps the law.


class InScheduler(StrategyConformance):
    scheduler: ClassVar[type[Scheduler]]

    def make_strategy(self) -> Strategy:
        return Strategy()

    def make_scheduler(self, layout: Layout, **settings: Any) -> Scheduler:
        return self.scheduler(layout, self.make_strategy(), **settings)


@fails("test_holds_before_the_first_chunk")
class GoesHomeFirst(InScheduler):
    class scheduler(Scheduler):
        def tick(self, tick: Tick) -> Decision:
            decision = super().tick(tick)
            return decision._replace(row=np.zeros(3)) if decision.source.kind is SourceKind.WAIT else decision


@fails("test_never_sends_nothing_once_started")
class SendsNothingWhenStarved(InScheduler):
    class scheduler(Scheduler):
        def tick(self, tick: Tick) -> Decision:
            decision = super().tick(tick)
            return decision._replace(row=None) if decision.source.kind is SourceKind.STARVED else decision


@fails("test_one_request_is_in_flight")
class AsksEveryStep(InScheduler):
    class scheduler(Scheduler):
        def tick(self, tick: Tick) -> Decision:
            decision = super().tick(tick)
            self._flight = None
            return decision


@fails("test_a_lost_answer_is_asked_for_again")
class WaitsForEver(InScheduler):
    def make_scheduler(self, layout: Layout, **settings: Any) -> Scheduler:
        return Scheduler(layout, Strategy(), **{**settings, "timeout_steps": 10**9})


@fails("test_deltas_and_velocities_hold_at_zero")
class RepeatsVelocities(InScheduler):
    def make_scheduler(self, layout: Layout, **settings: Any) -> Scheduler:
        layout.zero_hold = None
        return Scheduler(layout, Strategy(), **settings)


@fails("test_a_bad_answer_never_empties_a_healthy_plan")
class DropsThePlanOnAFault(InScheduler):
    class scheduler(Scheduler):
        def _take(self, answer: Answer, step: int) -> Any:
            fault = super()._take(answer, step)
            if fault is not None:
                self._plan = None
            return fault


class InStrategy(StrategyConformance):
    strategy: ClassVar[type[Strategy]]

    def make_strategy(self) -> Strategy:
        return self.strategy()


@fails("test_aligned_rows_run_at_their_own_step")
class RunsRow0OnArrival(InStrategy):
    class strategy(Strategy):
        def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
            return replace(chunk, first_step=step)


@fails("test_replay_is_identical")
class Remembers(InStrategy):
    class strategy(Strategy):
        calls = itertools.count()

        def wants(self, timing: Timing) -> bool:
            return next(self.calls) % 3 == 0


@fails("test_inputs_are_left_alone")
class WritesIntoTheChunk(InStrategy):
    class strategy(Strategy):
        def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
            if plan is not None:
                chunk.rows[0] = plan.rows[0]
            return chunk


@fails("test_grippers_are_never_averaged")
class AveragesGrippers(InStrategy):
    class strategy(Strategy):
        def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
            if plan is None:
                return chunk
            rows = chunk.since(step).copy()
            count = min(len(rows), plan.end - step)
            rows[:count] = (rows[:count] + plan.since(step)[:count]) / 2
            return Plan(step, rows, chunk.chunk, chunk.observed_step)


@fails("test_never_runs_dry_at_a_delay_the_chunk_carries")
class AsksTooLate(InStrategy):
    class strategy(Strategy):
        def wants(self, timing: Timing) -> bool:
            return timing.remaining <= 1


@fails("test_the_prefix_is_what_runs")
class SharesRowsThatArePast(InStrategy):
    class strategy(Strategy):
        def ask(self, plan: Plan | None, timing: Timing) -> Ask:
            if plan is None:
                return Ask(1)
            return Ask(1, plan.rows, np.ones(len(plan.rows)), timing.delay)


# Robots.


class Whole:
    """A robot with nothing wrong: a joint and a gripper, for the broken ones to differ from."""

    def __init__(self) -> None:
        joint = ComponentSpec("arm", "arm", 1, ["joint_position"], lower=[-1.0], upper=[1.0])
        gripper = ComponentSpec("gripper", "gripper", 1, ["gripper_position"], lower=[0.0], upper=[1.0])
        self.spec = RobotSpec("whole", [], [joint, gripper])
        self.state = {"arm": np.array([-0.3]), "gripper": np.array([0.5])}

    def connect(self) -> None:
        pass

    def observe(self) -> Frame:
        return Frame(state=dict(self.state))

    def act(self, action: Action) -> Action:
        for name, command in action.commands.items():
            self.state[name] = command.value.copy()
        return action

    def close(self) -> None:
        pass


class OfRobot(RobotConformance):
    robot: ClassVar[type]

    def make_robot(self) -> Any:
        return self.robot()


class TestWhole(OfRobot):
    """The robot that the broken ones derive from passes, so what fails is what was broken."""

    robot = Whole


@fails("test_spec_is_valid_before_connect_and_never_changes")
class FindsItsCameraLate(OfRobot):
    class robot(Whole):
        def connect(self) -> None:
            self.spec.image_keys.append("wrist")


@fails("test_limits_are_sane")
class CannotMove(OfRobot):
    class robot(Whole):
        def __init__(self) -> None:
            super().__init__()
            self.spec.components[0].lower = self.spec.components[0].upper = [0.0]


@fails("test_observation_has_what_the_spec_declares")
class ForgetsItsGripper(OfRobot):
    class robot(Whole):
        def observe(self) -> Frame:
            return Frame(state={"arm": self.state["arm"]})


@fails("test_observations_do_not_go_back_in_time")
class NumbersItsFramesBackwards(OfRobot):
    class robot(Whole):
        def observe(self) -> Frame:
            self.number = getattr(self, "number", 9) - 1
            return Frame(state=dict(self.state), sequence_id=self.number)


@fails("test_acts_by_name_and_says_what_was_applied")
class GoesByPlace(OfRobot):
    class robot(Whole):
        def act(self, action: Action) -> Action:
            for name, command in zip(self.state, list(action.commands.values()), strict=True):
                self.state[name] = command.value.copy()
            kinds = {"arm": "joint_position", "gripper": "gripper_position"}
            return Action.from_commands(
                {name: {"command": kinds[name], "value": value} for name, value in self.state.items()}
            )


@fails("test_arrays_handed_out_are_not_written_again")
class WritesIntoItsFrames(OfRobot):
    class robot(Whole):
        def act(self, action: Action) -> Action:
            for name, command in action.commands.items():
                self.state[name][:] = command.value
            return action


@fails("test_close_may_be_repeated")
class ClosesOnce(OfRobot):
    class robot(Whole):
        def close(self) -> None:
            del self.state


@fails("test_a_robot_that_never_connected_closes")
class ClosesAPortItNeverOpened(OfRobot):
    class robot(Whole):
        def connect(self) -> None:
            self.port = object()

        def close(self) -> None:
            assert self.port


@fails("test_measured_row_holds_it")
class LosesItsState(OfRobot):
    class robot(Whole):
        def act(self, action: Action) -> Action:
            self.state["arm"] = np.array([np.nan])
            return action


# Policies.


class Still:
    """A policy with nothing wrong, for the broken ones to differ from: stays where the frame saw the arm."""

    def __init__(self) -> None:
        outputs = [PolicyOutputSpec("arm", "joint_position", 2)]
        self.spec = PolicySpec("still", [], ["arm"], outputs=outputs, action_horizon=4)

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        return np.tile(frame.state["arm"], (4, 1))


class OfPolicy(PolicyConformance):
    policy: ClassVar[type]

    def make_policy(self) -> Any:
        return self.policy()


class TestStill(OfPolicy):
    """The policy that the broken ones derive from passes."""

    policy = Still


@fails("test_is_a_policy")
class AnswersToAnotherName(OfPolicy):
    class policy:
        def predict(self) -> None:
            pass


@fails("test_answers_match_the_spec")
class AnswersAColumnTooMany(OfPolicy):
    class policy(Still):
        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            return np.zeros((4, 3))


@fails("test_answers_match_the_spec")
class AnswersNan(OfPolicy):
    class policy(Still):
        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            return np.full((4, 2), np.nan)


@fails("test_answers_match_the_spec")
class AnswersLessThanItDeclares(OfPolicy):
    class policy(Still):
        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            return np.zeros((3, 2))


@fails("test_answers_come_from_the_frame_and_the_request_alone")
class PlaysAQueue(OfPolicy):
    class policy(Still):
        left = 4

        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            self.left -= 1
            return np.zeros((max(self.left, 1), 2))


@fails("test_inputs_are_left_alone")
class NormalisesItsFrameInPlace(OfPolicy):
    class policy(Still):
        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            frame.state["arm"] += 1.0
            return np.zeros((4, 2))


@fails("test_inputs_are_left_alone")
class NormalisesItsPrefixInPlace(OfPolicy):
    class policy(Still):
        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            if request.prefix is not None:
                request.prefix[:] = 1.0
            return np.zeros((4, 2))


@fails("test_takes_any_prefix")
class CountsOnAFullPrefix(OfPolicy):
    class policy(Still):
        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            if request.prefix is not None and len(request.prefix) < 2:
                raise IndexError("index 1 is out of bounds")
            return np.zeros((4, 2))


@fails("test_answers_do_not_share_memory")
class AnswersFromOneBuffer(OfPolicy):
    class policy(Still):
        buffer = np.zeros((4, 2))

        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            self.buffer[:] = request.request_step
            return self.buffer


@fails("test_reset_makes_it_ready_for_the_next_episode")
class LosesItsWeightsOnReset(OfPolicy):
    class policy(Still):
        scale = 1.0

        def reset(self) -> None:
            self.scale = np.nan

        def infer(self, frame: Frame, request: ChunkRequest) -> Any:
            return np.full((4, 2), self.scale)


@fails("test_close_may_be_repeated")
class PolicyClosesOnce(OfPolicy):
    class policy(Still):
        closed = False

        def close(self) -> None:
            if self.closed:
                raise RuntimeError("already closed")
            self.closed = True


# Workers.

Thread: Any = plugins.load("workers", "thread")
Inline: Any = plugins.load("workers", "inline")


class OfWorker(WorkerConformance):
    worker: ClassVar[Any]

    def make_worker(self, infer: Infer) -> Any:
        return self.worker(infer)


@fails("test_is_a_worker")
class CannotRestart(OfWorker):
    class worker:
        def __init__(self, infer: Infer) -> None:
            pass

        def submit(self, frame: Frame, request: ChunkRequest) -> None:
            pass

        def arrivals(self) -> Sequence[Answer]:
            return ()

        def close(self) -> None:
            pass


@fails("test_every_request_is_answered_once")
class AnswersTwice(OfWorker):
    class worker(Inline):
        last: tuple[Answer, ...] = ()

        def arrivals(self) -> Sequence[Answer]:
            now, self.last = super().arrivals() or self.last, ()
            self.last = tuple(now)
            return now


@fails("test_the_policy_sees_the_submitted_frame")
class DropsTheFrame(OfWorker):
    class worker(Thread):
        def submit(self, frame: Frame, request: ChunkRequest) -> None:
            super().submit(Frame(state={"arm": np.zeros(2)}), request)


@fails("test_an_error_comes_back_as_an_answer")
class LetsErrorsOut(OfWorker):
    class worker(Inline):
        def submit(self, frame: Frame, request: ChunkRequest) -> None:
            self._answers.append(Answer(request.id, self._infer(frame, request)))


class Patient(Thread):
    """A thread worker that knows when nothing runs."""

    def __init__(self, infer: Infer) -> None:
        self.idle = threading.Event()
        self.idle.set()

        def watched(frame: Frame, request: ChunkRequest) -> ActionChunk:
            try:
                return infer(frame, request)
            finally:
                self.idle.set()

        super().__init__(watched)

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        self.idle.clear()
        super().submit(frame, request)


@fails("test_arrivals_does_not_wait")
class WaitsInArrivals(OfWorker):
    class worker(Patient):
        def arrivals(self) -> Sequence[Answer]:
            self.idle.wait()
            return super().arrivals()


@fails("test_wait_ends_when_an_answer_is_there")
class DoesNotWait(OfWorker):
    class worker(Thread):
        def wait(self, timeout_s: float | None = None) -> bool:
            return True


@fails("test_the_newest_waiting_request_replaces_the_older_one")
class ForgetsWhatItReplaced(OfWorker):
    class worker(Thread):
        def arrivals(self) -> Sequence[Answer]:
            return [answer for answer in super().arrivals() if answer.chunk is not None]


@fails("test_restart_gives_up_what_runs")
class RestartsNothing(OfWorker):
    class worker(Thread):
        def restart(self) -> None:
            pass


@fails("test_close_does_not_wait_and_may_be_repeated")
class WaitsInClose(OfWorker):
    class worker(Patient):
        def close(self) -> None:
            self.idle.wait()
            super().close()


# Wires: the native one, with one of its halves broken.

Native: Any = plugins.load("wires", "native")
Server: Any = type(Native().server())
Client: Any = type(Native().client())
MAX_BYTES = 1 << 20


class OfWire(WireConformance):
    server: ClassVar[Any] = Server
    client: ClassVar[Any] = Client

    def make_wire(self) -> Any:
        kit = self

        class Made(Native):
            def server(self) -> Any:
                return kit.server(MAX_BYTES)

            def client(self) -> Any:
                return kit.client(MAX_BYTES)

        return Made()


@fails("test_is_a_wire")
class OneHalfForAll(WireConformance):
    def make_wire(self) -> Any:
        class Made(Native):
            half = Native().server()

            def server(self) -> Any:
                return self.half

        return Made()


@fails("test_a_request_gets_its_chunk")
class RoundsTheRows(OfWire):
    class server(Server):
        def answer(self, call: Any, result: Any, now_s: float) -> Any:
            if isinstance(result, ActionChunk):
                result = ActionChunk(np.round(result.rows))
            return super().answer(call, result, now_s)


@fails("test_what_the_robot_saw_arrives")
class SendsTheJointsInAnotherOrder(OfWire):
    class client(Client):
        def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Any:
            frame.state["arm"] = frame.state["arm"] + np.arange(2.0)
            mixed = replace(frame, state={"arm": frame.state["arm"][::-1].copy()})
            return super().ask(id, mixed, request, deadline_s)


@fails("test_a_problem_is_no_chunk")
class GoesToZeroInTrouble(OfWire):
    class server(Server):
        def answer(self, call: Any, result: Any, now_s: float) -> Any:
            if isinstance(result, Problem):
                result = ActionChunk(np.zeros((1, 2)))
            return super().answer(call, result, now_s)


@fails("test_pieces_do_not_matter")
class TakesAPieceForAll(OfWire):
    class server(Server):
        def receive(self, data: Any, now_s: float) -> Any:
            self.__init__(MAX_BYTES)
            return super().receive(data, now_s)


@fails("test_what_arrives_is_copied")
class LooksIntoTheBuffer(OfWire):
    class server(Server):
        def receive(self, data: Any, now_s: float) -> Any:
            calls = super().receive(data, now_s)
            for call in calls:
                if isinstance(call, InferCall):
                    call.frame.state["arm"] = np.frombuffer(data[-16:], dtype=np.float64)
            return calls


@fails("test_connections_share_nothing")
class OneInboxForAll(WireConformance):
    def make_wire(self) -> Any:
        class Made(Native):
            inbox = Native().server()._inbox

            def server(self) -> Any:
                half = super().server()
                half._inbox = self.inbox
                return half

        return Made()


@fails("test_answers_find_their_calls")
class NumbersAnswersInOrder(OfWire):
    class client(Client):
        asked: ClassVar[list[int]] = []

        def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Any:
            self.asked.append(id)
            return super().ask(id, frame, request, deadline_s)

        def receive(self, data: Any, now_s: float) -> Any:
            return [
                replace(event, id=self.asked.pop(0)) if isinstance(event, Answered) else event
                for event in super().receive(data, now_s)
            ]


@fails("test_an_episode_ends")
class KeepsTheResetToItself(OfWire):
    class client(Client):
        def reset(self, id: int) -> None:
            return None


@fails("test_nonsense_is_refused")
class LetsOtherErrorsOut(OfWire):
    class server(Server):
        def receive(self, data: Any, now_s: float) -> Any:
            try:
                return super().receive(data, now_s)
            except WireError as error:
                raise IndexError("index out of range") from error


@fails("test_a_stream_without_end_is_refused")
class ReadsOnForEver(OfWire):
    class server(Server):
        def receive(self, data: Any, now_s: float) -> Any:
            try:
                return super().receive(data, now_s)
            except WireError:
                return []


# Transports: the one over TCP, with one of its ends broken.

Tcp: Any = plugins.load("transports", "tcp")


class OfTransport(TransportConformance):
    transport: ClassVar[Any]

    def make_transport(self) -> Any:
        return self.transport()

    def make_address(self) -> Address:
        return Address("tcp", host="127.0.0.1")


class Around:
    """Everything as in what it is around, but for what a subclass says."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@fails("test_is_a_transport")
class SaysNoScheme(OfTransport):
    class transport(Tcp):
        scheme = None


@fails("test_what_is_sent_comes_back")
class LosesWhatIsLong(OfTransport):
    class transport(Tcp):
        def connect(self, *given: Any, **named: Any) -> Any:
            class Link(Around):
                def send(self, data: Any, timeout_s: float) -> None:
                    self.inner.send(data[: 1 << 20], timeout_s)

            return Link(super().connect(*given, **named))


@fails("test_clients_are_kept_apart")
class AnswersTheLastClient(OfTransport):
    class transport(Tcp):
        async def serve(self, address: Address, accept: Any, limits: Limits, tls: Any = None) -> Any:
            class ToTheLast:
                last: Any = None

                def send(self, data: Any) -> None:
                    self.last.send(data)

            everybody = ToTheLast()

            def accepted(peer: Any) -> Any:
                everybody.last = peer
                return accept(everybody)

            return await super().serve(address, accepted, limits, tls)


@fails("test_the_address_says_where_it_listens")
class HidesItsPort(OfTransport):
    class transport(Tcp):
        async def serve(self, address: Address, *given: Any) -> Any:
            listener = await super().serve(address, *given)
            listener.address = address
            return listener


@fails("test_receive_ends_when_its_time_is_over")
class GivesNothingForNothing(OfTransport):
    class transport(Tcp):
        def connect(self, *given: Any, **named: Any) -> Any:
            class Link(Around):
                def receive(self, timeout_s: float) -> Any:
                    return self.inner.receive(timeout_s) or b""

            return Link(super().connect(*given, **named))


@fails("test_where_nobody_listens_is_an_os_error")
class PretendsToConnect(OfTransport):
    class transport(Tcp):
        def connect(self, *given: Any, **named: Any) -> Any:
            class Link:
                local = True

                def send(self, data: Any, timeout_s: float) -> None: ...
                def receive(self, timeout_s: float) -> None: ...
                def close(self) -> None: ...

            try:
                return super().connect(*given, **named)
            except OSError:
                return Link()


@fails("test_an_address_that_is_taken_is_an_os_error")
class TakesAnotherAddress(OfTransport):
    class transport(Tcp):
        async def serve(self, address: Address, *given: Any) -> Any:
            return await super().serve(replace(address, port=0), *given)


class Telling(Tcp):
    """Hands connections on through `around`."""

    around: ClassVar[Any]

    async def serve(self, address: Address, accept: Any, *given: Any) -> Any:
        return await super().serve(address, lambda peer: self.around(accept(peer)), *given)


@fails("test_the_end_of_a_connection_is_told_once")
class TellsTheEndTwice(OfTransport):
    class transport(Telling):
        class around(Around):
            def lost(self, why: str) -> None:
                self.inner.lost(why)
                self.inner.lost(why)


@fails("test_a_server_can_end_a_connection")
class NeverEnds(OfTransport):
    class transport(Tcp):
        async def serve(self, address: Address, accept: Any, *given: Any) -> Any:
            class Peer(Around):
                def close(self) -> None: ...

            return await super().serve(address, lambda peer: accept(Peer(peer)), *given)


@fails("test_one_connection_too_many_is_turned_away")
class TakesEverybody(OfTransport):
    class transport(Tcp):
        async def serve(self, address: Address, accept: Any, limits: Limits, *given: Any) -> Any:
            return await super().serve(address, accept, replace(limits, connections=1000), *given)


@fails("test_who_does_not_read_is_cut_off")
class KeepsEverythingForWhoDoesNotRead(OfTransport):
    class transport(Tcp):
        async def serve(self, address: Address, accept: Any, limits: Limits, *given: Any) -> Any:
            return await super().serve(address, accept, replace(limits, unsent_bytes=1 << 40), *given)


@fails("test_closing_twice_is_fine")
class ListenerClosesOnce(OfTransport):
    class transport(Tcp):
        async def serve(self, *given: Any) -> Any:
            class Listener(Around):
                closed = False

                async def close(self) -> None:
                    if self.closed:
                        raise RuntimeError("already closed")
                    self.closed = True
                    await self.inner.close()

            return Listener(await super().serve(*given))


# Engines.


class Sum(Network):
    """A whole engine: the sum of its inputs' columns."""

    def _open(self, path: str, device: str) -> str:
        if path.startswith("/no"):
            raise FileNotFoundError(f"there is no {path}")
        self.inputs = {"a": TensorSpec((None, 3), "float32"), "b": TensorSpec((None, 3), "float32")}
        self.outputs = {"sum": TensorSpec((None, 3), "float32")}
        return choose(device, ["cpu"], "sum")

    def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {"sum": tensors["a"] + tensors["b"]}

    def _release(self) -> None: ...


class OfEngine(EngineConformance):
    engine: ClassVar[type]

    def make_engine(self) -> Engine:
        return self.engine()

    def network(self) -> str:
        return "any"


class TestSum(OfEngine):
    """The engine that the broken ones derive from passes."""

    engine = Sum


@fails("test_is_an_engine")
class DeclaresBeforeItKnows(OfEngine):
    class engine(Sum):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = {"a": TensorSpec((1,), "float32")}


@fails("test_runs_only_what_is_loaded")
class AnswersNothingWhenEmpty(OfEngine):
    class engine(Sum):
        def run(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return super().run(tensors) if self._loaded else {}


@fails("test_answers_are_as_declared")
class AnswersInDoublePrecision(OfEngine):
    class engine(Sum):
        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {"sum": super()._call(tensors)["sum"].astype(np.float64)}


@fails("test_answers_come_from_the_inputs_alone")
class SmoothsOverCalls(OfEngine):
    class engine(Sum):
        before: Any = 0.0

        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            self.before = (super()._call(tensors)["sum"] + self.before) / 2
            return {"sum": self.before.copy()}


@fails("test_answers_depend_on_the_inputs")
class AnswersZeros(OfEngine):
    class engine(Sum):
        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {"sum": zeros(self.outputs["sum"])}


@fails("test_inputs_are_left_alone")
class AddsInPlace(OfEngine):
    class engine(Sum):
        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            tensors["a"][:] += tensors["b"]
            return {"sum": tensors["a"].copy()}


@fails("test_inputs_are_left_alone")
class TakesOnlyWhatItMayWrite(OfEngine):
    class engine(Sum):
        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            if not tensors["a"].flags.writeable:
                raise ValueError("read-only")
            return super()._call(tensors)


@fails("test_outputs_are_the_callers_own")
class AnswersInItsOwnMemory(OfEngine):
    class engine(Sum):
        memory = np.zeros((1, 3), np.float32)

        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            self.memory[:] = super()._call(tensors)["sum"]
            return {"sum": self.memory}


@fails("test_what_does_not_match_is_refused_by_name")
class FillsWhatIsMissingWithZeros(OfEngine):
    class engine(Sum):
        def run(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return super().run({name: zeros(spec) for name, spec in self.inputs.items()} | dict(tensors))


@fails("test_a_device_that_is_not_there_is_refused")
class FallsBackToTheProcessor(OfEngine):
    class engine(Sum):
        def _open(self, path: str, device: str) -> str:
            return super()._open(path, "cpu")


@fails("test_a_path_that_is_not_there_is_refused")
class DrawsItsWeights(OfEngine):
    class engine(Sum):
        def _open(self, path: str, device: str) -> str:
            return super()._open("any", device)


@fails("test_calls_from_several_threads_are_kept_apart")
class AnswersTheLastCaller(OfEngine):
    class engine(Sum):
        def __init__(self) -> None:
            super().__init__()
            self.both = threading.Barrier(2)

        def run(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            self.given = tensors
            if threading.current_thread() is not threading.main_thread():
                self.both.wait(2)
            return super().run(self.given)


@fails("test_warming_up_changes_nothing")
class KeepsWhatItWarmedUpOn(OfEngine):
    class engine(Sum):
        bias = 0.0

        def warmup(self) -> None:
            self.bias = 1.0

        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {"sum": super()._call(tensors)["sum"] + np.float32(self.bias)}


@fails("test_closes_twice_and_loads_again")
class LoadsWhatItLoadedBefore(OfEngine):
    class engine(Sum):
        loads = 0

        def _open(self, path: str, device: str) -> str:
            self.loads += 1
            return super()._open(path, device)

        def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {"sum": super()._call(tensors)["sum"] * np.float32(self.loads)}
