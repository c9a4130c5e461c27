"""A ROS 2 node without a ROS installation: Cyclone DDS moves the bytes, rosbags makes and reads them."""

from __future__ import annotations

import threading
import time
from typing import Any, Final
from uuid import UUID

from chunkwise.contract import InterfaceValidationError
from chunkwise.plugins import require
from chunkwise.transports._ros2 import MalformedMessage, OnFault, OnMessage, Publisher, Qos, Settings, graph
from chunkwise.transports._ros2.domain import configuration, domain_of, loopback_of, shared
from chunkwise.transports._ros2.names import DISCOVERY, dds_topic, node_name, ros_type, topic_name
from chunkwise.transports._ros2.names import type_name as full_type
from chunkwise.transports._ros2.structs import Structs
from chunkwise.transports._ros2.types import Types

WRITE_S: Final = 0.02
"""How long `publish` waits for readers that acknowledge too slowly [s]."""
AT_ONCE: Final = 16
"""Messages of one topic that are taken before others have their turn."""
LOOK_S: Final = 1.0
"""How often the thread looks whether it is wanted, should a wake-up be lost [s]."""


class DdsNode:
    """This process in the graph: a participant with one node, and a thread that takes what comes.

    Args:
        settings: how it comes into the graph.

    Raises:
        Ros2Error: a setting is not what it must be.
        MissingExtra: cyclonedds or rosbags is not installed.
        OSError: this host has no network that the settings ask for.

    Attributes:
        name: in the graph.
        types: that it knows.
    """

    def __init__(self, settings: Settings) -> None:
        self._node = node_name(settings.name)
        self.name = f"/{self._node}"
        self.types = Types(settings.distro, settings.messages, settings.max_bytes)
        self._core = require("cyclonedds.core", extra="ros2")
        self._pub, self._sub = require("cyclonedds.pub", extra="ros2"), require("cyclonedds.sub", extra="ros2")
        self._domain = domain_of(settings)
        self._structs = Structs(self.types)
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._topics: dict[tuple[str, str], Any] = {}
        self._readers: dict[str, list[_Reader]] = {}
        self._writers: list[_Writer] = []
        self._participant: Any = None
        self._waits: Any = None
        self._wake: Any = None
        self._discovery: Any = None
        self._publications: Any = None
        shared.take(self._domain, configuration(loopback_of(settings), settings.max_bytes))
        try:
            self._open()
        except BaseException:
            self._participant = None
            shared.release(self._domain)
            raise
        self._thread = threading.Thread(target=self._run, name=f"ros2 {self.name}", daemon=True)
        self._thread.start()

    def subscribe(
        self,
        topic: str,
        type_name: str,
        on_message: OnMessage,
        *,
        qos: Qos = Qos(),  # noqa: B008  frozen
        on_fault: OnFault | None = None,
    ) -> None:
        name, kind = topic_name(topic), full_type(type_name)
        self.types.fields(kind)
        with self._lock:
            self._require_open()
            made = self._sub.DataReader(
                self._participant, self._topic(dds_topic(name), kind), qos=self._qos(qos, kind)
            )
            reader = _Reader(made, name, kind, qos, on_message, on_fault, self._core)
            self._readers.setdefault(name, []).append(reader)
            self._announce()
            self._waits.attach(reader.condition)
            self._wake.set(True)

    def publisher(self, topic: str, type_name: str, *, qos: Qos = Qos()) -> Publisher:  # noqa: B008  frozen
        name, kind = topic_name(topic), full_type(type_name)
        self.types.fields(kind)
        with self._lock:
            self._require_open()
            writer = self._writer(dds_topic(name), kind, qos)
            self._writers.append(writer)
            self._announce()
        return writer

    def silence(self, topic: str) -> str:
        name = topic_name(topic)
        with self._lock:
            readers = list(self._readers.get(name, ()))
        if not readers:
            return f"nobody here listens to {name}"
        found = [end for end in self._published() if end.topic_name == dds_topic(name)]
        if not found:
            return f"nobody publishes {name} in domain {self._domain}"
        reader = readers[0]
        for end in found:
            if ros_type(end.type_name) != reader.kind:
                return f"{name} is published as {ros_type(end.type_name)}, not {reader.kind}"
            offered = self._offered(end.qos)
            if not reader.qos.accepts(offered):
                return (
                    f"{name} is published with the QoS {offered}, which is less than {reader.qos}: "
                    f"ask for {_less(reader.qos, offered)}"
                )
        known = self._structs.of(reader.kind).__idl__.get_type_id()
        other = any(end.type_id is not None and end.type_id != known for end in found)
        hint = f", or has another definition of {reader.kind} than {self.types.distro} has" if other else ""
        return f"{name} has a publisher that is silent{hint}"

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._wake.set(True)
        if self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            # Children first: what is deleted with its parent may not be deleted again.
            for reader in (reader for readers in self._readers.values() for reader in readers):
                self._waits.detach(reader.condition)
                reader.close()
            self._waits.detach(self._wake)
            self._readers, self._topics = {}, {}
            for writer in (*self._writers, self._discovery):
                writer.close()
            self._writers = []
            self._waits = self._wake = self._publications = self._discovery = None
            self._participant = None
        shared.release(self._domain)

    # What is made ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        core, builtin = self._core, require("cyclonedds.builtin", extra="ros2")
        user_data = core.Qos(core.Policy.Userdata(graph.ENCLAVE))
        domain = require("cyclonedds.domain", extra="ros2")
        try:
            self._participant = domain.DomainParticipant(self._domain, qos=user_data)
        except core.DDSException as error:
            raise OSError(f"no DDS participant in domain {self._domain}: {error}") from error
        self._publications = builtin.BuiltinDataReader(self._participant, builtin.BuiltinTopicDcpsPublication)
        self._waits = core.WaitSet(self._participant)
        self._wake = core.GuardCondition(self._participant)
        self._waits.attach(self._wake)
        self._discovery = self._writer(DISCOVERY, graph.TYPE, graph.QOS)
        self._announce()

    def _topic(self, name: str, kind: str) -> Any:
        key = (name, kind)
        if key not in self._topics:
            topic = require("cyclonedds.topic", extra="ros2").Topic
            self._topics[key] = topic(self._participant, name, self._structs.of(kind))
        return self._topics[key]

    def _writer(self, name: str, kind: str, qos: Qos) -> _Writer:
        made = self._pub.DataWriter(self._participant, self._topic(name, kind), qos=self._qos(qos, kind))
        return _Writer(made, name, kind, self.types, self._structs, self._core.DDSException)

    def _qos(self, qos: Qos, kind: str) -> Any:
        policy = self._core.Policy
        wait = policy.Reliability.Reliable(round(WRITE_S * 1e9))
        return self._core.Qos(
            policy.Reliability.BestEffort if qos.reliability == "best_effort" else wait,
            policy.Durability.TransientLocal
            if qos.durability == "transient_local"
            else policy.Durability.Volatile,
            policy.History.KeepLast(qos.depth),
            policy.DataRepresentation(use_cdrv0_representation=True),
            policy.Userdata(graph.endpoint_data(self.types, kind)),
        )

    def _offered(self, qos: Any) -> Qos:
        """What of a DDS QoS decides whether two ends meet."""
        policy = self._core.Policy
        best, gone = policy.Reliability.BestEffort in qos, policy.Durability.Volatile in qos
        return Qos("best_effort" if best else "reliable", "volatile" if gone else "transient_local")

    def _announce(self) -> None:
        """Say which endpoints the node has."""
        readers = [reader.guid for found in self._readers.values() for reader in found]
        writers = [writer.guid for writer in self._writers]
        fields = graph.entities(self.types, self._participant.guid, self._node, readers, writers)
        self._discovery.publish(fields)

    def _published(self) -> list[Any]:
        """Every publication that is known, of this process too."""
        ends = self._publications.read(4096)
        return [end for end in ends if getattr(end.sample_info, "valid_data", True)]

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise ConnectionError(f"{self.name} has left the graph")

    # What comes -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        waits, wake = self._waits, self._wake
        while not self._closed.is_set():
            waits.wait(round(LOOK_S * 1e9))
            wake.set(False)
            with self._lock:
                readers = [reader for found in self._readers.values() for reader in found]
            for reader in readers:
                if not self._closed.is_set():
                    reader.take(self.types)


