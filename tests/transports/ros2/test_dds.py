"""Two participants on the loopback: messages, QoS, what is malformed, the graph, and leaving."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chunkwise.transports._ros2 import MalformedMessage, Node, Qos, Ros2Error, Settings
from chunkwise.transports._ros2 import graph as graph_messages
from chunkwise.transports._ros2.bus import Ros2Bus
from chunkwise.transports._ros2.names import DISCOVERY
from chunkwise.transports._ros2.types import Types

Join = Callable[..., Any]
JOINTS = "sensor_msgs/msg/JointState"
TEXT = "std_msgs/msg/String"
LASTING = Qos("reliable", "transient_local")
WAIT_S = 10.0


class Heard:
    """What a subscriber got."""

    def __init__(self, node: Node, topic: str, kind: str, qos: Qos = LASTING) -> None:
        self.messages: Queue[Any] = Queue()
        self.faults: Queue[MalformedMessage] = Queue()
        node.subscribe(
            topic, kind, lambda message, _: self.messages.put(message), qos=qos, on_fault=self.faults.put
        )

    def next(self) -> Any:
        return self.messages.get(timeout=WAIT_S)


def until(condition: Callable[[], bool]) -> None:
    """Wait until another thread of the library has seen something, within bounds."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came true")


def test_messages_go_from_one_to_the_other(join: Join) -> None:
    here, there = join("here"), join("there")
    heard = Heard(here, "/joint_states", JOINTS)
    sender = there.publisher("joint_states", "sensor_msgs/JointState", qos=LASTING)
    sender.publish({"name": ["a"], "position": [1.5], "header": {"stamp": {"sec": 3}}})
    message = heard.next()
    assert (message.name, message.position.tolist(), message.header.stamp.sec) == (["a"], [1.5], 3)
    until(lambda: sender.listeners() == 1)


def test_large_messages_arrive_whole(join: Join) -> None:
    here, there = join("here"), join("there")
    heard = Heard(here, "/image", "sensor_msgs/msg/Image")
    pixels = np.random.default_rng(0).integers(0, 256, 640 * 480 * 3, np.uint8)
    sender = there.publisher("/image", "sensor_msgs/msg/Image", qos=LASTING)
    sender.publish({"height": 480, "width": 640, "step": 1920, "encoding": "rgb8", "data": pixels})
    assert np.array_equal(heard.next().data, pixels)


def test_types_of_texts(join: Join) -> None:
    texts = {"own_msgs/msg/Pair": "int8 left\nint8[2] right\nstring<=4 word\nbyte[<=3] raw\n"}
    here, there = join("here", messages=texts), join("there", messages=texts)
    heard = Heard(here, "/pair", "own_msgs/Pair")
    there.publisher("/pair", "own_msgs/Pair", qos=LASTING).publish({"left": 1, "right": [2, 3], "word": "four"})
    message = heard.next()
    assert (message.left, message.right.tolist(), message.word) == (1, [2, 3], "four")


def test_who_does_not_take_loses_the_oldest(join: Join) -> None:
    here, there = join("here"), join("there")
    heard, sender = Queue[str](), there.publisher("/text", TEXT)
    busy, go = threading.Event(), threading.Event()

    def slow(message: Any, _: int) -> None:
        busy.set()
        assert go.wait(WAIT_S)
        heard.put(message.data)

    here.subscribe("/text", TEXT, slow, qos=Qos(depth=2))
    until(lambda: sender.listeners() == 1)
    sender.publish({"data": "first"})
    assert busy.wait(WAIT_S)
    last = Heard(here, "/mark", TEXT)
    for index in range(50):
        sender.publish({"data": str(index)})
    # The reader of the mark is behind the same thread, so ask DDS itself whether everything has come.
    reader = here._readers["/text"][0]._reader
    until(lambda: [sample.data[8:10] for sample in reader.read(10)] == [b"48", b"49"])
    go.set()
    assert [heard.get(timeout=WAIT_S) for _ in range(3)] == ["first", "48", "49"]
    assert last.messages.empty() and heard.empty()


def test_what_is_malformed_is_said_and_the_reader_goes_on(join: Join) -> None:
    """Where lengths go astray DDS itself drops the message; a text that is none comes through."""
    here, there = join("here"), join("there")
    heard = Heard(here, "/text", TEXT)
    sender = there.publisher("/text", TEXT, qos=LASTING)
    sender._writer.write(sender._made.holding(b"\x00\x01\x00\x00\x03\x00\x00\x00\xff\xfe\x00\x00"))
    sender.publish({"data": "good"})
    assert heard.next().data == "good"
    assert "/text: no std_msgs/msg/String in 12 bytes" in str(heard.faults.get(timeout=WAIT_S))


def test_a_callback_that_refuses_a_message_ends_nothing(join: Join) -> None:
    here, there = join("here"), join("there")
    heard, faults = Queue[str](), Queue[Exception]()

    def picky(message: Any, _: int) -> None:
        if message.data == "bad":
            raise Ros2Error("not this one")
        if message.data == "worse":
            raise KeyError("that")
        heard.put(message.data)

    here.subscribe("/text", TEXT, picky, qos=LASTING, on_fault=faults.put)
    sender = there.publisher("/text", TEXT, qos=LASTING)
    for text in ("bad", "worse", "good"):
        sender.publish({"data": text})
    assert heard.get(timeout=WAIT_S) == "good"
    assert "not this one" in str(faults.get(timeout=WAIT_S))
    assert "KeyError: 'that'" in str(faults.get(timeout=WAIT_S))


