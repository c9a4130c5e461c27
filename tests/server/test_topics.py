"""The engine at topics: what it answers to robots of ours and to original ones, in time, in turn, and by name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._stages import TensorPreprocessor
from chunkwise.server.inference import Refused
from chunkwise.server.topics import TopicEngine
from chunkwise.transports._ros2.inference_topics import InferenceTopics
from chunkwise.wires import Readiness, Trouble
from chunkwise.wires._inference_topics import (
    REPLY_ID,
    REQUEST_ID,
    Reply,
    Request,
    offer_of,
    reply_of,
    request_fields,
)
from chunkwise.wires._variants import fields_of, values_of

HERE = Path(__file__)
GRAPH = HERE.with_name("topics_graph.py")
Running: Any = plugins.load("transports", f"{GRAPH}:Running")
write = plugins.load("policies", f"{HERE.parents[1] / 'policies' / 'tiny_checkpoint.py'}:write")
STATE, FRONT = "observation.state", "observation.images.front"
INPUTS = {STATE: (6,), FRONT: (3, 8, 12)}
TOPICS = InferenceTopics()
LIST = TOPICS.type_name
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write(tmp_path_factory.mktemp("tiny"), INPUTS, 6, rows=4)


@pytest.fixture
def graph() -> Any:
    return plugins.load("transports", f"{GRAPH}:Graph")()


def network_of(tiny: Any) -> Any:
    return plugins.load("policies", "network")(path=str(tiny.folder))


class Asker:
    """Publishes requests as they are given, and hears every reply.

    Attributes:
        replies: in the order in which they came.
    """

    def __init__(self, graph: Any) -> None:
        node = graph.node("asker")
        self.messages: Queue[Any] = Queue()
        node.subscribe(TOPICS.output, LIST, lambda message, _: self.messages.put(message))
        self._sender = node.publisher(TOPICS.input, LIST)

    def send(self, fields: Any) -> None:
        self._sender.publish(fields)

    def ask(self, id: str, batch: Any, **given: Any) -> None:
        self.send(request_fields(Request(id, batch, **given), packed=True))

    def next(self) -> Reply:
        return reply_of(self.messages.get(timeout=PATIENCE_S))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def engine(graph: Any, tiny: Any, stack: ExitStack) -> Any:
    running = Running(graph, lambda: network_of(tiny))
    stack.callback(running.close)
    return running.loaded()


@pytest.fixture
def asker(graph: Any) -> Asker:
    return Asker(graph)


def seen(seed: int) -> dict[str, Any]:
    """What a robot saw, by LeRobot's names."""
    rng = np.random.default_rng(seed)
    return {STATE: rng.normal(0.4, 0.3, 6), FRONT: rng.integers(0, 256, (8, 12, 3), np.uint8)}


def prepared(tiny: Any, seed: int = 0) -> dict[str, Any]:
    """As an original robot prepares it: float32, normalised, with a batch of one."""
    return TensorPreprocessor(open_checkpoint(str(tiny.folder)))(seen(seed))


def wanted(tiny: Any, seed: int = 0) -> Any:
    network = plugins.load("policies", "lerobot")(path=str(tiny.folder))
    return network.coordinator.infer_only(prepared(tiny, seed)).action


class Gate:
    """Holds the network until it is opened.

    Attributes:
        asked: what it was given, in order.
    """

    def __init__(self, network: Any) -> None:
        self.entered, self.open = threading.Semaphore(0), threading.Event()
        self.asked: list[Any] = []
        self._run, network.network.engine.run = network.network.engine.run, self

    def __call__(self, tensors: Any) -> Any:
        self.asked.append(float(tensors[STATE].ravel()[0]))
        self.entered.release()
        assert self.open.wait(PATIENCE_S)
        return self._run(tensors)


