"""A ROS 2 graph within the process, of nodes that publish to one another; messages are coded as for DDS."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from chunkwise.server.topics import TopicEngine
from chunkwise.transports._ros2 import OnFault, OnMessage, Qos
from chunkwise.transports._ros2.inference_topics import InferenceTopics
from chunkwise.transports._ros2.types import Types
from chunkwise.wires._variants import message_texts

PATIENCE_S = 20.0
TYPES = Types(texts=message_texts("ibrobot_msgs"))


class Graph:
    """Topics, and who is at them.

    Attributes:
        sent: every message, as (topic, its bytes).
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.readers: dict[str, list[Any]] = {}
        self.kept: dict[str, Any] = {}
        self.sent: list[tuple[str, bytes]] = []

    def node(self, name: str = "node") -> GraphNode:
        """A node that nobody has joined with yet."""
        return GraphNode(self, name)


class GraphNode:
    """One node; what is published arrives before `publish` returns."""

    def __init__(self, graph: Graph, name: str) -> None:
        self._graph, self.name, self.closed = graph, f"/{name}", False

    def subscribe(
        self,
        topic: str,
        type_name: str,
        on_message: OnMessage,
        *,
        qos: Qos = Qos(),  # noqa: B008  frozen
        on_fault: OnFault | None = None,
    ) -> None:
        with self._graph.lock:
            self._graph.readers.setdefault(topic, []).append((self, on_message, on_fault))
            kept = self._graph.kept.get(topic)
        if kept is not None and qos.durability == "transient_local":
            on_message(TYPES.decode(type_name, kept), time.monotonic_ns())

    def publisher(self, topic: str, type_name: str, *, qos: Qos = Qos()) -> GraphPublisher:  # noqa: B008  frozen
        return GraphPublisher(self._graph, self, topic, type_name, qos)

    def silence(self, topic: str) -> str:
        return f"nobody publishes {topic}"

    def close(self) -> None:
        self.closed = True
        with self._graph.lock:
            for readers in self._graph.readers.values():
                readers[:] = [reader for reader in readers if reader[0] is not self]


class GraphPublisher:
    """One topic of a node."""

    def __init__(self, graph: Graph, node: GraphNode, topic: str, kind: str, qos: Qos) -> None:
        self._graph, self._node, self._topic, self._kind, self._qos = graph, node, topic, kind, qos

    def publish(self, fields: Any) -> None:
        if self._node.closed:
            raise ConnectionError(f"{self._node.name} has left the graph")
        data = TYPES.encode(self._kind, fields)
        with self._graph.lock:
            self._graph.sent.append((self._topic, data))
            if self._qos.durability == "transient_local":
                self._graph.kept[self._topic] = data
            readers = list(self._graph.readers.get(self._topic, ()))
        for _, on_message, _ in readers:
            on_message(TYPES.decode(self._kind, data), time.monotonic_ns())

    def listeners(self) -> int:
        with self._graph.lock:
            return len(self._graph.readers.get(self._topic, ()))


class Running:
    """An engine on a loop of its own.

    Attributes:
        said: its lines.
        network: what it runs, once it is loaded.
    """

    def __init__(self, graph: Any, make: Callable[[], Any], **options: Any) -> None:
        self.said: list[str] = []
        self.network: Any = None

        def made() -> Any:
            self.network = make()
            return self.network

        self.engine = TopicEngine(
            made, InferenceTopics(), node=graph.node("engine"), say=self.said.append, **options
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self.engine.start())

    def run(self, doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(PATIENCE_S)

    def loaded(self) -> Running:
        async def wait() -> None:
            await self.engine.loaded

        self.run(wait())
        return self

    def hold_the_loop(self) -> threading.Event:
        """Let nothing happen on the loop, until the event is set."""
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(PATIENCE_S)

        self._loop.call_soon_threadsafe(hold)
        assert held.wait(PATIENCE_S)
        return go

    def on_loop(self, do: Callable[[], Any]) -> Any:
        async def doing() -> Any:
            return do()

        return self.run(doing())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.run(self.engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
