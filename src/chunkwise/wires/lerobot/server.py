"""The server's half: one for every call; what lasts longer is in the wire, by the robot's connection.

============================  ==================================================================================
``Ready``                     a robot begins; answered once the policy is loaded.  Of one that is known, an
                              episode begins.
``SendPolicyInstructions``    its names are checked against the policy's; what it wants loaded is not
``SendObservations``          kept, in the place of the one before it; whoever waits for actions goes on
``GetActions``                the policy's answer to the newest observation that was not answered yet; nothing,
                              where none comes or the policy fails
============================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest
from chunkwise.wires import (
    NO_SPEC,
    Call,
    Fetch,
    Hello,
    HttpRequest,
    HttpResponse,
    Infer,
    Offer,
    Park,
    Poke,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    Status,
    Trouble,
    WireError,
)
from chunkwise.wires._grpc import Code, messages_of, response, status
from chunkwise.wires.lerobot import SERVICE, LeRobot
from chunkwise.wires.lerobot.messages import MAX_STEP, read_observation, read_setup, write_actions
from chunkwise.wires.lerobot.protobuf import joined, payload, payload_of
from chunkwise.wires.lerobot.robots import Asked, Match, Names

FPS: Final = 30.0
MAX_PEER: Final = 128
MAX_TOKEN: Final = 4096
CODES: Final = {
    Trouble.MALFORMED: Code.INVALID_ARGUMENT,
    Trouble.UNAUTHORISED: Code.UNAUTHENTICATED,
    Trouble.BUSY: Code.RESOURCE_EXHAUSTED,
    Trouble.SUPERSEDED: Code.ABORTED,
    Trouble.DEADLINE: Code.DEADLINE_EXCEEDED,
    Trouble.CANCELLED: Code.CANCELLED,
    Trouble.POLICY_FAILED: Code.INTERNAL,
    Trouble.DRAINING: Code.UNAVAILABLE,
}
"""Statuses of problems; FAILED_PRECONDITION for every other."""
EMPTY: Final = response(b"")


class LeRobotServer:
    """The server's end of one call.

    Args:
        wire: with the options, and what is remembered of every robot.
    """

    def __init__(self, wire: LeRobot) -> None:
        self._wire = wire
        self._names = Names(wire.cameras, wire.joints, wire.actions, wire.degrees)
        self._peer = self._token = ""
        self._asked: Asked | None = None
        self._then: Callable[[], None] = lambda: None

    def opened(self, offer: Offer, now_s: float) -> HttpResponse | None:
        """Nothing: the client speaks first."""
        self._learn(offer)
        return None

    def receive(self, data: HttpRequest, now_s: float) -> Sequence[Call]:
        """What a call asks for.

        Raises:
            WireError: it is none of the protocol; its farewell says why.
        """
        with _told():
            if not isinstance(data, HttpRequest):
                raise WireError("a call must come as a request")
            return self._calls(data)

    def fetched(self, call: Fetch, content: memoryview | Problem, now_s: float) -> Sequence[Call]:
        """Never: no request is in a file.

        Raises:
            WireError: always.
        """
        raise WireError("the lerobot wire asks for no file")

    def resumed(self, call: Park, now_s: float) -> Sequence[Call]:
        """An observation has come, or the time is over."""
        return [self._infer() or Reply(EMPTY)]

    def answer(self, call: Call, result: Result, now_s: float) -> HttpResponse | None:
        """The response to a call.

        Raises:
            WireError: what the call brought is none of the protocol, or does not fit; its farewell says why.
        """
        if isinstance(call, Infer):
            return self._actions(result)
        if isinstance(result, Problem):
            return _refused(result)
        if isinstance(result, Offer):
            self._learn(result)
            if isinstance(call, Hello):
                return self._greeted(result)
            with _told():
                self._then()
        return EMPTY

    def _learn(self, offer: Offer) -> None:
        if offer.policy is not None:
            self._wire.policy = offer.policy

    # The methods ----------------------------------------------------------------------------------------------

    def _calls(self, request: HttpRequest) -> Sequence[Call]:
        self._peer, self._token = request.peer[:MAX_PEER] or "somebody", _token(request)
        messages = messages_of(request.body)
        match request.path.removeprefix(SERVICE):
            case "SendObservations":  # which is read once it is known who sends it
                self._then = lambda: self._observed(messages)
                return [Status(token=self._token), Poke(self._peer)]
            case "GetActions":
                _one(messages)
                return [self._infer() or Park(self._peer, self._wire.park_s)]
            case "Ready":
                _one(messages)
                return [self._ready()]
            case "SendPolicyInstructions":
                message = _one(messages)
                self._then = lambda: self._introduced(payload_of(message))
                return [Status(token=self._token)]
            case method:
                return [Reply(status(Code.UNIMPLEMENTED, f"no method {method[:200]!r}"))]

    def _ready(self) -> Call:
        robot = self._wire.known(self._peer)
        robot.forget()
        if robot.greeted:
            return Reset(session=self._peer, token=self._token)
        return Hello(session=self._peer, token=self._token, wait=True, keyed=True)

    def _greeted(self, offer: Offer) -> HttpResponse:
        if offer.readiness is not Readiness.READY:
            return status(Code.FAILED_PRECONDITION, f"{offer.readiness}: {offer.detail}")
        self._wire.robot(self._peer).greeted = True
        return EMPTY

    def _introduced(self, data: memoryview) -> None:
        policy, setup = self._wire.policy, read_setup(data)
        if policy is not None and setup.joints is not None:
            Match.of(policy, setup.joints, setup.cameras or (), setup.actions, self._names)
        self._wire.robot(self._peer).setup = setup

    def _observed(self, messages: Sequence[memoryview]) -> None:
        policy = self._wire.policy
        seen = read_observation(joined(messages, self._wire.max_bytes))
        if policy is None:
            raise WireError(f"the policy is not loaded yet, or {NO_SPEC.removeprefix('the policy ')}")
        robot = self._wire.robot(self._peer)
        match = robot.match(policy, seen, self._names)
        robot.show(Asked(seen._replace(images={}), match.frame(seen), match))
        self._wire.keep(robot)

    def _infer(self) -> Infer | None:
        """The newest observation as a request; None where all were answered."""
        robot = self._wire.known(self._peer)
        asked = self._asked = robot.forget()
        if asked is None:
            return None
        robot.requests += 1
        request = ChunkRequest(asked.seen.timestep, id=robot.requests)
        return Infer(1, asked.frame, request, session=self._peer, token=self._token)

    # What is answered -----------------------------------------------------------------------------------------

    def _actions(self, result: Result) -> HttpResponse:
        """The chunk as the robot's actions; nothing, as the protocol has no errors here, where there is none."""
        asked = self._asked
        if isinstance(result, Problem) and result.kind is Trouble.UNAUTHORISED:
            return _refused(result)
        if asked is None or not isinstance(result, ActionChunk):
            return EMPTY
        robot = self._wire.known(self._peer)
        robot.greeted = True
        if result.rows.shape[1] != len(asked.match.columns):
            return EMPTY
        rows = asked.match.rows(result.rows[: robot.setup.per_chunk or len(result.rows)])
        if not (np.abs(rows) < np.finfo(np.float32).max).all():
            return EMPTY
        period_s = 1 / (self._wire.fps or asked.match.policy.control_hz or FPS)
        first, timestep = result.first_step, asked.seen.timestep
        first = timestep if first is None else first
        if not 0 <= first <= MAX_STEP:
            return EMPTY
        timestamp = asked.seen.timestamp + (first - timestep) * period_s
        return response(payload(write_actions(asked.seen.module, rows, first, timestamp, period_s)))


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong is told to the robot, too."""
    try:
        yield
    except WireError as error:
        raise WireError(str(error), status(Code.INVALID_ARGUMENT, str(error))) from error


def _refused(problem: Problem) -> HttpResponse:
    code = CODES.get(problem.kind, Code.FAILED_PRECONDITION)
    return status(code, f"{problem.kind}: {problem.text}")


def _one(messages: Sequence[memoryview]) -> memoryview:
    if len(messages) != 1:
        raise WireError(f"the call has {len(messages)} messages, needs one")
    return messages[0]


def _token(request: HttpRequest) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        return ""
    if len(token) > MAX_TOKEN:
        raise WireError(f"authorization has more than {MAX_TOKEN} letters")
    return token.strip()