@pytest.mark.parametrize(
    ("asked", "offered", "cure"),
    [
        (Qos("reliable"), Qos("best_effort"), "ask for qos: {reliability: best_effort}"),
        (LASTING, Qos("reliable"), "ask for qos: {durability: volatile}"),
        (LASTING, Qos("best_effort"), "ask for qos: {reliability: best_effort, durability: volatile}"),
    ],
)
def test_a_qos_that_does_not_fit_is_said(join: Join, asked: Qos, offered: Qos, cure: str) -> None:
    here, there = join("here"), join("there")
    heard = Heard(here, "/text", TEXT, asked)
    there.publisher("/text", TEXT, qos=offered).publish({"data": "lost"})
    until(lambda: cure in here.silence("/text"))
    assert heard.messages.empty()


def test_another_type_is_said(join: Join, domain: int) -> None:
    here, there = join("here"), join("there")
    Heard(here, "/text", TEXT)
    assert f"nobody publishes /text in domain {domain}" in here.silence("text")
    there.publisher("/text", JOINTS)
    until(lambda: here.silence("/text") == f"/text is published as {JOINTS}, not {TEXT}")
    assert "nobody here listens" in here.silence("/other")


@pytest.mark.parametrize(("distro", "size"), [("humble", 24), ("jazzy", 16)])
def test_the_node_is_in_the_graph(join: Join, distro: str, size: int) -> None:
    node = join("arm_policy", distro=distro)
    node.subscribe("/joint_states", JOINTS, lambda *_: None)
    sender = node.publisher("/commands", TEXT)
    watcher = join("watcher", distro=distro)
    seen: Queue[Any] = Queue()
    reader = watcher._sub.DataReader(
        watcher._participant,
        watcher._topic(DISCOVERY, graph_messages.TYPE),
        qos=watcher._qos(Qos("reliable", "transient_local", depth=100), graph_messages.TYPE),
    )
    types = Types(distro)

    def found() -> bool:
        for sample in reader.take(10):
            message = types.decode(graph_messages.TYPE, sample.data)
            if message.node_entities_info_seq[0].node_name == "arm_policy":
                seen.put(message)
        return not seen.empty()

    until(found)
    message = seen.get()
    participant = node._participant.guid.bytes
    assert bytes(message.gid.data) == participant.ljust(size, b"\0")
    info = message.node_entities_info_seq[0]
    assert info.node_namespace == "/" and len(info.reader_gid_seq) == 1
    assert [bytes(gid.data) for gid in info.writer_gid_seq] == [sender.guid.bytes.ljust(size, b"\0")]
    assert node._participant.get_qos()[node._core.Policy.Userdata] == node._core.Policy.Userdata(b"enclave=/;")


def test_leaving_leaves_no_thread_behind(join: Join) -> None:
    before = set(threading.enumerate())
    node = join("short")
    heard = Heard(node, "/text", TEXT)
    sender = node.publisher("/text", TEXT)
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"ros2 /short"}
    node.close()
    node.close()
    assert set(threading.enumerate()) <= before
    for act in (
        lambda: sender.publish({}),
        lambda: node.publisher("/text", TEXT),
        lambda: node.subscribe("/x", TEXT, print),
    ):
        with pytest.raises(ConnectionError):
            act()
    assert sender.listeners() == 0 and heard.messages.empty()


def test_a_node_may_leave_from_its_own_callback(join: Join) -> None:
    here, there = join("here"), join("there")
    left = threading.Event()

    def leave(*_: object) -> None:
        here.close()
        left.set()

    here.subscribe("/text", TEXT, leave, qos=LASTING)
    there.publisher("/text", TEXT, qos=LASTING).publish({"data": "go"})
    assert left.wait(WAIT_S)
    until(lambda: not here._thread.is_alive())


def test_nodes_of_one_domain_share_its_configuration(join: Join, domain: int) -> None:
    join("one")
    with pytest.raises(Ros2Error, match=f"domain {domain} is open in this process with another"):
        join("two", max_bytes=1000)


def test_the_domain_can_be_opened_again_otherwise(join: Join) -> None:
    for bound in (1000, 2000):
        node = join("again", max_bytes=bound)
        assert node.name == "/again"
        node.close()


def test_wrong_names_are_refused_before_anything_is_made(join: Join) -> None:
    node = join("here")
    for act in (
        lambda: node.publisher("/a b", TEXT),
        lambda: node.publisher("/a", "std_msgs/msg/Strin"),
        lambda: node.subscribe("/a", "String", print),
    ):
        with pytest.raises(Ros2Error):
            act()


def test_a_bus_takes_any_object_with_the_fields(domain: int) -> None:
    here = Ros2Bus(Settings("bus", domain=domain, loopback=True), qos=LASTING)
    there = Ros2Bus(Settings("robot", domain=domain, loopback=True), qos=LASTING)
    try:
        heard: Queue[Any] = Queue()
        here.subscribe("/target", "JointState", heard.put)
        there.publish("/target", "JointState", SimpleNamespace(position=np.array([1.0, 2.0])))
        assert heard.get(timeout=WAIT_S).position.tolist() == [1.0, 2.0]
    finally:
        here.close()
        there.close()
        here.close()


def test_another_definition_of_the_type_is_said(join: Join) -> None:
    here = join("here", messages={"own_msgs/msg/Pair": "int8 left\n"})
    there = join("there", messages={"own_msgs/msg/Pair": "float64 left\n"})
    Heard(here, "/pair", "own_msgs/Pair")
    sender = there.publisher("/pair", "own_msgs/Pair", qos=LASTING)
    sender.publish({"left": 1.0})
    until(lambda: "has another definition of own_msgs/msg/Pair" in here.silence("/pair"))
    assert sender.listeners() == 0