def test_an_original_robot_gets_its_rows(engine: Any, asker: Asker, tiny: Any) -> None:
    asker.send(fields_of({**prepared(tiny), "task": ["pick it up"], REQUEST_ID: ["1a2b3c4d"]}))
    message = asker.messages.get(timeout=PATIENCE_S)
    values = values_of(message)
    assert values[REPLY_ID] == ("1a2b3c4d",)
    assert values["action"].dtype == np.float32 and np.array_equal(values["action"], wanted(tiny))
    others = values.keys() - {"action", REPLY_ID}
    assert all(isinstance(values[key], tuple) for key in others), "the original leaves lists of texts alone"


def test_a_request_without_an_id_is_answered_without_one(engine: Any, asker: Asker, tiny: Any) -> None:
    asker.send(fields_of(prepared(tiny)))
    assert asker.next().id == ""


def test_pictures_of_ours_come_as_bytes_with_the_same_rows(engine: Any, asker: Asker, tiny: Any) -> None:
    batch = {**prepared(tiny), FRONT: seen(0)[FRONT][None]}
    asker.ask("a", batch, session="s", deadline_s=PATIENCE_S)
    assert np.array_equal(asker.next().rows, wanted(tiny))


@pytest.mark.parametrize("missing", [STATE, FRONT])
def test_what_is_missing_is_refused_by_name_at_once(engine: Any, asker: Asker, tiny: Any, missing: str) -> None:
    batch = prepared(tiny)
    del batch[missing]
    asker.send(fields_of({**batch, REQUEST_ID: ["1"]}))
    reply = asker.next()
    assert reply.id == "1" and reply.rows is None
    assert reply.problem.kind is Trouble.MALFORMED and missing in reply.problem.text


def test_what_the_network_raises_is_answered_at_once_by_name(engine: Any, asker: Asker, tiny: Any) -> None:
    run = engine.network.network.engine.run

    def broken(tensors: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    engine.network.network.engine.run = broken
    asker.send(fields_of({**prepared(tiny), REQUEST_ID: ["1"]}))
    reply = asker.next()
    assert reply.id == "1" and "CUDA out of memory" in reply.problem.text
    assert "Inference failed: policy_failed: RuntimeError: CUDA out of memory" in engine.said
    engine.network.network.engine.run = run
    asker.send(fields_of({**prepared(tiny), REQUEST_ID: ["2"]}))
    assert asker.next().problem is None


def test_numbers_that_are_not_finite_are_no_answer(engine: Any, asker: Asker, tiny: Any) -> None:
    engine.network.network.engine.run = lambda tensors: {"action": np.full((1, 4, 6), np.nan, np.float32)}
    asker.ask("1", prepared(tiny), session="s")
    assert "not finite" in asker.next().problem.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action": np.zeros(3, np.float32)}, "only observations are"),
        ({"task.chunkwise": ["version=9", "session=s"]}, "another version"),
        ({"task.chunkwise": ["version=1", "seshun=s"]}, "'seshun=s'"),
        ({"task.chunkwise": ["version=1", "operation=cancle"]}, "did you mean 'cancel'"),
        ({"task.chunkwise": ["version=1", "deadline_s=nan"]}, "deadline_s must be a number"),
        ({"task.chunkwise": ["version=1", "generation=-1"]}, "generation must be a number"),
    ],
)
def test_a_request_that_is_none_is_answered_at_once(engine: Any, asker: Asker, values: Any, message: str) -> None:
    asker.send(fields_of({REQUEST_ID: ["1"], **values}))
    reply = asker.next()
    assert reply.id == "1" and reply.problem.kind is Trouble.MALFORMED and message in reply.problem.text


def test_two_robots_with_the_same_id_each_get_their_own(engine: Any, asker: Asker, tiny: Any) -> None:
    for session, seed in (("left", 1), ("right", 2)):
        asker.ask("1", prepared(tiny, seed), session=session)
    replies = {reply.session: reply for reply in (asker.next(), asker.next())}
    for session, seed in (("left", 1), ("right", 2)):
        assert np.array_equal(replies[session].rows, wanted(tiny, seed))


