"""What every wire keeps, as checks: inherit, say how yours is made, and run them with pytest.

Both halves of a connection talk to each other here, without a socket and without a clock: the answers are made
up, and time is a number that the checks let pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chunkwise.chunking import Plan
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    PolicyOutputSpec,
    PolicySpec,
    robot_for,
    robot_layout,
)
from chunkwise.contract.values import Array
from chunkwise.testing.policy import frame_of
from chunkwise.wires import (
    Answered,
    Failed,
    Fetch,
    Hello,
    HttpRequest,
    HttpResponse,
    Infer,
    Leave,
    Observe,
    Offer,
    Played,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    Sending,
    Status,
    Trouble,
    Welcome,
    Wire,
    WireError,
)

POLICY = PolicySpec(
    "two joints",
    ["head"],
    ["arm"],
    outputs=[PolicyOutputSpec("arm", "joint_position", 2, names=["a", "b"])],
    state_names={"arm": ["a", "b"]},
)
"""What is behind a server whose client does not know it beforehand."""
STREAMS = {"tcp", "unix"}
"""Transports that move bytes; the others move messages, each of them whole."""
MOST_BYTES = 1 << 30
"""A stream without sense is given up before this."""
TRIES = 5
_numbers = itertools.count(1)


class WireConformance:
    """What every wire keeps.

    ::

        class TestMine(WireConformance):
            def make_wire(self) -> Wire:
                return Mine()

    The frame that is asked with holds what the client's spec reads; a wire that needs more overrides
    :meth:`make_frame`.
    """

    def make_wire(self) -> Wire:
        """The wire under test; override this."""
        raise NotImplementedError("override make_wire()")

    def make_frame(self, policy: PolicySpec) -> Frame:
        """An observation for the policy behind the wire."""
        frame = frame_of(robot_for(policy), policy.required_task_keys)
        for number, name in enumerate(sorted(frame.state), 1):
            frame.state[name] = frame.state[name] + 0.01 * number
        frame.task.setdefault("prompt", "put the block on the post")
        return frame

    def test_is_a_wire(self) -> None:
        wire = self.make_wire()
        assert wire.transports and all(isinstance(name, str) for name in wire.transports), (
            "a wire names the transports that can carry it"
        )
        assert wire.server() is not wire.server(), "each connection gets a server half of its own"
        assert wire.client() is not wire.client(), "each connection gets a client half of its own"

    def test_a_request_gets_its_chunk(self) -> None:
        talk = self._talk()
        for value in (0.1, 0.2):
            chunk = talk.chunk(value)
            assert np.allclose(chunk.rows, talk.sent, atol=1e-5), (
                "the rows of the answer are those that the server gave"
            )

    def test_what_the_robot_saw_arrives(self) -> None:
        talk = self._talk()
        frame = self.make_frame(talk.policy)
        call, _ = talk.asked(frame)
        seen = call.frame if call.complete is None else call.complete()
        for output in talk.policy.outputs:
            if output.target in frame.state:
                assert output.target in seen.state, f"the state of {output.target!r} arrives"
                assert np.allclose(seen.state[output.target], frame.state[output.target], atol=1e-5), (
                    f"the state of {output.target!r} arrives as it was"
                )
        for name, image in frame.images.items():
            assert name in seen.images and seen.images[name].shape == image.shape, f"the image {name!r} arrives"

    def test_a_problem_is_no_chunk(self) -> None:
        for kind in Trouble:
            talk = self._talk()
            talk.chunk(0.1)
            frame = self.make_frame(talk.policy)
            call, id = talk.asked(frame)
            events = talk.told(call, Problem(kind, "so it is"))
            assert len(events) == 1, f"{kind}: a call is answered once, not {len(events)} times"
            held = _answered(events)
            if held is not None:  # a protocol that must answer rows answers those that move nothing
                stands = np.concatenate([frame.state[output.target] for output in talk.policy.outputs])
                assert np.allclose(held.rows, stands, atol=1e-5), f"{kind}: a problem is never told as a motion"
                continue
            assert isinstance(events[0], Failed), f"{kind}: a problem is told as one"
            assert events[0].id in (id, None), f"{kind}: a problem is told of the call that has it"
            assert events[0].problem.text, f"{kind}: a problem says something"

    def test_pieces_do_not_matter(self) -> None:
        whole, pieces = self._talk(), self._talk()
        pieces.piece = 1
        if not whole.streams:
            return
        for value in (0.1, 0.2):
            assert np.array_equal(whole.chunk(value).rows, pieces.chunk(value).rows), (
                "what arrives byte by byte is what arrives at once"
            )

    def test_what_arrives_is_copied(self) -> None:
        talk = self._talk()
        if not talk.streams:
            return
        talk.chunk(0.1)
        frame = self.make_frame(talk.policy)
        talk.scramble = True
        call, _ = talk.asked(frame)
        for name, value in call.frame.state.items():
            assert np.allclose(value, frame.state.get(name, value), atol=1e-5), (
                "a buffer of the transport may be written again as soon as receive() has ended"
            )
        chunk = _answered(talk.told(call, talk.result(call, 0.3)))
        assert chunk is None or np.allclose(chunk.rows, talk.sent, atol=1e-5), (
            "a buffer of the transport may be written again as soon as receive() has ended"
        )

    def test_connections_share_nothing(self) -> None:
        wire = self.make_wire()
        one, two = self._talk(wire), self._talk(wire)
        if not one.streams:
            return
        message = one.written(one.client.ask(1, self.make_frame(one.policy), ChunkRequest(0, id=1), None))
        one.received(message[: len(message) // 2])
        assert np.allclose(two.chunk(0.2).rows, two.sent, atol=1e-5), "half a message of one client is no other's"
        call = one.call(one.received(message[len(message) // 2 :]))
        assert isinstance(call, (Infer, Observe)), "the other half of a message completes it"

    def test_answers_find_their_calls(self) -> None:
        talk = self._talk()
        if talk.client.lockstep:
            return
        first, one = talk.asked()
        second, two = talk.asked()
        later = talk.told(second, talk.result(second, 0.2))
        earlier = talk.told(first, talk.result(first, 0.1))
        assert [event.id for event in (*later, *earlier)] == [two, one], (
            "answers in another order are told with the numbers of their calls, or the client is lockstep"
        )

    def test_an_episode_ends(self) -> None:
        talk = self._talk()
        talk.chunk(0.1)
        sending = talk.client.reset(99)
        if sending is None:
            talk.now_s += 60.0
            call, _ = talk.asked()
            assert call.reset, "where a reset has no message, the next request says it"
            return
        call = talk.call(talk.said(sending))
        assert isinstance(call, Reset), "a reset arrives as one"
        assert talk.told(call, None) == [Answered(99, None)], "a reset is answered with no chunk"

    def test_nonsense_is_refused(self) -> None:
        draw = np.random.default_rng(0)
        talk = self._talk()
        request = talk.client.ask(1, self.make_frame(talk.policy), ChunkRequest(0, id=1), None)
        for _ in range(100):
            fresh = self._talk(talk.wire)
            try:
                fresh.taken(_spoiled(fresh.written(request), draw))
            except (WireError, _Ended):
                pass
            except Exception as error:
                raise AssertionError(f"a request without sense is a WireError, not {error!r}") from error
        for _ in range(100):
            fresh = self._talk(talk.wire)
            call, _ = fresh.asked()
            answer = fresh.server.answer(call, fresh.result(call, 0.1), fresh.now_s)
            try:
                fresh.client.receive(_spoiled(answer, draw), fresh.now_s)
            except WireError:
                pass
            except Exception as error:
                raise AssertionError(f"an answer without sense is a WireError, not {error!r}") from error

    def test_a_stream_without_end_is_refused(self) -> None:
        talk = self._talk()
        if not talk.streams:
            return
        for half, name in ((talk.server, "server"), (talk.client, "client")):
            piece, sent = b" " * (1 << 20), 0
            try:
                while sent < MOST_BYTES:
                    half.receive(piece, talk.now_s)
                    sent += len(piece)
            except WireError:
                continue
            raise AssertionError(f"the {name} half takes bytes without sense for ever")

    def _talk(self, wire: Wire | None = None) -> _Talk:
        return _Talk(wire or self.make_wire(), self.make_frame)


class _Ended(Exception):
    """The server half wanted the connection to end."""


class _Talk:
    """One connection: both halves, and what a server would do between them.

    Attributes:
        policy: that is behind the server.
        piece: how many bytes of a stream arrive at once.
        scramble: whether buffers are written again after they were received.
        now_s: the time at both ends.
        sent: float64 ``(width,)``, every row that the server answered last.
    """

    sent: Array

    def __init__(self, wire: Wire, make_frame: Callable[[PolicySpec], Frame]) -> None:
        self.wire, self._make_frame = wire, make_frame
        self.server, self.client = wire.server(), wire.client()
        self.streams = bool(STREAMS & set(wire.transports))
        self.piece, self.scramble, self.now_s, self._id = 1 << 30, False, 1000.0, 0
        self.policy = self.client.spec or POLICY
        self._files: dict[str, bytes] = {}
        self._peer = f"client {next(_numbers)}"
        first = self.server.opened(self._offer(), self.now_s)
        if first is not None:
            self.client.receive(first, self.now_s)
        opening = self.client.opening()
        if opening is not None:
            call = self.call(self.said(opening))
            assert isinstance(call, (Hello, Status)), f"a client opens with a greeting, not with {call}"
            (welcome,) = self.told(call, self._offer())
            assert isinstance(welcome, Welcome), "a greeting is answered with a welcome"
            self.policy = self.client.spec or POLICY

    def _offer(self) -> Offer:
        return Offer(Readiness.READY, "", self.policy, "conformance", "0")

    def asked(self, frame: Frame | None = None) -> tuple[Any, int]:
        """A request that the server half took, and its number."""
        self._id += 1
        request = ChunkRequest(10 * self._id, id=self._id)
        sending = self.client.ask(self._id, frame or self._make_frame(self.policy), request, None)
        call = self.call(self.said(sending))
        assert isinstance(call, (Infer, Observe)), f"a request arrives as Infer or Observe, not as {call}"
        return call, self._id

    def chunk(self, value: float) -> ActionChunk:
        """A chunk whose rows have this value; asked for again where the protocol answers "not yet"."""
        for _ in range(TRIES):
            call, id = self.asked()
            events = self.told(call, self.result(call, value))
            assert [getattr(event, "id", None) for event in events] == [id], (
                "a call is answered once, by its number"
            )
            chunk = _answered(events)
            if chunk is not None:
                return chunk
            self.now_s += 1.0
        raise AssertionError(f"a request is answered with a chunk; {TRIES} were not: {events}")

    def result(self, call: Any, value: float) -> Result:
        """What a server answers: every number `value`, or as near as the robot's limits let it be."""
        row = np.full(self.policy.action_dim, value)
        if call.robot is not None:
            slots = robot_layout(call.robot).slots
            row = np.concatenate([np.clip(np.full(slot.dim, value), slot.lower, slot.upper) for slot in slots])
        rows = np.tile(row, (max(getattr(call, "rows", 0), 16), 1))
        rows.flags.writeable = False
        self.sent = row
        if isinstance(call, Infer):
            return ActionChunk(rows, meta={"server_s": 0.001})
        plan, hz = Plan(0, rows, self._id, 0), call.control_hz or 50.0
        ahead = rows[: call.rows] if call.rows else None
        return Played(rows[0], False, plan, 0, hz, True, call.reset, (), ahead)

    def said(self, sending: Sending) -> Sequence[Any]:
        """The calls in what the client says."""
        return self.received(self.written(sending))

    def written(self, sending: Sending) -> Any:
        """What goes over the connection, in one piece; the files are there from now on."""
        self._files = {path: b"".join(map(bytes, pieces)) for path, pieces in sending.files.items()}
        pieces = sending.data if isinstance(sending.data, list) else []
        several = any(isinstance(piece, HttpRequest) for piece in pieces)
        return b"".join(pieces) if pieces and not several else sending.data

    def received(self, data: Any) -> Sequence[Any]:
        """The calls in what arrived at the server, which must understand it."""
        try:
            return self.taken(data)
        except WireError as error:
            raise AssertionError(f"the server half does not understand the client half: {error}") from error

    def taken(self, data: Any) -> Sequence[Any]:
        """The calls in what arrived at the server; of several requests, those in the last one."""
        if isinstance(data, list):
            for request in data[:-1]:
                self._served(request)
            return self.taken(data[-1])
        if isinstance(data, HttpRequest):
            self.server, data = self.wire.server(), replace(data, peer=self._peer)
        calls: list[Any] = []
        for call in self._fed(self.server, data):
            if isinstance(call, Leave):
                raise _Ended
            if isinstance(call, Fetch) and call.path in self._files:
                calls += self.server.fetched(call, memoryview(self._files[call.path]), self.now_s)
            else:
                calls.append(call)
        return calls

    def _served(self, request: Any) -> None:
        """Answer a request that comes before the one that matters."""
        for call in self.taken(request):
            greeting = isinstance(call, (Hello, Status))
            answer = call.data if isinstance(call, Reply) else None
            answer = self.server.answer(call, self._offer(), self.now_s) if greeting else answer
            if answer is not None:
                self.client.receive(answer, self.now_s)

    def _fed(self, half: Any, data: Any) -> list[Any]:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            return list(half.receive(data, self.now_s))
        found: list[Any] = []
        for at in range(0, len(data), self.piece):
            buffer = bytearray(data[at : at + self.piece])
            found += half.receive(memoryview(buffer), self.now_s)
            if self.scramble:
                buffer[:] = b"\xff" * len(buffer)
        return found

    @staticmethod
    def call(calls: Sequence[Any]) -> Any:
        """The one call."""
        assert len(calls) == 1, f"one message is one call, not {len(calls)}: {calls}"
        return calls[0]

    def told(self, call: Any, result: Result) -> list[Any]:
        """What the client hears of a result."""
        data = self.server.answer(call, result, self.now_s)
        assert data is not None, f"a {type(call).__name__} is answered"
        try:
            return self._fed(self.client, data)
        except WireError as error:
            raise AssertionError(f"the client half does not understand the server half: {error}") from error


def _answered(events: Sequence[Any]) -> ActionChunk | None:
    """The chunk in what the client heard; None where it heard of a problem."""
    for event in events:
        if isinstance(event, Answered):
            assert event.chunk is not None, "a request is answered with a chunk"
            return event.chunk
    return None


def _spoiled(data: Any, draw: np.random.Generator) -> Any:
    """The same with some bytes changed, lost or added."""
    if isinstance(data, list):
        return [_spoiled(item, draw) for item in data]
    if isinstance(data, HttpRequest):
        return HttpRequest(data.method, data.path, data.query, data.headers, _spoiled(data.body, draw), data.peer)
    if isinstance(data, HttpResponse):
        return HttpResponse(data.status, _spoiled(data.body, draw), data.content_type, data.headers)
    made = bytearray(data)
    for _ in range(int(draw.integers(1, 8))):
        at = int(draw.integers(0, len(made) + 1))
        change = draw.integers(0, 4)
        if change == 0:
            made[at : at + 1] = draw.bytes(1)
        elif change == 1:
            made[at:at] = draw.bytes(int(draw.integers(1, 20)))
        elif change == 2:
            del made[at : at + int(draw.integers(1, 20))]
        else:
            made[at:] = b""
    return bytes(made)