class _Reader:
    """One subscription."""

    def __init__(
        self, reader: Any, topic: str, kind: str, qos: Qos, call: OnMessage, fault: OnFault | None, core: Any
    ) -> None:
        self._reader, self.topic, self.kind, self.qos = reader, topic, kind, qos
        self._call, self._fault = call, fault
        state = core.SampleState.Any | core.ViewState.Any | core.InstanceState.Any
        self.condition: Any = core.ReadCondition(reader, state)
        self.guid: UUID = reader.guid

    def take(self, types: Types) -> None:
        """Hand over what came since."""
        for sample in self._reader.take(AT_ONCE):
            data = getattr(sample, "data", None)
            if not isinstance(data, bytes):
                continue  # no message: its writer has gone
            time_ns = time.monotonic_ns()
            try:
                self._call(types.decode(self.kind, data), time_ns)
            except Exception as error:  # whoever listens may fail; the other topics go on
                expected = isinstance(error, InterfaceValidationError)
                if self._fault is not None:
                    what = str(error) if expected else f"{type(error).__name__}: {error}"
                    self._fault(MalformedMessage(f"{self.topic}: {what}"))
                elif not expected:
                    raise

    def close(self) -> None:
        """Let go of it."""
        self.condition = self._reader = None


class _Writer:
    """One publisher."""

    def __init__(self, writer: Any, topic: str, kind: str, types: Types, structs: Structs, error: Any) -> None:
        self._writer, self._topic, self._kind, self._types = writer, topic, kind, types
        self._made, self._error = structs.of(kind), error
        self.guid: UUID = writer.guid

    def publish(self, fields: Any) -> None:
        writer = self._writer  # another thread may close it meanwhile
        if writer is None:
            raise ConnectionError(f"the publisher of {self._topic} is closed")
        data = self._types.encode(self._kind, fields)
        try:
            writer.write(self._made.holding(data))
        except self._error as error:
            raise TimeoutError(f"{self._topic}: not sent, its readers do not come after ({error})") from error

    def listeners(self) -> int:
        writer = self._writer
        return 0 if writer is None else len(writer.get_matched_subscriptions())

    def close(self) -> None:
        """Let go of it."""
        self._writer = None


def _less(asked: Qos, offered: Qos) -> str:
    """What to ask for, as it is written in a file."""
    needed = {}
    if asked.reliability == "reliable" and offered.reliability == "best_effort":
        needed["reliability"] = "best_effort"
    if asked.durability == "transient_local" and offered.durability == "volatile":
        needed["durability"] = "volatile"
    return "qos: {" + ", ".join(f"{name}: {value}" for name, value in needed.items()) + "}"
