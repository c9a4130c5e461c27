"""A robot behind the protocol: what is remembered of it, and how its names and the policy's go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import Frame, PolicySpec, nearest
from chunkwise.contract.values import Array
from chunkwise.wires import WireError
from chunkwise.wires.lerobot.messages import IMAGES, Seen, Setup

MAX_SIDE: Final = 8192
SUFFIX: Final = ".pos"
"""LeRobot's robots say ``shoulder_pan.pos`` where others say ``shoulder_pan``."""


class Asked(NamedTuple):
    """An observation, made ready.

    Attributes:
        seen: as it was sent, without its images.
        frame: for the policy.
        match: by which it was made.
    """

    seen: Seen
    frame: Frame
    match: Match


@dataclass(slots=True)
class Robot:
    """What is remembered of a robot between its calls.

    Attributes:
        greeted: it has a session already.
        setup: how it introduced itself.
        newest: the observation that nobody asked actions for yet.
        requests: how many there were.
    """

    greeted: bool = False
    setup: Setup = field(default_factory=Setup)
    newest: Asked | None = None
    requests: int = 0
    kept_bytes: int = 0
    _match: tuple[Any, Match] | None = None

    def match(self, policy: PolicySpec, seen: Seen, names: Names) -> Match:
        """How its names and the policy's go together; the same object for the same names.

        Raises:
            WireError: they do not.
        """
        key = self.setup, tuple(seen.numbers), tuple(seen.images)
        if self._match is None or self._match[1].policy is not policy or self._match[0] != key:
            joints = self.setup.joints or tuple(seen.numbers)
            gone = [name for name in joints if name not in seen.numbers]
            if gone:
                raise WireError(f"joint {gone[0]!r} was announced, and is not in the observation")
            self._match = key, Match.of(policy, joints, tuple(seen.images), self.setup.actions, names)
        return self._match[1]

    def show(self, asked: Asked) -> None:
        """Remember what it sees now, in the place of what it saw before."""
        self.newest = asked
        self.kept_bytes = sum(image.nbytes for image in asked.frame.images.values())

    def forget(self) -> Asked | None:
        """What it saw last, which is forgotten."""
        asked, self.newest, self.kept_bytes = self.newest, None, 0
        return asked


class Names(NamedTuple):
    """Options about names.

    Attributes:
        cameras, joints: theirs -> ours.
        actions: order of the robot's actions; empty for that of its state.
        degrees: whether its joints are in degrees.
    """

    cameras: Mapping[str, str]
    joints: Mapping[str, str]
    actions: tuple[str, ...]
    degrees: bool


