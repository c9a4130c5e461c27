"""The client's half: a stock LeRobot policy server as a policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.wires import (
    Answered,
    Event,
    Failed,
    HttpRequest,
    HttpResponse,
    Offer,
    Problem,
    Readiness,
    Sending,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires._grpc import Code, code_of, messages_of, request
from chunkwise.wires.lerobot import SERVICE, LeRobot
from chunkwise.wires.lerobot.messages import MODULE, Seen, read_actions, write_observation, write_setup
from chunkwise.wires.lerobot.protobuf import payload, payload_of, sliced
from chunkwise.wires.lerobot.robots import SUFFIX

TROUBLES: Final = {
    Code.INVALID_ARGUMENT: Trouble.MALFORMED,
    Code.UNAUTHENTICATED: Trouble.UNAUTHORISED,
    Code.FAILED_PRECONDITION: Trouble.MISMATCH,
    Code.RESOURCE_EXHAUSTED: Trouble.BUSY,
    Code.ABORTED: Trouble.SUPERSEDED,
    Code.DEADLINE_EXCEEDED: Trouble.DEADLINE,
    Code.CANCELLED: Trouble.CANCELLED,
}
"""What a status says; everything else is the policy's failure."""
SHAPE: Final = (480, 640, 3)
"""Announced of a camera whose pictures were not seen yet; stock servers read the camera's name only."""


