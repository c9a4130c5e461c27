"""The topics JSON: which topic, of which type, holds which part of an observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from chunkwise.contract.errors import nearest
from chunkwise.processing.igris import IgrisFileError, Tree, read_json
from chunkwise.robots._igris.messages import TYPES
from chunkwise.robots._igris.rules import Rule, rule_of

PREFIX: Final = "/observation/"
"""What the keys of an observation begin with; other keys are for recorders, and no part of one."""
MAX_TOPICS: Final = 256
MAX_FIELDS: Final = 256


@dataclass(frozen=True, slots=True)
class Subscription:
    """One topic that is listened to.

    Attributes:
        label: its name in the file.
        topic: its name in the robot, taken as it stands.
        msg_type: a name in `messages.TYPES`.
        fields: key -> where it lies in the message.
    """

    label: str
    topic: str
    msg_type: str
    fields: dict[str, Rule]


@dataclass(frozen=True, slots=True)
class Topics:
    """What a topics file says.

    Attributes:
        robot_id: of this robot; it stands in the topics that commands go to.
        hz: [HZ] the rate that it is read at.
        subscriptions: in the file's order.
        where: the file's name, for messages.
    """

    robot_id: str
    hz: float
    subscriptions: tuple[Subscription, ...]
    where: str = "topics"

    def rules(self) -> dict[str, tuple[Subscription, Rule]]:
        """Every key of the observation -> its topic and rule."""
        return {
            key: (item, rule)
            for item in self.subscriptions
            for key, rule in item.fields.items()
            if key.startswith(PREFIX)
        }

    def need(self, key: str, columns: int, what: str) -> None:
        """Raise IgrisFileError where no topic has `key`, or has another number of columns for it."""
        rules = self.rules()
        if key not in rules:
            there = ", ".join(rules) or "none"
            raise IgrisFileError(
                f"{self.where}: no topic has {key} ({what}){nearest(key, rules)}; there are: {there}"
            )
        item, rule = rules[key]
        if rule.kind not in ("slice", "number") or (rule.columns or columns) != columns:
            raise IgrisFileError(
                f"{self.where}: topics.{item.label}: {key} is {rule.columns or rule.kind}, and {what} needs "
                f"{columns} numbers"
            )


def topics_of(data: bytes, where: str) -> Topics:
    """The content of an ``inference_runtime_topics.json``.

    Args:
        data: of the file.
        where: its name, for messages.

    Raises:
        IgrisFileError: it is no JSON, a key is unknown, missing or twice, or a value is not what it must be.
    """
    return topics_tree(read_json(data, where), where)


def topics_tree(value: object, where: str) -> Topics:
    """The same of the tree that stands in the file."""
    tree = Tree(value, where, ("robot_id", "HZ", "topics"))
    tree.require(("robot_id", "HZ", "topics"))
    robot_id = tree.text("robot_id", "the robot's name")
    if not all(part.isidentifier() for part in robot_id.split("/")):
        raise tree.wrong("robot_id", "must be a name as it may stand in a topic")
    below = Tree(tree.values["topics"], f"{where}: topics")
    if not 0 < len(below.values) <= MAX_TOPICS:
        raise IgrisFileError(f"{where}: topics must be 1 to {MAX_TOPICS}, got {len(below.values)}")
    made = tuple(_subscription(label, item, f"{where}: topics.{label}") for label, item in below.values.items())
    seen: dict[str, str] = {}
    for item in made:
        for key in item.fields:
            if key in seen:
                raise IgrisFileError(f"{where}: {key} stands in topics.{seen[key]} and in topics.{item.label}")
            seen[key] = item.label
    kinds: dict[str, str] = {}
    for item in made:
        if kinds.setdefault(item.topic, item.msg_type) != item.msg_type:
            raise IgrisFileError(f"{where}: {item.topic} is {kinds[item.topic]} and {item.msg_type}")
    return Topics(robot_id, tree.positive("HZ", 1000.0), made, where)


def _subscription(label: str, value: Any, where: str) -> Subscription:
    tree = Tree(value, where, ("topic", "msg_type", "fields"))
    tree.require(("topic", "msg_type", "fields"))
    topic, msg_type = tree.text("topic", "a topic"), tree.text("msg_type", "a message type")
    if any(not (part.isidentifier() or part == "") for part in topic.split("/")) or topic.endswith("/"):
        raise tree.wrong("topic", "must be names with / between them")
    if msg_type not in TYPES:
        raise IgrisFileError(
            f"{where}: msg_type {msg_type!r} is not one of {', '.join(TYPES)}{nearest(msg_type, TYPES)}"
        )
    fields = Tree(tree.values["fields"], f"{where}: fields")
    if not 0 < len(fields.values) <= MAX_FIELDS:
        raise IgrisFileError(f"{where}: fields must be 1 to {MAX_FIELDS}, got {len(fields.values)}")
    rules = {key: rule_of(rule, msg_type, f"{where}: fields.{key}") for key, rule in fields.values.items()}
    return Subscription(label, topic, msg_type, rules)
