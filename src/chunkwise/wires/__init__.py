"""The wire port: one protocol per file or folder, its two halves side by side; bytes to calls, results to bytes.

A wire does no I/O and has no clock: what arrived and the time of it go in, calls and what to send come out.  So
every protocol is tested byte by byte without a socket, and each half against the other.

Two kinds of protocol there are.  Where the *robot* schedules, it asks with :class:`Infer` and gets a chunk.  Where
the robot knows no chunks, or cannot say which row of one it runs, it only shows what it sees, with
:class:`Observe`; the server schedules for it, and answers from the running plan with :class:`Played`.

On the robot's side the same protocols make a foreign server a policy here: that is the client half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeVar

from chunkwise.chunking import Plan
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicySpec, RobotSpec
from chunkwise.contract.values import Array

Buffer = bytes | bytearray | memoryview


class WireError(InterfaceValidationError):
    """What a peer sent is not the protocol; the message says where.  The connection ends.

    Attributes:
        farewell: what the peer is sent before; None for nothing.
    """

    def __init__(self, text: str = "", farewell: Any = None) -> None:
        super().__init__(text)
        self.farewell = farewell


NO_SPEC: Final = (
    "the policy declares no spec, so nobody knows what it reads and commands; a checkpoint is served with "
    "--policy.state and --policy.actions, a policy of your own needs a PolicySpec"
)
"""What a client is told that cannot say itself what robot it drives."""


class Trouble(StrEnum):
    """Why there is no chunk, in the words that every wire uses."""

    MALFORMED = "malformed"  # the request itself is wrong
    UNAUTHORISED = "unauthorised"  # no token, or another one
    MISMATCH = "mismatch"  # robot and policy do not fit; the text names what
    LOADING = "loading"  # the policy is not ready yet
    BUSY = "busy"  # more sessions, or more requests per second, than are served
    SUPERSEDED = "superseded"  # a newer request of the same session took its place
    DEADLINE = "deadline"  # not answered in time
    CANCELLED = "cancelled"  # by the client
    POLICY_FAILED = "policy_failed"  # it raised, or answered what is no chunk
    DRAINING = "draining"  # the server is about to stop


class Problem(NamedTuple):
    """Why a call has no better result."""

    kind: Trouble
    text: str


@dataclass(slots=True, frozen=True)
class HttpRequest:
    """One HTTP request, whole.

    Attributes:
        method: ``GET``, ``POST`` ...
        path: without the query.
        query: what stands behind the question mark, decoded; of a name that is there twice, the last.
        headers: names in lower case.
        body: of at most the limit that the transport was given.
        peer: address of the other end.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""