@dataclass(slots=True, frozen=True)
class Match:
    """How a robot's names and a policy's go together.

    Attributes:
        policy: its spec.
        states: state -> the robot's names of its joints, in the policy's order.
        units: state -> the policy's numbers for one of the robot's.
        cameras: camera of the policy -> of the robot.
        columns: ``(width,)``: column ``j`` of the robot's actions is column ``columns[j]`` of the policy's.
        scale: ``(width,)``: the robot's numbers for one of the policy's.
    """

    policy: PolicySpec
    states: dict[str, list[str]]
    units: dict[str, Array]
    cameras: dict[str, str]
    columns: NDArray[np.intp]
    scale: Array

    @classmethod
    def of(
        cls,
        policy: PolicySpec,
        joints: Sequence[str],
        cameras: Sequence[str],
        actions: Sequence[str] | None,
        names: Names,
    ) -> Match:
        """Bind by name.

        Args:
            policy: its spec.
            joints: what the robot measures, in its order.
            cameras: what it sees with.
            actions: the order of its actions, where it says so.
            names: the options.

        Raises:
            WireError: a name that one needs the other lacks; each is named.
        """
        problems: list[str] = []
        spelt = _Spelling(policy, names.joints, problems)
        states = spelt.states(joints, problems)
        units = {key: np.array([spelt.unit(key, names.degrees)] * len(theirs)) for key, theirs in states.items()}
        seen = _cameras(policy, cameras, names.cameras, problems)
        order = names.actions or actions
        columns = spelt.columns(order or joints, order is not None and len(order) > 0, problems)
        if problems:
            raise WireError(f"policy {policy.name!r} does not fit the robot: " + "; ".join(problems)[:3000])
        scales = [np.full(output.dim, 1 / spelt.unit(output.target, names.degrees)) for output in policy.outputs]
        scale = np.concatenate(scales)[columns]
        return cls(policy, states, units, seen, np.array(columns, np.intp), scale)

    def frame(self, seen: Seen) -> Frame:
        """An observation as a frame in the policy's words and joint order.

        Raises:
            WireError: a camera's picture is none.
        """
        numbers = seen.numbers
        state = {
            key: np.array([numbers[name] for name in theirs], np.float64) * self.units[key]
            for key, theirs in self.states.items()
        }
        images = {ours: _picture(seen.images[theirs], theirs) for ours, theirs in self.cameras.items()}
        task = {"prompt": seen.task} if seen.task else {}
        whole = int(seen.timestamp) if 0 < seen.timestamp < 1 << 33 else 0
        nanoseconds = whole * 10**9 + round((seen.timestamp - whole) * 1e9) if whole else 0
        meta = {"must_go": seen.must_go}
        return Frame(images, state, task, meta, timestamp_ns=nanoseconds, sequence_id=seen.timestep)

    def rows(self, rows: Array) -> Array:
        """The policy's rows ``(n, width)`` in the order and the units of the robot's actions."""
        return rows[:, self.columns] * self.scale