class LeRobotClient:
    """The client's end: the calls of the stock robot client, one after the other.

    Args:
        wire: with the options.

    Attributes:
        spec: as the options say; the server does not.
        robot: what is driven, once that is known.
    """

    lockstep = True
    patient = True

    def __init__(self, wire: LeRobot) -> None:
        self._wire = wire
        self.spec = _spec(wire)
        self.robot: RobotSpec | None = None
        self._greeted = False
        self._introduced: tuple[str, ...] | None = None
        self._expected: deque[tuple[str, int, int]] = deque()  # what is answered next: method, call, step

    def opening(self) -> Sending | None:
        """``Ready``; then, where it is known what is driven, ``SendPolicyInstructions``, at which servers load."""
        if not self._greeted:
            return Sending(self._call("Ready", 0))
        joints = self._announced()
        if joints and joints != self._introduced:
            return Sending(self._introduce(0, joints, dict.fromkeys(self._cameras(), SHAPE)))
        return None

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        """``SendObservations``, and ``GetActions`` once that was answered.

        Raises:
            InterfaceValidationError: the frame lacks what is to be sent.
        """
        numbers = self._numbers(frame)
        shown = self._wire.cameras or {name: name for name in frame.images}
        gone = [ours for ours in shown.values() if ours not in frame.images]
        if gone:
            raise InterfaceValidationError(
                f"the frame has no image {gone[0]!r}; the option cameras says what is sent"
            )
        images = {theirs: frame.images[ours] for theirs, ours in shown.items()}
        calls = []
        if self._introduced != tuple(numbers):
            calls.append(
                self._introduce(id, tuple(numbers), {name: image.shape for name, image in images.items()})
            )
        prompt = frame.task.get("prompt") or self._wire.task
        step = request.request_step
        task = prompt if isinstance(prompt, str) else ""
        seen = Seen(MODULE, frame.timestamp_ns / 1e9, max(step, 0), True, numbers, images, task)
        calls.append(self._call("SendObservations", id, step, sliced(write_observation(seen))))
        calls.append(self._call("GetActions", id, step))
        return Sending(calls)

    def reset(self, id: int) -> Sending | None:
        """``Ready`` again: what the server kept is of an episode that is over."""
        return Sending(self._call("Ready", id))

    def receive(self, data: HttpResponse, now_s: float) -> Sequence[Event]:
        """What the server answered to a call.

        Raises:
            WireError: an answer to nothing, or none of the protocol.
        """
        if not self._expected:
            raise WireError("an answer to nothing")
        method, id, step = self._expected.popleft()
        code, text = code_of(data)
        if code:
            self._expected.clear()
            if method == "SendPolicyInstructions":
                self._introduced = None
            trouble = TROUBLES.get(code, Trouble.POLICY_FAILED)  # type: ignore[call-overload]
            return [Failed(id, Problem(trouble, f"{method}: {text or code}"))]
        messages = messages_of(data.body)
        if len(messages) != 1:
            raise WireError(f"{method} was answered with {len(messages)} messages")
        if method == "GetActions":
            return [_chunk(payload_of(messages[0]), id, step)]
        if id:
            return [Answered(id, None)] if method == "Ready" else []
        if method == "Ready":
            self._greeted = True
        more = method == "Ready" and bool(self._announced())
        return [Welcome(Offer(Readiness.LOADING if more else Readiness.READY, "it is told what it drives"))]

    def _call(self, method: str, id: int, step: int = 0, messages: Iterable[bytes] = (b"",)) -> HttpRequest:
        self._expected.append((method, id, step))
        return request(SERVICE + method, messages)

    def _introduce(self, id: int, joints: tuple[str, ...], cameras: Mapping[str, tuple[int, ...]]) -> HttpRequest:
        wire, self._introduced = self._wire, joints
        setup = write_setup(joints, cameras, wire.actions_per_chunk, wire.behind)
        return self._call("SendPolicyInstructions", id, 0, [payload(setup)])

    # Names ----------------------------------------------------------------------------------------------------

    def _states(self) -> dict[str, list[str]]:
        """States that are sent, with the names of their joints; none where nobody has said yet."""
        if self._wire.states:
            return _named(self._wire)
        parts = [] if self.robot is None else self.robot.components
        return {part.name: part.names(part.dof) for part in parts}

    def _announced(self) -> tuple[str, ...]:
        """The names of the numbers that are sent, as far as that is known without a frame."""
        return self._spelt(self._states())

    def _spelt(self, states: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        chosen = list(self._wire.joints)
        every = [name for names in states.values() for name in names]
        if chosen:
            if len(chosen) != len(every):
                raise InterfaceValidationError(
                    f"joints has {len(chosen)} names, the states have {len(every)} numbers"
                )
            return tuple(chosen)
        once = {name for name in every if every.count(name) == 1}
        found = [name if name in once else f"{key}.{name}" for key, names in states.items() for name in names]
        return tuple(name if name.endswith(SUFFIX) else name + SUFFIX for name in found)

    def _cameras(self) -> list[str]:
        return list(self._wire.cameras or ([] if self.robot is None else self.robot.image_keys))

    def _numbers(self, frame: Frame) -> dict[str, float]:
        states = self._states()
        if not states:
            states = {key: [f"{key}.{index}" for index in range(value.size)] for key, value in frame.state.items()}
        values: list[float] = []
        for key, names in states.items():
            value = frame.state.get(key)
            if value is None or value.shape != (len(names),) or not np.isfinite(value).all():
                raise InterfaceValidationError(f"state {key!r} must hold {len(names)} finite numbers")
            values += value.astype(np.float64).tolist()
        return dict(zip(self._spelt(states), values, strict=True))


def _chunk(data: memoryview, id: int, step: int) -> Event:
    if not len(data):
        text = "the server answered no actions: it has none, or an error that only its own log says"
        return Failed(id, Problem(Trouble.POLICY_FAILED, text))
    first, rows = read_actions(data)
    if first != max(step, 0):
        return Failed(id, Problem(Trouble.SUPERSEDED, f"the actions are for step {first}, asked was {step}"))
    return Answered(id, ActionChunk(rows))


def _named(wire: LeRobot) -> dict[str, list[str]]:
    """States of the options, with the names of their joints: our names where the option joints has them."""
    ours, found = list(wire.joints.values()), {}
    for key, dim in wire.states.items():
        mine, ours = ours[:dim], ours[dim:]
        found[key] = [name.removeprefix(f"{key}.") for name in mine] or [f"{key}.{index}" for index in range(dim)]
    return found


def _spec(wire: LeRobot) -> PolicySpec | None:
    """What the options say of the policy behind the server."""
    if not wire.outputs:
        return None
    named = _named(wire) if wire.joints else {}
    outputs = [
        PolicyOutputSpec(part.target, part.command, part.dim, names=named.get(part.target, []))
        for part in wire.outputs
    ]
    return PolicySpec(
        "lerobot",
        list(wire.cameras.values()),
        list(wire.states),
        outputs=outputs,
        state_names=named,
        action_horizon=wire.actions_per_chunk,
        control_hz=wire.fps,
    )
