"""A ROS 2 node of the ``rclpy`` that is installed, for message packages and middlewares that only it has."""

from __future__ import annotations

import array
import importlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.plugins import MissingExtra
from chunkwise.transports._ros2 import MalformedMessage, OnFault, OnMessage, Publisher, Qos, Ros2Error, Settings
from chunkwise.transports._ros2.domain import domain_of, loopback_of
from chunkwise.transports._ros2.names import node_name, topic_name
from chunkwise.transports._ros2.names import type_name as full_type


class RclpyNode:
    """One node, in a context of its own, and a thread that runs its callbacks.

    Types come from the installed packages; ``distro`` and ``messages`` of the settings are not asked.

    Args:
        settings: how it comes into the graph.

    Raises:
        MissingExtra: there is no ROS 2.
        Ros2Error: a setting is not what it must be.

    Attributes:
        name: in the graph.
    """

    def __init__(self, settings: Settings) -> None:
        node = node_name(settings.name)
        self.name = f"/{node}"
        self._max_bytes = settings.max_bytes
        if settings.loopback is not None and settings.loopback != loopback_of(Settings()):
            raise Ros2Error("rclpy takes loopback from the environment alone: set ROS_LOCALHOST_ONLY=1, or 0")
        try:
            self._rclpy: Any = importlib.import_module("rclpy")
            self._qos: Any = importlib.import_module("rclpy.qos")
            executors: Any = importlib.import_module("rclpy.executors")
            contexts: Any = importlib.import_module("rclpy.context")
            self._coding: Any = importlib.import_module("rclpy.serialization")
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"{error.name} is not installed: source /opt/ros/<distribution>/setup.bash in the shell, with a "
                "Python of that distribution; or use the api dds, which needs pip install 'chunkwise[ros2]'"
            ) from error
        self._context = contexts.Context()
        self._rclpy.init(args=[], context=self._context, domain_id=domain_of(settings, os.environ))
        try:
            self._node = self._rclpy.create_node(node, context=self._context)
            self._executor = executors.SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
        except BaseException:
            self._context.shutdown()
            raise
        self._asked: dict[str, tuple[str, Qos]] = {}
        self._thread: threading.Thread | None = threading.Thread(
            target=self._executor.spin, name=f"ros2 {self.name}", daemon=True
        )
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
        made = _class(kind)

        def take(data: bytes) -> None:
            time_ns = time.monotonic_ns()
            try:
                if len(data) > self._max_bytes:
                    raise MalformedMessage(f"a {kind} of {len(data)} bytes; at most {self._max_bytes} are taken")
                try:
                    message = self._coding.deserialize_message(data, made)
                except Exception as error:  # RMWError, RuntimeError: as the middleware has it
                    raise MalformedMessage(f"no {kind} in {len(data)} bytes: {error}") from error
                on_message(message, time_ns)
            except InterfaceValidationError as error:
                if on_fault is not None:
                    on_fault(MalformedMessage(f"{name}: {error}"))

        self._require_open()
        self._asked[name] = kind, qos
        self._node.create_subscription(made, name, take, self._profile(qos), raw=True)

    def publisher(self, topic: str, type_name: str, *, qos: Qos = Qos()) -> Publisher:  # noqa: B008  frozen
        name, kind = topic_name(topic), full_type(type_name)
        self._require_open()
        return _Writer(self._node.create_publisher(_class(kind), name, self._profile(qos)), kind)

    def silence(self, topic: str) -> str:
        name = topic_name(topic)
        self._require_open()
        if name not in self._asked:
            return f"nobody here listens to {name}"
        kind, qos = self._asked[name]
        found = self._node.get_publishers_info_by_topic(name)
        for end in found:
            if end.topic_type != kind:
                return f"{name} is published as {end.topic_type}, not {kind}"
            offered = Qos(end.qos_profile.reliability.name.lower(), end.qos_profile.durability.name.lower())
            if not qos.accepts(offered):
                return f"{name} is published with the QoS {offered}, which is less than {qos}: ask for less"
        return f"{name} has a publisher that is silent" if found else f"nobody publishes {name}"

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._executor.shutdown()
        if thread is not threading.current_thread():
            thread.join()
        self._node.destroy_node()
        self._context.shutdown()

    def _profile(self, qos: Qos) -> Any:
        policy = self._qos
        return policy.QoSProfile(
            reliability=policy.ReliabilityPolicy[qos.reliability.upper()],
            durability=policy.DurabilityPolicy[qos.durability.upper()],
            history=policy.HistoryPolicy.KEEP_LAST,
            depth=qos.depth,
        )

    def _require_open(self) -> None:
        if self._thread is None:
            raise ConnectionError(f"{self.name} has left the graph")


class _Writer:
    """One publisher."""

    def __init__(self, publisher: Any, kind: str) -> None:
        self._publisher, self._kind = publisher, kind

    def publish(self, fields: Any) -> None:
        self._publisher.publish(message_of(self._kind, fields))

    def listeners(self) -> int:
        return int(self._publisher.get_subscription_count())


def message_of(kind: str, given: Any) -> Any:
    """A message of an installed package, from its fields as a mapping or as attributes.

    Arrays go in as whole arrays: the setters of ROS 2 look at every element of a list.

    Raises:
        Ros2Error: a field that the type does not have, or a value that does not fit.
    """
    message = _class(kind)()
    kinds: Mapping[str, str] = message.get_fields_and_field_types()
    if not isinstance(given, Mapping):
        given = {key: getattr(given, key) for key in kinds if hasattr(given, key)}
    for key, value in given.items():
        if key not in kinds:
            raise Ros2Error(f"{kind} has no field {key!r}{nearest(key, kinds)}; there are: {', '.join(kinds)}")
        try:
            setattr(message, key, _value(getattr(message, key), kinds[key], value))
        except (AssertionError, TypeError, ValueError, OverflowError) as error:
            raise Ros2Error(f"{kind}.{key}: {error}") from error
    return message


def _value(empty: Any, kind: str, given: Any) -> Any:
    """A value as a field wants it, whose empty value is given."""
    if hasattr(empty, "get_fields_and_field_types"):
        return message_of(kind, given)
    if isinstance(empty, array.array):
        if isinstance(given, (bytes, bytearray, memoryview)):
            given = np.frombuffer(given, empty.typecode)
        return array.array(empty.typecode, np.ascontiguousarray(given, empty.typecode).tobytes())
    if isinstance(empty, np.ndarray):
        return np.asarray(given, empty.dtype)
    if isinstance(empty, list):
        inner = kind.removeprefix("sequence<").partition(",")[0].rstrip(">").partition("[")[0]
        items = given.tolist() if isinstance(given, np.ndarray) else given  # truths must be Python's own
        return [message_of(inner, item) if "/" in inner else item for item in items]
    return type(empty)(given)


def _class(kind: str) -> Any:
    package, _, name = full_type(kind).split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise Ros2Error(f"no message type {kind!r} in the ROS 2 that is installed; build and source it") from error
