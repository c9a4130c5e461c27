"""The robot's side of a network at topics: ours and an original one, and what happens when it goes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import (
    ChunkRequest,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicyTimedOut,
    RobotSpec,
)
from chunkwise.options import UsageError
from chunkwise.policies import _topics
from chunkwise.policies._stages import PureInferenceEngine
from chunkwise.transports._ros2 import inference_topics
from chunkwise.transports._ros2.inference_topics import InferenceTopics
from chunkwise.wires import Offer, Readiness
from chunkwise.wires._inference_topics import REPLY_ID, REQUEST_ID, Reply, offer_fields, reply_fields, request_of
from chunkwise.wires._variants import fields_of, values_of

TESTS = Path(__file__).parents[1]
GRAPH = TESTS / "server" / "topics_graph.py"
Running: Any = plugins.load("transports", f"{GRAPH}:Running")
TYPES: Any = plugins.load("transports", f"{GRAPH}:TYPES")
write = plugins.load("policies", f"{TESTS / 'policies' / 'tiny_checkpoint.py'}:write")
STATE, FRONT, SIDE = "observation.state", "observation.images.front", "observation.images.side"
INPUTS = {STATE: (6,), FRONT: (3, 8, 12), SIDE: (1, 4, 4)}
ROBOT = RobotSpec("robot", ["front", "side"], [ComponentSpec("arm", "arm", 6, ["joint_position"])])
TOPICS = InferenceTopics()
LIST = TOPICS.type_name
PATIENCE_S = 20.0


def frame(seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    images = {
        "front": rng.integers(0, 256, (8, 12, 3), dtype=np.uint8),
        "side": rng.integers(0, 256, (4, 4, 1), dtype=np.uint8),
    }
    return Frame(images, {"arm": rng.normal(0.4, 0.3, 6)})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write(tmp_path_factory.mktemp("tiny"), INPUTS, 6, rows=4)


@pytest.fixture(scope="module")
def near(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The robot's copy: no weights."""
    folder = tmp_path_factory.mktemp("near") / "near"
    shutil.copytree(tiny.folder, folder, ignore=shutil.ignore_patterns("*.onnx"))
    return folder


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What every node here joins."""
    made = plugins.load("transports", f"{GRAPH}:Graph")()
    monkeypatch.setattr(inference_topics, "open_node", lambda settings, api: made.node(settings.name))
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, graph: Any, folder: Path, **options: Any) -> Any:
    running = Running(graph, lambda: plugins.load("policies", "network")(path=str(folder)), **options)
    stack.callback(running.close)
    return running.loaded()


def connect(stack: ExitStack, near: Path, url: str = "ros2://", **options: Any) -> Any:
    given = {"timeout_s": PATIENCE_S, "start_timeout_s": PATIENCE_S, **options}
    policy = plugins.load("policies", "distributed")(path=str(near), network=url, **given)
    stack.callback(policy.close)
    policy.meet(ROBOT)
    return policy


def far(policy: Any) -> Any:
    """The connection of a policy."""
    return policy._far._policy


def by_a_clock(policy: Any) -> list[float]:
    """Whoever changes it changes the time that the connection of a policy goes by."""
    now_s = [100.0]
    far(policy)._clock = lambda: now_s[0]
    return now_s


class Original:
    """What the original's ``pure_inference_node`` does: it knows no handshake and answers no mistake.

    Attributes:
        asked: what it was given.
        failed: requests that it could not answer, and did not.
    """

    def __init__(self, graph: Any, folder: Path) -> None:
        self.engine = PureInferenceEngine(str(folder))
        self.node = graph.node("pure_inference")
        self._sender = self.node.publisher(TOPICS.output, LIST)
        self.asked: list[dict[str, Any]] = []
        self.failed = 0
        self.node.subscribe(TOPICS.input, LIST, self._on_batch)

    def _on_batch(self, message: Any, time_ns: int) -> None:
        values = values_of(message)
        (id,) = values.pop(REQUEST_ID)
        batch = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
        self.asked.append(batch)
        try:
            action = self.engine(batch).action
        except InterfaceValidationError:
            self.failed += 1
            return
        self._sender.publish(fields_of({"action": action, REPLY_ID: [id]}))


def whole(tiny: Any) -> Any:
    policy = plugins.load("policies", "lerobot")(path=str(tiny.folder))
    policy.meet(ROBOT)
    return policy


def test_chunks_are_those_of_one_process_to_the_last_bit(
    tiny: Any, near: Path, graph: Any, stack: ExitStack
) -> None:
    serve(stack, graph, tiny.folder)
    here, there = whole(tiny), connect(stack, near)
    assert there.spec.outputs == here.spec.outputs and there.spec.action_horizon == 4
    for seed in range(10):
        one, other = (policy.infer(frame(seed), ChunkRequest(seed)) for policy in (here, there))
        assert np.array_equal(one.rows, other.rows)


def test_pictures_travel_as_bytes_between_two_of_ours(tiny: Any, near: Path, graph: Any, stack: ExitStack) -> None:
    serve(stack, graph, tiny.folder)
    policy = connect(stack, near)
    policy.infer(frame(0), ChunkRequest(0))
    (sent,) = [data for topic, data in graph.sent if topic == TOPICS.input and len(data) > 600]
    batch = request_of(TYPES.decode(LIST, sent)).batch
    assert batch[FRONT].dtype == batch[SIDE].dtype == np.uint8 and batch[FRONT].nbytes == 8 * 12 * 3
    assert batch[STATE].dtype == np.float32


def test_an_original_engine_gets_what_it_wants_with_the_same_rows(
    tiny: Any, near: Path, graph: Any, stack: ExitStack
) -> None:
    original = Original(graph, tiny.folder)
    policy = connect(stack, near, "ros2://?engine=original")
    for seed in range(3):
        assert np.array_equal(
            policy.infer(frame(seed), ChunkRequest(seed)).rows,
            whole(tiny).infer(frame(seed), ChunkRequest(0)).rows,
        )
    policy.reset()
    assert original.failed == 0 and len(original.asked) == 3, "it is asked nothing but what it knows"
    assert {value.dtype for value in original.asked[0].values()} == {np.dtype(np.float32)}
    assert original.asked[0].keys() == INPUTS.keys()


def test_who_says_nothing_of_itself_is_an_original_engine(
    tiny: Any, near: Path, graph: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_topics, "SILENT_S", 0.02)
    Original(graph, tiny.folder)
    policy = connect(stack, near)
    assert far(policy).original
    policy.infer(frame(0), ChunkRequest(0))


def test_an_engine_that_still_loads_is_waited_for(tiny: Any, near: Path, graph: Any, stack: ExitStack) -> None:
    go = threading.Event()

    def make() -> Any:
        assert go.wait(PATIENCE_S)
        return plugins.load("policies", "network")(path=str(tiny.folder))

    running = Running(graph, make)
    stack.callback(running.close)
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(connect(stack, near)))
    thread.start()
    assert not made
    go.set()
    thread.join(PATIENCE_S)
    assert not far(made[0]).original
    made[0].infer(frame(0), ChunkRequest(0))


def test_nobody_there_is_said_with_the_cure(near: Path, graph: Any, stack: ExitStack) -> None:
    with pytest.raises(PolicyFailed, match="nobody listens there; start `chunkwise engine --policy DIR --ros2`"):
        connect(stack, near, start_timeout_s=0.05)
    with pytest.raises(PolicyFailed, match="nobody listens there"):
        connect(stack, near, "ros2://?engine=original", start_timeout_s=0.05)
    assert not any(graph.readers.values()), "nothing of it is left"


def test_an_engine_of_another_version_is_not_taken_for_an_original_one(
    near: Path, scripted: Scripted, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_topics, "SILENT_S", 0.02)
    scripted.tell(fields_of({"action.chunkwise": ["version=2", "readiness=ready"]}))
    with pytest.raises(PolicyFailed, match="not understood: another version than 1"):
        connect(stack, near, start_timeout_s=0.4)


def test_a_network_that_did_not_load_is_said(near: Path, graph: Any, stack: ExitStack) -> None:
    def make() -> Any:
        raise FileNotFoundError("no model.safetensors")

    running = Running(graph, make)
    stack.callback(running.close)
    running.loaded()
    with pytest.raises(PolicyFailed, match=r"failed: FileNotFoundError: no model\.safetensors"):
        connect(stack, near)


def test_a_network_behind_other_statistics_is_refused(
    near: Path, tmp_path: Path, graph: Any, stack: ExitStack
) -> None:
    serve(stack, graph, write(tmp_path / "other", INPUTS, 6, rows=4, seed=7).folder)
    with pytest.raises(PolicyFailed, match="other statistics"):
        connect(stack, near)


def test_what_the_network_raises_reaches_the_robot_by_name(
    tiny: Any, near: Path, graph: Any, stack: ExitStack
) -> None:
    running = serve(stack, graph, tiny.folder)
    policy = connect(stack, near)

    def broken(tensors: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    engine = running.network.network.engine
    working, engine.run = engine.run, broken
    with pytest.raises(PolicyFailed, match="policy_failed: RuntimeError: CUDA out of memory"):
        policy.infer(frame(1), ChunkRequest(1))
    engine.run = working
    policy.infer(frame(2), ChunkRequest(2))


@pytest.mark.parametrize("missing", ["front", "arm"])
def test_what_is_missing_is_refused_by_name_before_it_is_sent(
    tiny: Any, near: Path, graph: Any, stack: ExitStack, missing: str
) -> None:
    serve(stack, graph, tiny.folder)
    policy = connect(stack, near)
    seen, before = frame(0), sum(topic == TOPICS.input for topic, _ in graph.sent)
    seen.images.pop(missing, None)
    seen.state.pop(missing, None)
    with pytest.raises(InterfaceValidationError, match=f"'{missing}' is missing"):
        policy.infer(seen, ChunkRequest(0))
    assert sum(topic == TOPICS.input for topic, _ in graph.sent) == before


def test_two_robots_each_get_their_own(tiny: Any, near: Path, graph: Any, stack: ExitStack) -> None:
    serve(stack, graph, tiny.folder)
    robots = [connect(stack, near) for _ in range(2)]
    found: list[list[Any]] = [[], []]

    def ask(number: int) -> None:
        for _ in range(10):
            found[number].append(robots[number].infer(frame(number), ChunkRequest(0)).rows)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for number, rows in enumerate(found):
        wants = whole(tiny).infer(frame(number), ChunkRequest(0)).rows
        assert len(rows) == 10 and all(np.array_equal(one, wants) for one in rows)
    assert sum(far(robot).foreign for robot in robots) > 0, "they hear each other, and take nothing"


class Scripted:
    """An engine of ours whose replies are the test's."""

    def __init__(self, graph: Any, digest: str, spec: Any) -> None:
        self.node = graph.node("scripted")
        self.reply: Callable[[Any], Any] = lambda request: Reply(request.id, session=request.session)
        self.requests: list[Any] = []
        self.instance = "one"
        self._replies = self.node.publisher(TOPICS.output, LIST)
        self._status = self.node.publisher(TOPICS.status, LIST, qos=inference_topics.STATUS_QOS)
        self._spec = spec
        self.say("one")
        self.node.subscribe(TOPICS.input, LIST, self._on_request)

    def say(self, instance: str, readiness: Readiness = Readiness.READY) -> None:
        self.instance = instance
        self._status.publish(offer_fields(Offer(readiness, "", self._spec, instance)))

    def tell(self, fields: Any) -> None:
        self._status.publish(fields)

    def send(self, reply: Reply) -> None:
        self._replies.publish(reply_fields(replace(reply, engine=reply.engine or self.instance)))

    def _on_request(self, message: Any, time_ns: int) -> None:
        request = request_of(message)
        self.requests.append(request)
        if request.operation == "hello":
            self.send(Reply(request.id, session=request.session))
        elif request.operation == "infer":
            reply = self.reply(request)
            if reply is not None:
                self.send(reply)


