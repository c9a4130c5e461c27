"""A body behind the robot's own topics: joints that follow their targets, sensors that say where they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.processing.igris import IgrisFileError
from chunkwise.robots._igris import messages
from chunkwise.robots._igris.body import Body, Publication
from chunkwise.robots._igris.bus import Bus
from chunkwise.robots._igris.eyes import Seen
from chunkwise.robots._igris.topics import Subscription, Topics

Array = NDArray[np.float64]
FOLLOW_S = 0.05
"""The time constant of a joint: it covers 63 % of the way to its target in this time."""


class SimulatedBody:
    """Joints of the first order: ``q += (target - q) * (1 - exp(-dt / FOLLOW_S))``.

    It listens to the topics that commands go to, and publishes every topic of the topics file, in the order that
    the file's slices say.  The same commands at the same times give the same motion.

    Args:
        body: what it is made of.
        topics: what it publishes; all of its fields must be positions or currents of the body.
        bus: where.
        clock: time [s]; also that of its stamps.

    Raises:
        IgrisFileError: the topics file has a field that this body does not have.

    Attributes:
        position, target: by component.
        silent: labels of topics that it does not publish, as if their sensor were dead.
    """

    def __init__(self, body: Body, topics: Topics, bus: Bus, clock: Callable[[], float]) -> None:
        self._body, self._topics, self._bus, self._clock = body, topics, bus, clock
        self._sources = {part.state: (part.spec.name, "position") for part in body.parts}
        self._sources |= {part.current: (part.spec.name, "current") for part in body.parts if part.current}
        for key, (item, _) in topics.rules().items():
            if key not in self._sources:
                raise IgrisFileError(
                    f"{topics.where}: topics.{item.label}: the simulated {body.name} has no {key}; it has "
                    f"{', '.join(self._sources)}"
                )
        self.position: dict[str, Array] = {}
        for part in body.parts:
            lower = -np.inf if part.spec.lower is None else np.asarray(part.spec.lower)
            upper = np.inf if part.spec.upper is None else np.asarray(part.spec.upper)
            self.position[part.spec.name] = np.clip(np.zeros(part.spec.dof), lower, upper)
        self.target = dict(self.position)
        self.silent: set[str] = set()
        self._at_s = 0.0

    def connect(self) -> None:
        """Listen from now on."""
        self._at_s = self._clock()
        for publication in self._body.publications:
            self._listen(publication)

    def advance(self) -> None:
        """Move on to what the clock shows, and publish."""
        now = self._clock()
        self.step(max(now - self._at_s, 0.0))
        self._at_s = now

    def step(self, seconds: float) -> None:
        """Move for so long, and publish."""
        share = 1 - math.exp(-seconds / FOLLOW_S)
        for name, target in self.target.items():
            self.position[name] = self.position[name] + share * (target - self.position[name])
        for item in self._topics.subscriptions:
            if item.label not in self.silent:
                self._bus.publish(item.topic, item.msg_type, self._message(item))

    def _listen(self, publication: Publication) -> None:
        def take(message: Any) -> None:
            row = np.asarray(getattr(message, publication.attr), dtype=np.float64)
            at = 0
            for name in publication.components:
                stop = at + len(self.target[name])
                self.target[name] = row[at:stop]
                at = stop

        self._bus.subscribe(self._body.topic(publication, self._topics), publication.msg_type, take)

    def _message(self, item: Subscription) -> Any:
        """The message whose fields, read by their rules, are the body's."""
        message = messages.TYPES[item.msg_type]()
        rows: dict[str, Array] = {}
        for key, rule in item.fields.items():
            if key not in self._sources:  # for a recorder, no part of an observation
                continue
            name, what = self._sources[key]
            value = self.position[name] if what == "position" else self.target[name] - self.position[name]
            stop = rule.stop or len(value)
            row = rows.get(rule.path, np.zeros(0))
            rows[rule.path] = np.concatenate([row, np.zeros(max(stop - len(row), 0))])
            rows[rule.path][rule.start : stop] = value
        for path, row in rows.items():
            setattr(message, path, row)
        if hasattr(message, "header"):
            seconds = self._clock()
            whole = math.floor(seconds)
            message.header.stamp = messages.Time(whole, round((seconds - whole) * 1e9))
        return message


class SimulatedEyes:
    """Cameras without a device: grey, each with a bright bar that moves one pixel with every picture.

    Args:
        names: of the cameras.
        height, width: of their pictures [pixels].
        clock: time [s].
    """

    def __init__(self, names: tuple[str, ...], height: int, width: int, clock: Callable[[], float]) -> None:
        self._names, self._size, self._clock, self._count = names, (height, width), clock, 0

    def start(self) -> None:
        self._count = 0

    def newest(self) -> dict[str, Seen]:
        time_ns, made = round(1e9 * self._clock()), {}
        for index, name in enumerate(self._names):
            picture = np.full((*self._size, 3), 96 + 16 * (index % 8), dtype=np.uint8)
            picture[:, self._count % self._size[1]] = 255
            made[name] = Seen(picture, time_ns)
        self._count += 1
        return made

    def problems(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...