def test_one_inference_runs_at_a_time_and_of_a_robot_the_newest_waits(
    engine: Any, asker: Asker, tiny: Any
) -> None:
    gate = Gate(engine.network)
    states = [float(prepared(tiny, seed)[STATE].ravel()[0]) for seed in range(4)]
    asker.ask("first", prepared(tiny, 0), session="a", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    for seed in (1, 2):
        asker.ask(f"a{seed}", prepared(tiny, seed), session="a", deadline_s=PATIENCE_S)
    asker.ask("b", prepared(tiny, 3), session="b", deadline_s=PATIENCE_S)
    superseded = asker.next()
    assert superseded.id == "a1" and superseded.problem.kind is Trouble.SUPERSEDED
    gate.open.set()
    assert [asker.next().id for _ in range(3)] == ["first", "a2", "b"]
    assert gate.asked == [states[0], states[2], states[3]]


def test_what_is_too_late_is_never_computed(engine: Any, asker: Asker, tiny: Any) -> None:
    gate = Gate(engine.network)
    asker.ask("slow", prepared(tiny, 0), session="a", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    asker.ask("hurry", prepared(tiny, 1), session="b", deadline_s=0.01)
    asker.ask("gone", prepared(tiny, 2), session="c", deadline_s=0.0)
    for _ in range(2):
        reply = asker.next()
        assert reply.id in ("hurry", "gone") and reply.problem.kind is Trouble.DEADLINE
    gate.open.set()
    assert asker.next().id == "slow"
    asker.ask("after", prepared(tiny, 3), session="d", deadline_s=PATIENCE_S)
    assert asker.next().id == "after" and len(gate.asked) == 2


def test_what_is_too_late_when_its_turn_comes_is_not_computed(engine: Any, tiny: Any) -> None:
    """Also where the event loop had no time to take it out of the queue."""
    gate = Gate(engine.network)
    with pytest.raises(Refused, match="its time was over"):
        engine.engine._infer(Request("1", prepared(tiny)), until_s=0.0)
    assert not gate.asked


def test_what_waits_of_original_robots_goes_when_they_have_given_up(
    graph: Any, asker: Asker, tiny: Any, stack: ExitStack
) -> None:
    running = Running(graph, lambda: network_of(tiny), deadline_s=0.01)
    stack.callback(running.close)
    gate = Gate(running.loaded().network)
    asker.ask("first", prepared(tiny, 0), session="a", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    for id in ("1", "2", "3"):
        asker.send(fields_of({**prepared(tiny), REQUEST_ID: [id]}))
    assert {asker.next().problem.kind for _ in range(3)} == {Trouble.DEADLINE}
    gate.open.set()
    assert asker.next().id == "first" and len(gate.asked) == 1


def test_a_cancel_and_a_new_episode_free_the_place(engine: Any, asker: Asker, tiny: Any) -> None:
    gate = Gate(engine.network)
    asker.ask("running", prepared(tiny, 0), session="a", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    asker.ask("b1", prepared(tiny, 1), session="b", deadline_s=PATIENCE_S)
    asker.ask("", {}, session="b", operation="cancel", target="b1")
    reply = asker.next()
    assert reply.id == "b1" and reply.problem.kind is Trouble.CANCELLED
    asker.ask("b2", prepared(tiny, 1), session="b", deadline_s=PATIENCE_S)
    asker.ask("", {}, session="b", generation=1, operation="reset")
    reply = asker.next()
    assert reply.id == "b2" and reply.problem.kind is Trouble.CANCELLED
    asker.ask("b3", prepared(tiny, 1), session="b", generation=0)
    reply = asker.next()
    assert reply.id == "b3" and "generation 0, which is over" in reply.problem.text
    gate.open.set()
    assert asker.next().id == "running"
    assert len(gate.asked) == 1


def test_the_queue_has_an_end(graph: Any, asker: Asker, tiny: Any, stack: ExitStack) -> None:
    running = Running(graph, lambda: network_of(tiny), max_waiting=2)
    stack.callback(running.close)
    gate = Gate(running.loaded().network)
    asker.ask("0", prepared(tiny), session="0", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    for id in ("1", "2", "3"):
        asker.ask(id, prepared(tiny), session=id, deadline_s=PATIENCE_S)
        running.on_loop(lambda: None)  # what was heard is taken
    reply = asker.next()
    assert reply.id == "3" and reply.problem.kind is Trouble.BUSY and "2 requests wait" in reply.problem.text
    gate.open.set()
    assert {asker.next().id for _ in range(3)} == {"0", "1", "2"}


def test_what_was_given_up_does_not_wait(graph: Any, asker: Asker, tiny: Any, stack: ExitStack) -> None:
    """Its place is another one's, also while nothing else ends."""
    running = Running(graph, lambda: network_of(tiny), max_waiting=2)
    stack.callback(running.close)
    gate = Gate(running.loaded().network)
    asker.ask("0", prepared(tiny), session="0", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    for id in ("1", "2"):
        asker.ask(id, prepared(tiny), session=id, deadline_s=PATIENCE_S)
        running.on_loop(lambda: None)
    for id in ("1", "2"):
        asker.ask("", {}, session=id, operation="cancel", target=id)
        running.on_loop(lambda: None)
    assert [asker.next().problem.kind for _ in range(2)] == [Trouble.CANCELLED] * 2
    assert running.engine._inference.waiting == 0
    asker.ask("3", prepared(tiny), session="3", deadline_s=PATIENCE_S)
    running.on_loop(lambda: None)
    gate.open.set()
    assert [asker.next().id for _ in range(2)] == ["0", "3"]


def test_a_flood_is_refused_before_it_is_queued(graph: Any, asker: Asker, tiny: Any, stack: ExitStack) -> None:
    running = Running(graph, lambda: network_of(tiny), max_waiting=3)
    stack.callback(running.close)
    running.loaded()
    go = running.hold_the_loop()
    for number in range(10):
        asker.ask(str(number), {}, session=str(number), operation="hello")
    busy = [asker.next() for _ in range(7)]
    assert all(reply.problem.kind is Trouble.BUSY for reply in busy)
    go.set()
    assert [asker.next().problem for _ in range(3)] == [None] * 3


def test_a_flood_of_what_is_no_request_is_bounded_too(
    graph: Any, asker: Asker, tiny: Any, stack: ExitStack
) -> None:
    running = Running(graph, lambda: network_of(tiny), max_waiting=3)
    stack.callback(running.close)
    running.loaded()
    go = running.hold_the_loop()
    for number in range(10):
        asker.send(fields_of({"task.chunkwise": ["version=9"], REQUEST_ID: [str(number)]}))
    asker.ask("", {}, session="s", operation="reset")
    busy = [asker.next() for _ in range(7)]
    assert all(reply.id and reply.problem.kind is Trouble.BUSY for reply in busy), "a reset is not answered"
    go.set()
    assert [asker.next().problem.kind for _ in range(3)] == [Trouble.MALFORMED] * 3
    running.on_loop(lambda: None)
    assert asker.messages.empty()
    assert len([line for line in running.said if "malformed" in line]) == 3


def test_what_waits_is_bounded_in_bytes_too(
    graph: Any, asker: Asker, tiny: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkwise.server.topics.MAX_BYTES", 5000)
    running = Running(graph, lambda: network_of(tiny))
    stack.callback(running.close)
    gate = Gate(running.loaded().network)
    size = sum(value.nbytes for value in prepared(tiny).values())
    assert 5000 / 5 < size < 5000 / 4, "four fit"
    for number in range(6):
        asker.ask(str(number), prepared(tiny), session=str(number), deadline_s=PATIENCE_S)
    for id in ("4", "5"):
        reply = asker.next()
        assert reply.id == id and reply.problem.kind is Trouble.BUSY and "5000 bytes" in reply.problem.text
    gate.open.set()
    assert {asker.next().id for _ in range(4)} == {"0", "1", "2", "3"}
    for operation in ("hello", "cancel", "infer"):
        asker.ask("6", prepared(tiny), session="6", operation=operation, deadline_s=0.0)
    for _ in range(2):
        asker.next()
    running.on_loop(lambda: None)
    assert running.engine._bytes == 0, "whatever came of it, it is let go"


def test_a_request_that_comes_twice_is_computed_once(engine: Any, asker: Asker, tiny: Any) -> None:
    gate = Gate(engine.network)
    for _ in range(2):
        asker.ask("1", prepared(tiny), session="s", deadline_s=PATIENCE_S)
    reply = asker.next()
    assert reply.id == "1" and "came twice" in reply.problem.text
    gate.open.set()
    assert asker.next().problem is None and len(gate.asked) == 1


def test_what_is_for_another_engine_is_left_to_it(engine: Any, asker: Asker, tiny: Any) -> None:
    asker.ask("1", prepared(tiny), session="s", engine="another", deadline_s=PATIENCE_S)
    asker.ask("2", prepared(tiny), session="s", deadline_s=PATIENCE_S)
    assert asker.next().id == "2" and asker.messages.empty()


def test_a_start_that_fails_leaves_no_thread_and_no_node(graph: Any, tiny: Any) -> None:
    node = graph.node("engine")

    def subscribe(*given: Any, **options: Any) -> None:
        raise OSError("no such network")

    node.subscribe = subscribe
    before = set(threading.enumerate())
    engine = TopicEngine(lambda: network_of(tiny), TOPICS, node=node)
    with pytest.raises(OSError, match="no such network"):
        asyncio.run(engine.start())
    assert node.closed
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    asyncio.run(engine.close())


def test_what_waits_when_it_ends_is_told(engine: Any, asker: Asker, tiny: Any) -> None:
    gate = Gate(engine.network)
    asker.ask("runs", prepared(tiny), session="a", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    asker.ask("waits", prepared(tiny), session="b", deadline_s=PATIENCE_S)
    asker.send(fields_of({**prepared(tiny), REQUEST_ID: ["original"]}))
    engine.on_loop(lambda: None)
    closing = asyncio.run_coroutine_threadsafe(engine.engine.close(), engine._loop)
    replies = [asker.next() for _ in range(3)]
    gate.open.set()
    closing.result(PATIENCE_S)
    assert {reply.id for reply in replies} == {"runs", "waits", "original"}
    assert {reply.problem.kind for reply in replies} == {Trouble.DRAINING}


def test_it_says_how_it_is_before_it_is_asked(graph: Any, asker: Asker, tiny: Any, stack: ExitStack) -> None:
    offers: Queue[Any] = Queue()
    graph.node("watcher").subscribe(TOPICS.status, LIST, lambda message, _: offers.put(offer_of(message)))
    go = threading.Event()

    def make() -> Any:
        assert go.wait(PATIENCE_S)
        return network_of(tiny)

    running = Running(graph, make)
    stack.callback(running.close)
    assert offers.get(timeout=PATIENCE_S).readiness is Readiness.LOADING
    asker.ask("early", prepared(tiny), session="s")
    assert asker.next().problem.kind is Trouble.LOADING
    go.set()
    running.loaded()
    while (offer := offers.get(timeout=PATIENCE_S)).readiness is Readiness.LOADING:
        pass
    assert offer.readiness is Readiness.READY and offer.session
    assert offer.policy.normalisation == open_checkpoint(str(tiny.folder)).processors().digest
    running.close()
    while (offer := offers.get(timeout=PATIENCE_S)).readiness is not Readiness.DRAINING:
        pass


def test_a_network_that_does_not_load_is_said(graph: Any, stack: ExitStack) -> None:
    offers: Queue[Any] = Queue()
    graph.node("watcher").subscribe(TOPICS.status, LIST, lambda message, _: offers.put(offer_of(message)))

    def make() -> Any:
        raise FileNotFoundError("no model.safetensors")

    running = Running(graph, make)
    stack.callback(running.close)
    assert running.loaded().engine.readiness is Readiness.FAILED
    while (offer := offers.get(timeout=PATIENCE_S)).readiness is Readiness.LOADING:
        pass
    assert offer.readiness is Readiness.FAILED and "no model.safetensors" in offer.detail


def test_it_logs_in_the_originals_words(engine: Any, asker: Asker, tiny: Any) -> None:
    assert engine.said == [
        "Engine loaded: policy_type=act, backend_type=onnx, chunk_size=4",
        "PureInferenceNode ready: input=/preprocessed/batch, output=/inference/action, inference_backend=onnx, "
        "tensor_device=cpu",
        "Waiting for preprocessed batches from edge node...",
    ]
    for id in ("1", "2"):
        asker.ask(id, prepared(tiny), session="s")
        asker.next()
    first = engine.said[3]
    assert first.startswith("✓ First inference completed: latency=") and first.endswith("ms, action_shape=[4, 6]")
    engine.on_loop(engine.engine._tell_stats)
    assert engine.said[4].startswith("[stats] count=2, avg=") and "ms, last=" in engine.said[4]
    engine.on_loop(engine.engine._tell_stats)
    assert engine.said[5] == engine.said[4], "also while nobody asks"


def test_it_says_how_it_goes_also_while_nothing_goes_well(engine: Any, asker: Asker, tiny: Any) -> None:
    engine.on_loop(engine.engine._tell_stats)
    assert not any(line.startswith("[stats]") for line in engine.said), "nobody asked yet"
    asker.send(fields_of({REQUEST_ID: ["1"]}))
    asker.next()
    engine.on_loop(engine.engine._tell_stats)
    assert engine.said[-1] == "[stats] count=0, avg=0.0ms, last=0.0ms, p95=0.0ms, refused=1, waiting=0"


def test_what_is_under_way_is_answered_before_it_ends(engine: Any, asker: Asker, tiny: Any) -> None:
    gate = Gate(engine.network)
    asker.ask("last", prepared(tiny), session="s", deadline_s=PATIENCE_S)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    closing = asyncio.run_coroutine_threadsafe(engine.engine.close(PATIENCE_S), engine._loop)
    engine.on_loop(lambda: None)
    asker.ask("more", prepared(tiny), session="s2", deadline_s=PATIENCE_S)
    assert asker.next().problem.kind is Trouble.DRAINING
    gate.open.set()
    assert asker.next().id == "last"
    closing.result(PATIENCE_S)


def test_a_reader_that_does_not_come_after_stops_nobody(engine: Any, asker: Asker, tiny: Any) -> None:
    publish = engine.engine._replies.publish

    def slow(fields: Any) -> None:
        raise TimeoutError("/inference/action: not sent")

    engine.engine._replies.publish = slow
    for id in ("1", "2"):
        asker.ask(id, {}, session="s", operation="hello")
        engine.on_loop(lambda: None)
    assert engine.said.count("not sent: /inference/action: not sent") == 1
    engine.engine._replies.publish = publish
    asker.ask("3", {}, session="s", operation="hello")
    assert asker.next().id == "3"


def test_no_more_robots_are_remembered_than_there_is_room_for(
    engine: Any, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkwise.server.topics.MAX_ROBOTS", 3)
    for number in range(5):
        asker.ask("", {}, session=str(number), operation="reset")
    engine.on_loop(lambda: None)
    assert list(engine.engine._robots) == ["2", "3", "4"]


def test_the_rows_are_those_of_the_wire_without_a_loop_between(tiny: Any) -> None:
    """The network takes pictures as bytes, or made its own on the robot, with the same rows."""
    from chunkwise.contract import Frame

    network = network_of(tiny)
    ready, raw = prepared(tiny, 5), seen(5)
    one = network.infer(Frame({}, ready), ChunkRequest(0))
    other = network.infer(Frame({FRONT: raw[FRONT]}, {STATE: ready[STATE]}), ChunkRequest(0))
    assert np.array_equal(one.rows, other.rows)
