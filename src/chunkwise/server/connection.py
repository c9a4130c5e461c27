"""One connection of one wire: calls to the service, results back."""

from __future__ import annotations

import hmac
import itertools
import mmap
import os
import secrets
import stat
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chunkwise.server.inference import Refused
from chunkwise.server.metrics import Metrics
from chunkwise.server.service import Service
from chunkwise.server.session import Session
from chunkwise.transports import Peer
from chunkwise.transports._memory import SharedMemory
from chunkwise.wires import (
    Cancel,
    Fetch,
    Hello,
    Infer,
    Leave,
    Observe,
    Park,
    Played,
    Poke,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    ServerHalf,
    Share,
    Shared,
    Status,
    Trouble,
    WireError,
)

_numbers = itertools.count(1)
MAX_CALLS_HZ = 2000.0
"""Messages per second of one connection, of any kind, on average over a second."""
GREETING_S = 10.0
"""Where a token is needed, whoever has not shown it after so long is let go."""


class WireConnection:
    """What feeds a wire's server half and does what its calls say.

    Args:
        service: the policy and its sessions.
        wire: name of the wire, for logs and metrics.
        half: of this connection.
        peer: the other end.
        metrics: counts.
        guarded: whether this listener demands the token.
    """

    def __init__(
        self,
        service: Service,
        wire: str,
        half: ServerHalf[Any, Any],
        peer: Peer,
        metrics: Metrics,
        guarded: bool,
    ) -> None:
        self._service, self._wire, self._peer = service, wire, peer
        self._half: Any = half
        self._metrics, self._guarded = metrics, guarded and bool(service.settings.token)
        self._number = next(_numbers)
        self._session: Session | None = None
        self._named = False
        self._greeted = not self._guarded
        self._memory: SharedMemory | None = None
        self._gone = False
        self._allowance, self._counted_s = MAX_CALLS_HZ, 0.0

    # Of the transport -----------------------------------------------------------------------------------------

    def opened(self) -> None:
        self._metrics.connections.labels(self._wire).inc()
        self._service.say(
            "connected", level="debug", wire=self._wire, peer=self._peer.name, connection=self._number
        )
        if not self._greeted:
            self._service.loop.call_later(GREETING_S, self._end_ungreeted)
        self._send(self._half.opened(self._service.offer(), self._service.clock()))

    def _end_ungreeted(self) -> None:
        if not self._greeted and not self._gone:
            self._peer.close()

    def received(self, data: Any) -> None:
        self._guard(lambda: self._half.receive(data, self._service.clock()))

    def _guard(self, calls: Callable[[], Iterable[Any]]) -> None:
        """Do what the calls say; who does not speak the protocol is let go."""
        try:
            for call in calls():
                self._take(call)
        except WireError as error:
            self._metrics.refused.labels(self._wire).inc()
            self._service.say("refused", wire=self._wire, peer=self._peer.name, error=str(error))
            self._send(error.farewell)
            self._peer.close()
        except Exception as error:  # noqa: BLE001  a fault of ours ends this connection, and no other
            self._fault(error)
            self._peer.close()

    def lost(self, why: str) -> None:
        if self._gone:
            return
        self._gone = True
        self._metrics.connections.labels(self._wire).dec()
        session, self._session = self._session, None
        if session is not None:
            self._service.leave(self._wire, session, self._number, forget=not self._named)
        memory, self._memory = self._memory, None
        self._half = None  # it looks at the shared memory, and what is in a cycle is let go late
        if memory is not None:
            memory.close()
        self._service.say("left", level="debug", wire=self._wire, connection=self._number, why=why)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers of a request show the token, where one is needed; who does not is told so."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        call = Status(token=token.strip() if kind.lower() == "bearer" else "")
        try:
            self._authorise(call.token)
        except Refused as refused:
            self._refuse(call, refused.problem)
            return False
        return True

    # Calls ----------------------------------------------------------------------------------------------------

    def _take(self, call: Any) -> None:
        try:
            take = _TAKES.get(type(call))
            if take is None:
                raise WireError(f"a server cannot {type(call).__name__}")
            self._admit()
            take(self, call)
        except WireError:
            raise
        except Refused as refused:
            self._refuse(call, refused.problem)
        except Exception as error:  # noqa: BLE001  a fault of ours, or of the policy's, is no reason to hang up
            self._fault(error)
            self._send_result(call, Problem(Trouble.POLICY_FAILED, f"{type(error).__name__}: {error}"[:2000]))

    def _refuse(self, call: Any, problem: Problem) -> None:
        self._metrics.count(self._wire, problem)
        self._send_result(call, problem)
        if problem.kind in (Trouble.UNAUTHORISED, Trouble.MISMATCH):
            self._service.say("refused", wire=self._wire, peer=self._peer.name, error=problem.text)
            if isinstance(call, Hello):
                self._peer.close()

    def _admit(self) -> None:
        """Count a call of any kind.

        Raises:
            WireError: there were too many in the last second.
        """
        now_s = self._service.clock()
        self._allowance = min(self._allowance + (now_s - self._counted_s) * MAX_CALLS_HZ, MAX_CALLS_HZ)
        self._counted_s = now_s
        if self._allowance < 1:
            raise WireError(f"more than {MAX_CALLS_HZ:g} messages per second")
        self._allowance -= 1

    def _fault(self, error: Exception) -> None:
        where = "".join(traceback.format_exception(error)[-2:])
        self._service.say("fault_of_ours", wire=self._wire, peer=self._peer.name, error=where)

    def _reply(self, call: Reply) -> None:
        self._send(call.data)

    def _leave(self, call: Leave) -> None:
        self._peer.close()

    def _hello(self, call: Hello) -> None:
        self._authorise(call.token)
        offer = self._service.offer()
        if call.wait and offer.readiness is Readiness.LOADING:
            self._service.loaded.add_done_callback(lambda loaded: None if self._gone else self._take(call))
            return
        if offer.readiness in ("loading", "failed"):
            self._send_result(call, offer)
            return
        robot = call.robot
        if robot is not None and self._service.check(robot):
            robot = None  # who knows the policy's spec binds by itself, and its frames are in the policy's words
        session = self._service.session(self._wire, call.session, robot, call.expects)
        if not call.keyed:
            self._adopt(session)
            self._named = bool(call.session)
        self._send_result(call, self._service.offer(session))

    def _status(self, call: Status) -> None:
        self._authorise(call.token)
        self._send_result(call, self._service.offer(self._session))

    def _infer(self, call: Infer) -> None:
        session = self._session_of(call)
        session.admit(self._service.clock())
        if call.robot is not None:
            session.bind(call.robot)
        limit_s = self._service.settings.inference_timeout_s
        deadline_s = limit_s if call.deadline_s is None else min(call.deadline_s, limit_s)
        session.infer(call, self._finisher(call, session), deadline_s, self._number)

    def _observe(self, call: Observe) -> None:
        session = self._session_of(call)
        session.admit(self._service.clock())
        player = self._service.player(session)
        player.observe(call, self._service.clock(), self._finisher(call, session))

    def _reset(self, call: Reset) -> None:
        session = self._session_of(call)
        session.admit(self._service.clock())
        session.reset(self._finisher(call, session))

    def _cancel(self, call: Cancel) -> None:
        if self._session is not None:
            self._session.cancel(call.target, self._number)

    def _share(self, call: Share) -> None:
        if self._session is None or not self._peer.local:
            raise Refused(Problem(Trouble.MISMATCH, "memory is shared on one host only, after HELLO"))
        if self._memory is not None:
            raise Refused(Problem(Trouble.BUSY, "this connection has its shared memory"))
        try:
            self._memory = SharedMemory(call.size)
        except OSError as error:
            raise Refused(Problem(Trouble.BUSY, f"no shared memory: {error}")) from error
        memory = self._memory
        self._send_result(call, Shared(memory.path, memory.nonce, memory.buffer))

    def _fetch(self, call: Fetch) -> None:
        content: memoryview | Problem
        try:
            content = map_file(call.path, call.max_bytes)
        except (OSError, ValueError) as error:
            content = Problem(Trouble.MALFORMED, f"{call.path!r:.200}: {error}")
        for further in self._half.fetched(call, content, self._service.clock()):
            self._take(further)

    def _park(self, call: Park) -> None:
        half: Any = self._half

        def resumed() -> None:
            if not self._gone:
                self._guard(lambda: half.resumed(call, self._service.clock()))

        self._service.park((self._wire, call.key), call.seconds, resumed)

    def _poke(self, call: Poke) -> None:
        self._service.poke((self._wire, call.key))

    # Their results --------------------------------------------------------------------------------------------

    def _finisher(self, call: Any, session: Session) -> Callable[[Any], None]:
        request_id = f"{session.name}/{self._number}/{call.id}"
        began_s = self._service.clock()

        def finished(result: Result) -> None:
            self._metrics.served(self._wire, self._service.clock() - began_s, result)
            if isinstance(result, Problem):
                details = {"request": request_id, "kind": result.kind, "error": result.text}
                self._service.say("problem", wire=self._wire, **details)
            elif isinstance(result, Played) and result.faults:
                self._service.say("fault", wire=self._wire, request=request_id, faults=list(result.faults))
            else:
                self._service.say("answered", level="debug", wire=self._wire, request=request_id)
            self._send_result(call, result)

        return finished

    def _send_result(self, call: Any, result: Result) -> None:
        if not self._gone:
            self._send(self._half.answer(call, result, self._service.clock()))

    def _send(self, data: Any) -> None:
        if data is not None and not self._gone:
            self._peer.send(data)

    # Sessions -------------------------------------------------------------------------------------------------

    def _authorise(self, token: str) -> None:
        if self._greeted:
            return
        if not hmac.compare_digest(token.encode(), self._service.settings.token.encode()):
            text = "no token, or another one" if token else "this listener needs a token"
            raise Refused(Problem(Trouble.UNAUTHORISED, text))
        self._greeted = True

    def _session_of(self, call: Any) -> Session:
        """The session that a call belongs to: of its key, or of the connection."""
        self._authorise(getattr(call, "token", ""))
        if self._service.readiness is Readiness.DRAINING:
            raise Refused(Problem(Trouble.DRAINING, "the server is about to stop"))
        key = getattr(call, "session", "")
        if key:
            return self._service.session(self._wire, key, getattr(call, "robot", None))
        if self._session is None:
            name = f"{self._number}-{secrets.token_hex(4)}"
            self._adopt(self._service.session(self._wire, name, getattr(call, "robot", None)))
        assert self._session is not None
        return self._session

    def _adopt(self, session: Session) -> None:
        if self._session is session:
            return
        if self._session is not None:
            self._service.leave(self._wire, self._session, self._number, forget=True)
        self._session = session
        session.owners += 1


_TAKES: dict[type, Callable[[WireConnection, Any], None]] = {
    Reply: WireConnection._reply,
    Leave: WireConnection._leave,
    Hello: WireConnection._hello,
    Status: WireConnection._status,
    Infer: WireConnection._infer,
    Observe: WireConnection._observe,
    Reset: WireConnection._reset,
    Cancel: WireConnection._cancel,
    Share: WireConnection._share,
    Park: WireConnection._park,
    Poke: WireConnection._poke,
    Fetch: WireConnection._fetch,
}


def map_file(path: str, max_bytes: int) -> memoryview:
    """A regular file, mapped and not copied; readable even after it was deleted.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, empty, or larger than `max_bytes`.
    """
    if "\0" in path or not os.path.isabs(path):
        raise ValueError("not an absolute path")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if not 0 < status.st_size <= max_bytes:
            raise ValueError(f"{status.st_size} bytes; 1 to {max_bytes} are read")
        return memoryview(mmap.mmap(fd, status.st_size, prot=mmap.PROT_READ))
    finally:
        os.close(fd)
