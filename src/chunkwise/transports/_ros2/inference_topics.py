"""Where a robot and the engine of its policy's network meet in a ROS graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from chunkwise.contract import InterfaceValidationError
from chunkwise.options import chosen
from chunkwise.transports._ros2 import Api, Node, Qos, Settings, open_node
from chunkwise.wires._variants import message_texts

QOS: Final = Qos(depth=10)
"""What the original's nodes have: reliable, volatile."""
STATUS_QOS: Final = Qos("reliable", "transient_local", 1)
SCHEME: Final = "ros2"
STATUS_S: Final = 0.5
"""How often an engine says how it is."""

Peer = Literal["auto", "chunkwise", "original"]


@dataclass(frozen=True, slots=True)
class InferenceTopics:
    """Where a robot and an engine meet; both sides need the same.

    Attributes:
        input: the topic of requests.
        output: the topic of replies; beside it, ``OUTPUT/status``.
        domain: ROS domain; ``ROS_DOMAIN_ID`` without.
        loopback: this host only; ``ROS_LOCALHOST_ONLY`` without.
        node_name: in the graph.
        api: ``dds`` needs no ROS; ``rclpy`` uses the one that is installed; ``auto`` prefers it.
        distro: whose message types are spoken.
        package: that ``VariantsList`` belongs to.
        max_message_mb: larger messages are refused [MiB].
        engine: who answers: ``chunkwise``, ``original``, or ``auto``: who says nothing of itself is an original
            one.  Of the robot's side.
    """

    input: str = "/preprocessed/batch"
    output: str = "/inference/action"
    domain: int | None = None
    loopback: bool | None = None
    node_name: str = ""
    api: Api = "dds"
    distro: str = "jazzy"
    package: str = "ibrobot_msgs"
    max_message_mb: int = 64
    engine: Peer = "auto"

    def __post_init__(self) -> None:
        if self.max_message_mb < 1:
            raise InterfaceValidationError(f"max_message_mb must be above 0, got {self.max_message_mb}")
        if self.input == self.output:
            raise InterfaceValidationError(f"input and output are one topic, {self.input}")

    @classmethod
    def parse(cls, url: str) -> InferenceTopics:
        """The topics of ``ros2://?domain=0&input=/preprocessed/batch&output=/inference/action``.

        Raises:
            InterfaceValidationError: it is no such address.
            UsageError: an option that there is not, or a value of another type.

        >>> InferenceTopics.parse("ros2://?domain=7").domain
        7
        """
        parts = urlsplit(url)
        if parts.scheme != SCHEME or parts.netloc or parts.path not in ("", "/"):
            raise InterfaceValidationError(
                f"{url!r} is no address of topics; write ros2://?domain=0&input=TOPIC&output=TOPIC, or ros2://"
            )
        return cls(**chosen(cls, dict(parse_qsl(parts.query, keep_blank_values=True)), "network ros2"))

    @property
    def type_name(self) -> str:
        """The type of all messages."""
        return f"{self.package}/msg/VariantsList"

    @property
    def status(self) -> str:
        """The topic at which an engine of ours says how it is."""
        return f"{self.output}/status"

    def join(self, node_name: str) -> Node:
        """Join the graph.

        Args:
            node_name: where the topics say none.

        Raises:
            Ros2Error: a setting is not what it must be.
            MissingExtra: what it needs is not installed.
            OSError: there is no such network.
        """
        settings = Settings(
            self.node_name or node_name,
            self.domain,
            self.loopback,
            self.distro,
            message_texts(self.package),
            self.max_message_mb << 20,
        )
        return open_node(settings, self.api)