ROWS = np.zeros((4, 6), np.float32)


@pytest.fixture
def scripted(tiny: Any, graph: Any, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """It says once how it is, and need not say it again while a test goes on."""
    monkeypatch.setattr(_topics, "SILENT_S", PATIENCE_S)
    network = plugins.load("policies", "network")(path=str(tiny.folder))
    return Scripted(graph, network.spec.normalisation, network.spec)


def test_a_late_reply_is_given_up_and_never_taken(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near, timeout_s=0.05)
    scripted.reply = lambda request: None
    with pytest.raises(PolicyTimedOut, match=r"no answer within 0\.05 s"):
        policy.infer(frame(0), ChunkRequest(0))
    far(policy)._timeout_s = PATIENCE_S
    asked, cancel = scripted.requests[-2:]
    assert (cancel.operation, cancel.target) == ("cancel", asked.id)
    assert 0 < asked.deadline_s <= 0.05
    late = Reply(asked.id, np.full((4, 6), 9, np.float32), session=asked.session)

    def both(request: Any) -> Reply:
        scripted.send(late)
        return Reply(request.id, ROWS, session=request.session)

    scripted.reply = both
    one = policy.infer(frame(0), ChunkRequest(1))
    scripted.reply = lambda request: Reply(request.id, ROWS, session=request.session)
    assert np.array_equal(one.rows, policy.infer(frame(0), ChunkRequest(1)).rows)
    assert far(policy).late == 1


def test_the_time_of_writing_counts(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near, timeout_s=2.0)
    now_s = [100.0]

    def clock() -> float:
        now_s[0] += 0.01
        return now_s[0]

    def slow(request: Any) -> None:
        now_s[0] += 3.0

    far(policy)._clock, scripted.reply = clock, slow
    scripted.say("one")
    with pytest.raises(PolicyTimedOut):
        policy.infer(frame(0), ChunkRequest(0))
    assert now_s[0] < 104.0, "nothing is waited for beyond it"


def test_the_time_that_the_network_took_comes_back(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near)
    scripted.reply = lambda request: Reply(request.id, ROWS, session=request.session, server_s=0.125)
    assert far(policy).infer(Frame({}, {}), ChunkRequest(0)).meta["server_s"] == 0.125


def test_a_reply_to_another_robot_is_never_taken(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near)

    def both(request: Any) -> Reply:
        scripted.send(Reply("other.0.1", np.full((4, 6), 9, np.float32), session="other"))
        return Reply(request.id, ROWS, session=request.session)

    scripted.reply = both
    rows = policy.infer(frame(0), ChunkRequest(0)).rows
    assert np.ptp(rows, axis=0).max() == 0 and far(policy).foreign == 1


def test_a_reply_that_is_none_is_said_by_name(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near)
    scripted.reply = lambda request: Reply(request.id, np.zeros((2, 4, 6), np.float32), session=request.session)
    with pytest.raises(PolicyFailed, match=r"malformed: action must be \(rows, dim\)"):
        policy.infer(frame(0), ChunkRequest(0))
    scripted.reply = lambda request: Reply(request.id, np.zeros((4, 5), np.float32), session=request.session)
    with pytest.raises(PolicyFailed, match=r"\(rows, 6\)"):
        policy.infer(frame(0), ChunkRequest(0))
    scripted.reply = lambda request: Reply(request.id, session=request.session)
    with pytest.raises(PolicyFailed, match="without rows"):
        policy.infer(frame(0), ChunkRequest(0))


def test_an_engine_that_falls_silent_fails_at_once_and_is_used_again_when_it_is_back(
    near: Path, scripted: Scripted, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = connect(stack, near)
    now_s = by_a_clock(policy)
    scripted.say("one")
    scripted.reply = lambda request: Reply(request.id, ROWS, session=request.session)
    assert "reconnected" not in policy.infer(frame(0), ChunkRequest(0)).meta
    now_s[0] += 20.5
    with pytest.raises(PolicyFailed, match=r"was not heard for 20\.5 s"):
        policy.infer(frame(0), ChunkRequest(1))
    asked = len(scripted.requests)
    scripted.say("two")  # another process
    chunk = policy.infer(frame(0), ChunkRequest(2))
    assert chunk.meta["reconnected"] and len(scripted.requests) == asked + 1
    assert "reconnected" not in policy.infer(frame(0), ChunkRequest(3)).meta


def test_an_engine_that_goes_while_it_is_asked_is_not_waited_for(
    near: Path, scripted: Scripted, stack: ExitStack
) -> None:
    policy = connect(stack, near)
    now_s = by_a_clock(policy)
    scripted.say("one")

    def dies(request: Any) -> None:
        now_s[0] += 21.0

    scripted.reply = dies
    with pytest.raises(PolicyFailed, match=r"was not heard for 21\.0 s"):
        policy.infer(frame(0), ChunkRequest(0))


def test_of_two_engines_the_first_is_listened_to_while_it_is_there(
    near: Path, scripted: Scripted, stack: ExitStack
) -> None:
    policy = connect(stack, near)
    scripted.say("two", Readiness.LOADING)
    scripted.reply = lambda request: Reply(request.id, ROWS, session=request.session, engine=request.engine)
    policy.infer(frame(0), ChunkRequest(0))
    assert scripted.requests[-1].engine == "one"
    scripted.say("one", Readiness.DRAINING)
    with pytest.raises(PolicyFailed, match="draining"):
        policy.infer(frame(0), ChunkRequest(1))
    scripted.say("two")
    policy.infer(frame(0), ChunkRequest(2))


def test_of_two_engines_only_the_one_that_was_seen_to_fit_is_asked_and_heard(
    tiny: Any, near: Path, tmp_path: Path, graph: Any, stack: ExitStack
) -> None:
    """The other one has another policy, is as quick, and would answer first."""
    running = serve(stack, graph, tiny.folder)
    policy = connect(stack, near)
    other = serve(stack, graph, write(tmp_path / "other", INPUTS, 6, rows=4, seed=7).folder)
    for seed in range(5):
        rows = policy.infer(frame(seed), ChunkRequest(seed)).rows
        assert np.array_equal(rows, whole(tiny).infer(frame(seed), ChunkRequest(seed)).rows)
    assert (running.engine.count, other.engine.count) == (5, 0), "nothing is computed twice"


def test_a_reply_of_another_engine_is_never_taken(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near)

    def both(request: Any) -> Reply:
        scripted.send(Reply(request.id, np.full((4, 6), 9, np.float32), session=request.session, engine="two"))
        return Reply(request.id, ROWS, session=request.session)

    scripted.reply = both
    rows = policy.infer(frame(0), ChunkRequest(0)).rows
    assert np.ptp(rows, axis=0).max() == 0 and far(policy).foreign == 1


def test_an_engine_that_another_one_replaces_is_not_waited_for(
    near: Path, scripted: Scripted, stack: ExitStack
) -> None:
    policy = connect(stack, near)
    now_s = by_a_clock(policy)
    scripted.say("one")

    def dies(request: Any) -> None:
        now_s[0] += 21.0
        scripted.say("two")

    scripted.reply = dies
    with pytest.raises(PolicyFailed, match="another engine took its place"):
        policy.infer(frame(0), ChunkRequest(0))
    scripted.reply = lambda request: Reply(request.id, ROWS, session=request.session)
    assert policy.infer(frame(0), ChunkRequest(0)).meta["reconnected"]


def test_an_engine_that_was_heard_too_late_is_compared_all_the_same(
    tiny: Any, near: Path, tmp_path: Path, graph: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else listened, so that it was taken for an original one, which says nothing."""
    monkeypatch.setattr(_topics, "SILENT_S", 0.02)
    graph.node("recorder").subscribe(TOPICS.input, LIST, lambda message, time_ns: None)
    policy = connect(stack, near)
    assert far(policy).original
    far(policy)._timeout_s = 0.01
    with pytest.raises(PolicyTimedOut, match="who listens there says nothing of itself"):
        policy.infer(frame(0), ChunkRequest(0))
    far(policy)._timeout_s = PATIENCE_S
    monkeypatch.setattr(_topics, "SILENT_S", PATIENCE_S)
    running = serve(stack, graph, write(tmp_path / "other", INPUTS, 6, rows=4, seed=7).folder)
    with pytest.raises(PolicyFailed, match="other statistics"):
        policy.infer(frame(0), ChunkRequest(0))
    running.close()
    far(policy)._offer = None
    serve(stack, graph, tiny.folder)
    rows = policy.infer(frame(0), ChunkRequest(0)).rows
    assert np.array_equal(rows, whole(tiny).infer(frame(0), ChunkRequest(0)).rows)


def test_what_an_episode_asked_is_not_waited_for_when_it_is_over(
    near: Path, scripted: Scripted, stack: ExitStack
) -> None:
    """Nor is its answer taken, should one come: the engine may never have heard of the reset."""
    policy = connect(stack, near)
    told: list[PolicyFailed] = []
    asked = threading.Event()

    def hangs(request: Any) -> None:
        asked.set()

    def ask() -> None:
        with pytest.raises(PolicyFailed) as caught:
            policy.infer(frame(0), ChunkRequest(0))
        told.append(caught.value)

    scripted.reply = hangs
    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(PATIENCE_S)
    policy.reset()
    thread.join(PATIENCE_S / 4)
    assert told and "the episode that asked is over" in str(told[0])

    def late(request: Any) -> Reply:
        policy.reset()
        return Reply(request.id, ROWS, session=request.session)

    scripted.reply = late
    with pytest.raises(PolicyFailed, match="the episode that asked is over"):
        policy.infer(frame(0), ChunkRequest(0))


def test_an_episode_is_a_generation(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near)
    scripted.reply = lambda request: Reply(request.id, ROWS, session=request.session)
    policy.infer(frame(0), ChunkRequest(0))
    policy.reset()
    policy.infer(frame(0), ChunkRequest(0))
    told = [(request.operation, request.generation) for request in scripted.requests]
    assert told == [("hello", 0), ("infer", 0), ("reset", 1), ("infer", 1)]
    assert len({request.id for request in scripted.requests if request.id}) == 3


def test_what_is_closed_is_closed(near: Path, scripted: Scripted, stack: ExitStack) -> None:
    policy = connect(stack, near)
    policy.close()
    policy.close()
    with pytest.raises(PolicyFailed, match="closed"):
        far(policy).infer(Frame({}, {}), ChunkRequest(0))


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("ros2://host", InterfaceValidationError, "no address of topics"),
        ("ros2://?doman=3", UsageError, "did you mean 'domain'"),
        ("ros2://?engine=orginal", UsageError, "did you mean 'original'"),
        ("ros2://?output=/preprocessed/batch", InterfaceValidationError, "are one topic"),
        ("ros2://?max_message_mb=0", InterfaceValidationError, "max_message_mb"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        InferenceTopics.parse(url)


def test_topics_know_no_token(near: Path) -> None:
    with pytest.raises(InterfaceValidationError, match="neither a token nor TLS"):
        plugins.load("policies", "distributed")(path=str(near), network="ros2://", token="secret")