class _Spelling:
    """The ways in which a robot may write the policy's joints.

    ``joint`` where only one of the policy's is called so, ``component_joint``, ``component.joint``,
    ``component.number``, and ``component`` for the only joint of one; each with or without ``.pos``.
    """

    def __init__(self, policy: PolicySpec, renamed: Mapping[str, str], problems: list[str]) -> None:
        self._policy = policy
        self._theirs = {ours: theirs for theirs, ours in renamed.items()}
        keys = dict.fromkeys(
            [*policy.required_state_keys, *policy.state_names, *(o.target for o in policy.outputs)]
        )
        self._keys = {key: self._named(key) for key in keys}
        every = [name for joints in self._keys.values() for name in joints]
        self._once = {name for name in every if every.count(name) == 1}
        known = {*self._once, *(f"{key}.{name}" for key, joints in self._keys.items() for name in joints)}
        unknown = [f"{name!r}{nearest(name, known)}" for name in self._theirs if name not in known]
        if unknown:
            problems.append(f"option joints: the policy has no {', '.join(unknown)}, or more than one")

    def unit(self, key: str, degrees: bool) -> float:
        """The policy's numbers for one of the robot's."""
        output = self._policy.get_output(key)
        angle = output is not None and output.command.startswith("joint") and output.unit in ("rad", "rad/s")
        return math.pi / 180 if degrees and angle else 1.0

    def states(self, joints: Sequence[str], problems: list[str]) -> dict[str, list[str]]:
        """The robot's names of each state's joints; a state without names takes those that are left over."""
        found: dict[str, list[str]] = {}
        unnamed = []
        for key in dict.fromkeys([*self._policy.required_state_keys, *self._policy.state_names]):
            if self._keys[key]:
                found[key] = list(self._found(key, self._keys[key], joints, f"state {key!r}", problems))
            else:
                unnamed.append(key)
        for key in unnamed[:1]:
            taken = {name for names in found.values() for name in names}
            found[key] = [name for name in joints if name not in taken]
            if not found[key]:
                problems.append(f"state {key!r}: the robot measures nothing")
        if len(unnamed) > 1:
            problems.append(
                f"states {', '.join(unnamed)}: the policy names no joints, so nobody knows whose is whose"
            )
        return found

    def columns(self, order: Sequence[str], said: bool, problems: list[str]) -> list[int]:
        """The policy's column for each of the robot's actions.

        Args:
            order: the actions, or what the robot measures where it does not say more.
            said: whether it is the actions.
            problems: what does not fit is added.
        """
        outputs = self._policy.outputs
        width = self._policy.action_dim
        if not any(self._keys[output.target] for output in outputs):
            moved = [name for name in order if said or name.endswith(SUFFIX)] or order
            if len(moved) != width:
                problems.append(f"the policy commands {width} numbers and names none, the robot has {len(moved)}")
            return list(range(width))
        theirs: dict[str, int] = {}
        column = 0
        for output in outputs:
            names = self._keys[output.target] or [str(index) for index in range(output.dim)]
            for name in self._found(output.target, names, order, f"output {output.target!r}", problems):
                theirs[name] = column
                column += 1
        idle = [name for name in order if name not in theirs and (said or name.endswith(SUFFIX))]
        if idle and not problems:
            problems.append(f"the policy commands no {idle[0]!r}; the robot's actions hold it")
        return [theirs[name] for name in order if name in theirs]

    def _named(self, key: str) -> list[str]:
        """The policy's names of a state's or an output's joints; none where it gives none."""
        output = self._policy.get_output(key)
        return list(self._policy.state_names.get(key) or (output.names if output is not None else ()))

    def _found(
        self, key: str, names: Sequence[str], offered: Sequence[str], where: str, problems: list[str]
    ) -> Iterator[str]:
        for index, name in enumerate(names):
            ways = self._ways(key, name, index, len(names))
            match = next((way for way in ways if way in offered), None)
            if match is None:
                there = ", ".join(offered)[:400] or "none"
                problems.append(f"{where}: joint {name!r} is missing{nearest(name, offered)}; there are: {there}")
            yield match or name

    def _ways(self, key: str, name: str, index: int, count: int) -> Iterable[str]:
        chosen = self._theirs.get(f"{key}.{name}") or (self._theirs.get(name) if name in self._once else None)
        if chosen is not None:
            return [chosen]
        plain = [name] if name in self._once else []
        plain += [f"{key}_{name}", f"{key}.{name}", f"{key}.{index}"] + ([key] if count == 1 else [])
        return [way for text in plain for way in (text, text + SUFFIX, text.removesuffix(SUFFIX))]


def _cameras(
    policy: PolicySpec, offered: Sequence[str], renamed: Mapping[str, str], problems: list[str]
) -> dict[str, str]:
    """The policy's cameras with the robot's."""
    chosen = {ours: theirs for theirs, ours in renamed.items()}
    found = {}
    problems += [
        f"option cameras: the policy reads no {ours!r}{nearest(ours, policy.required_image_keys)}"
        for ours in chosen
        if ours not in policy.required_image_keys
    ]
    for ours in policy.required_image_keys:
        theirs = chosen.get(ours, ours)
        if theirs not in offered and ours not in chosen:
            theirs = ours.removeprefix(IMAGES)
        if theirs not in offered:
            there = ", ".join(offered)[:400] or "none"
            problems.append(f"camera {theirs!r} is missing{nearest(theirs, offered)}; there are: {there}")
        found[ours] = theirs
    return found


def _picture(image: NDArray[Any], name: str) -> NDArray[Any]:
    """A picture, once it is known to be one; the policy's image rule is applied later.

    Raises:
        WireError: it is none.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        wanted = "(height, width, 3) or (height, width, 1)"
        raise WireError(f"camera {name!r}: a picture must be {wanted} uint8, is {image.dtype} {image.shape}")
    if not all(0 < side <= MAX_SIDE for side in image.shape[:2]):
        raise WireError(f"camera {name!r}: a picture has sides of 1 to {MAX_SIDE} pixels, not {image.shape[:2]}")
    return np.ascontiguousarray(image)
