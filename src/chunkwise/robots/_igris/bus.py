"""Topics: whoever publishes a message reaches everybody who has subscribed; here within one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from chunkwise.contract import RobotFailed

Callback = Callable[[Any], None]


class Bus(Protocol):
    """The port: what a robot needs of a middleware with topics.

    Commands are to arrive (reliable, in order, a queue of ten), of sensors only the newest counts.
    """

    def subscribe(self, topic: str, msg_type: str, callback: Callback) -> None:
        """Call `callback` with every message of a topic from now on; from any thread."""
        ...

    def publish(self, topic: str, msg_type: str, message: Any) -> None:
        """Send one message, without waiting for anybody."""
        ...

    def close(self) -> None:
        """Call nobody any more.  Twice is fine."""
        ...


class InProcessBus:
    """Topics within one process: publishing calls every subscriber before it returns, so nothing is kept.

    Attributes:
        published: topic -> how many messages it has had.
    """

    def __init__(self) -> None:
        self._types: dict[str, str] = {}
        self._callbacks: dict[str, list[Callback]] = {}
        self.published: dict[str, int] = {}

    def subscribe(self, topic: str, msg_type: str, callback: Callback) -> None:
        self._agree(topic, msg_type)
        self._callbacks.setdefault(topic, []).append(callback)

    def publish(self, topic: str, msg_type: str, message: Any) -> None:
        self._agree(topic, msg_type)
        if type(message).__name__ != msg_type:
            raise RobotFailed(f"{topic} is of {msg_type}, and the message a {type(message).__name__}")
        self.published[topic] = self.published.get(topic, 0) + 1
        for callback in self._callbacks.get(topic, ()):
            callback(message)

    def close(self) -> None:
        self._callbacks = {}

    def _agree(self, topic: str, msg_type: str) -> None:
        if self._types.setdefault(topic, msg_type) != msg_type:
            raise RobotFailed(f"{topic} is of {self._types[topic]}, not of {msg_type}")