@dataclass(slots=True, frozen=True)
class HttpResponse:
    """One HTTP response, whole."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


# What a server half finds in what it received -----------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Hello:
    """Somebody begins; answered with the :class:`Offer`, or a :class:`Problem` and the end.

    Attributes:
        session: the client's own name for itself; empty for one that the server makes up.
        token: the secret it showed; empty for none.
        robot: what it drives, where it says so: the server then checks that the policy fits.
        expects: the policy it counts on, where it does: the server refuses to be another one.
        id: number of the call, for the wire's own bookkeeping.
        wait: it is answered only once the policy is loaded, for protocols that know no "not yet".
        keyed: `session` is a key for protocols whose connections are no sessions.
    """

    session: str = ""
    token: str = ""
    robot: RobotSpec | None = None
    expects: PolicySpec | None = None
    id: int = 0
    wait: bool = False
    keyed: bool = False


@dataclass(slots=True, frozen=True)
class Infer:
    """Somebody asks for a chunk; answered with an :class:`ActionChunk` or a :class:`Problem`.

    Attributes:
        id: number of the call in its connection.
        frame: in the policy's words and its joint order (the client has bound it), or in those of `robot`.
        request: with the running plan, where the client shares it.
        deadline_s: seconds from now after which the answer is worth nothing; None for the server's limit.
        robot: what the frame is of, where the server has to bind it.
        session, token: a key and a secret for protocols whose connections are no sessions; empty elsewhere.
        reset: the first of an episode.
        complete: the frame with its images, where decoding them is work: called on another thread when it is
            this request's turn, in the place of `frame`; raises :class:`WireError` where an image is none.
    """

    id: int
    frame: Frame
    request: ChunkRequest
    deadline_s: float | None = None
    robot: RobotSpec | None = None
    session: str = ""
    token: str = ""
    reset: bool = False
    complete: Callable[[], Frame] | None = None


@dataclass(slots=True, frozen=True)
class Observe:
    """Somebody shows what it sees and wants to know what runs now; answered with :class:`Played` or a problem.

    Attributes:
        robot: what is observed, in the protocol's own component and camera names.
        frame: the state and the task, without the images.
        complete: the frame with its images.  Called only when a plan is made, on another thread; raises
            :class:`WireError` where an image cannot be decoded.
        control_hz: steps per second; None for the policy's.
        paced: each call is one control step of the robot's; else the clock says which step it is.
        patience_s: how long the answer may wait for the chunk that this observation asks for.
        reset: the first of an episode.
        session, token: a key and a secret for protocols whose connections are no sessions; empty elsewhere.
        id: number of the call in its connection.
        rows: how many rows of the plan the answer needs, each passed by the gate.
        lead_s: how much later than the answer the robot begins with the first of them.
        stale_s: an observation captured longer ago (wall clock, by its `timestamp_ns`) is not planned with;
            0 for no such limit.
    """

    robot: RobotSpec
    frame: Frame
    complete: Callable[[], Frame]
    control_hz: float | None = None
    paced: bool = False
    patience_s: float = 0.0
    reset: bool = False
    session: str = ""
    token: str = ""
    id: int = 0
    rows: int = 0
    lead_s: float = 0.0
    stale_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Reset:
    """An episode ends; answered with None once the next one may begin."""

    id: int = 0
    session: str = ""
    token: str = ""


@dataclass(slots=True, frozen=True)
class Cancel:
    """The answer to call `target` is no longer wanted; it is answered as cancelled.  No answer of its own."""

    target: int


@dataclass(slots=True, frozen=True)
class Status:
    """Somebody asks how things are; answered with the :class:`Offer` of the moment, at once."""

    id: int = 0
    session: str = ""
    token: str = ""


@dataclass(slots=True, frozen=True)
class Fetch:
    """The request is in a file that it names; the server opens it and hands it to :meth:`ServerHalf.fetched`.

    Attributes:
        path: absolute; only a regular file is opened, and it is never changed.
        max_bytes: a larger file is refused.
        id: number of the call in its connection.
    """

    path: str
    max_bytes: int
    id: int = 0


@dataclass(slots=True, frozen=True)
class Park:
    """The request waits for something that another connection brings; :meth:`ServerHalf.resumed` goes on.

    Attributes:
        key: what it waits for; a :class:`Poke` with the same key in any connection of the wire ends the wait.
        seconds: the longest wait.
        id: number of the call in its connection.
    """

    key: str
    seconds: float
    id: int = 0


@dataclass(slots=True, frozen=True)
class Poke:
    """Whoever is parked at this key goes on.  No answer."""

    key: str


@dataclass(slots=True, frozen=True)
class Share:
    """The client would put arrays into shared memory; answered with :class:`Shared` or a problem."""

    size: int
    id: int = 0


@dataclass(slots=True, frozen=True)
class Reply:
    """The answer is known already: send it."""

    data: Any


@dataclass(slots=True, frozen=True)
class Leave:
    """The connection ends, after what is to be sent was sent."""

    why: str = ""


Call = Hello | Infer | Observe | Reset | Cancel | Status | Fetch | Share | Park | Poke | Reply | Leave


# What a server half is given to answer with -------------------------------------------------------------------


class Readiness(StrEnum):
    """How a server is."""

    LOADING = "loading"
    READY = "ready"
    STALLED = "stalled"  # an inference runs for longer than is allowed
    FAILED = "failed"  # the policy did not load
    DRAINING = "draining"


@dataclass(slots=True, frozen=True)
class Offer:
    """What a server has, and how it is.

    Attributes:
        readiness: whether it answers.
        detail: a line for people.
        policy: the policy's spec; None while it loads, and for a policy that has none before its first answer.
        session: the name of the session.
        version: of the server.
    """

    readiness: Readiness
    detail: str = ""
    policy: PolicySpec | None = None
    session: str = ""
    version: str = ""


@dataclass(slots=True, frozen=True)
class Played:
    """What runs now, for a robot that the server schedules for.

    Attributes:
        row: float64 ``(width,)``, in the layout of the observed robot; it passed the gate.  None only where
            nothing is known that holds the robot.
        holding: whether that row only holds the robot: no chunk yet, or the plan ran dry.
        rows: float64 ``(n, width)``, as many as were asked for, from `lead_s` on, where a plan covers any of them:
            each passed the gate, counted from where the robot was observed; the last one repeats where the plan
            is shorter.  None where none was asked for, or there is no plan.
        plan: the running plan, whose rows have not passed the gate; None where there is none.
        step: the control step of the row.
        control_hz: steps per second.
        fresh: whether a chunk has joined the plan since the last answer.
        reset: whether this is the first answer of an episode.
        faults: what went wrong outside since the last answer, each as ``kind: detail``.
    """

    row: Array | None
    holding: bool
    plan: Plan | None
    step: int
    control_hz: float
    fresh: bool
    reset: bool
    faults: tuple[str, ...] = ()
    rows: Array | None = None


@dataclass(slots=True, frozen=True)
class Shared:
    """A piece of shared memory, for both ends.

    Attributes:
        path: where the client opens it.
        nonce: what the client finds in its last bytes if it is the same memory.
        buffer: the server's view of it.
    """

    path: str
    nonce: bytes
    buffer: memoryview


Result = Offer | ActionChunk | Played | Shared | Problem | None

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


class ServerHalf(Protocol[In, Out]):
    """The server's end of one connection.

    What goes in and out is bytes for a wire that is carried by a stream or by messages, and an
    :class:`HttpRequest` and :class:`HttpResponse` for one that is carried by HTTP.  Over a websocket the request
    that asks for it comes first, at both ends, and texts are text frames.
    """

    def opened(self, offer: Offer, now_s: float) -> Out | None:
        """What the server says first, before it was asked."""
        ...

    def receive(self, data: In, now_s: float) -> Sequence[Call]:
        """The calls in what arrived.  Of a stream, any piece; of messages and requests, one whole.

        Args:
            data: valid during the call only; what is kept must be copied.
            now_s: the server's monotonic clock [s].

        Raises:
            WireError: the peer does not speak the protocol.
        """
        ...

    def answer(self, call: Call, result: Result, now_s: float) -> Out | None:
        """What to send for the result of a call."""
        ...

    def fetched(self, call: Fetch, content: memoryview | Problem, now_s: float) -> Sequence[Call]:
        """The calls in the file that the wire asked for; the view stays valid for as long as it is kept.

        Only of halves that make :class:`Fetch`.
        """
        ...

    # A half that makes Park has ``resumed(call, now_s) -> Sequence[Call]`` too: the wait is over.


# The client's side --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sending:
    """What a client half wants done.

    Attributes:
        data: bytes, pieces of bytes to be sent one after the other, or an :class:`HttpRequest`.
        files: path -> content: files to be written, in memory where there is such a place, before `data` is sent.
            They may be deleted after the fifth later one, or when the connection ends.
    """

    data: Any
    files: Mapping[str, Sequence[Buffer]] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Welcome:
    """The server said what it has."""

    offer: Offer


@dataclass(slots=True, frozen=True)
class Answered:
    """The chunk for call `id`, in the policy's column order; None for the answer to a reset.

    Attributes:
        id: number of the call.
        chunk: the rows.
        server_s: seconds that the server says it took, where it does.
    """

    id: int
    chunk: ActionChunk | None
    server_s: float | None = None


@dataclass(slots=True, frozen=True)
class Failed:
    """Call `id` has a problem; an `id` of None means the connection has."""

    id: int | None
    problem: Problem


@dataclass(slots=True, frozen=True)
class Offered:
    """The server made shared memory; the client opens it and hands it to :meth:`ClientHalf.share`."""

    path: str
    size: int
    nonce: bytes


Event = Welcome | Answered | Failed | Offered


class ClientHalf(Protocol):
    """The client's end of one connection.

    Attributes:
        lockstep: nothing may be sent before the last call was answered.

    One whose server says nothing while it loads has a true ``patient``; ``token``, ``session``, ``robot`` and
    ``expects`` are set on those that have them.
    """

    lockstep: bool

    @property
    def spec(self) -> PolicySpec | None:
        """Of the policy behind it; None before the server's welcome, or where the protocol does not say."""
        ...

    def opening(self) -> Sending | None:
        """What the client says first; None where it waits for the server or needs no welcome."""
        ...

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        """Ask for a chunk.

        Raises:
            InterfaceValidationError: the frame cannot be written in this protocol.
        """
        ...

    def reset(self, id: int) -> Sending | None:
        """An episode ends; None where the protocol says so with the next request."""
        ...

    def receive(self, data: Any, now_s: float) -> Sequence[Event]:
        """What the server said.

        Raises:
            WireError: the server does not speak the protocol.
        """
        ...


class Wire(Protocol):
    """A protocol: makes a half for every connection.

    Its constructor's typed keyword arguments are its options, in a URL's query: ``unix:/path?rows=16``.

    Attributes:
        transports: the transports that can carry it, the usual one first.
    """

    transports: ClassVar[tuple[str, ...]]

    def server(self) -> ServerHalf[Any, Any]:
        """The server's end of a new connection (over HTTP: of a new request)."""
        ...

    def client(self) -> ClientHalf:
        """The client's end of a new connection."""
        ...
