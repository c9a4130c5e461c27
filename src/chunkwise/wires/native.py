"""Chunkwise's own wire: requests with the running plan, chunks with the step they begin at, over any stream.

A message is a header of 12 bytes, little-endian (``b"CW"``, version uint8, kind uint8, length of the text uint32,
length of the arrays uint32), then the text and the arrays of a packed tree (`chunkwise.contract.packing`).  Where
both ends share memory the arrays lie there, and the text begins with their place.  ``docs/wires/native.md``
has every message.

The first message is HELLO, with the protocol versions that the client speaks, the robot's spec and the policy that
it expects; the answer is WELCOME, with the policy's spec (names, order, units, image rules, the hash of the
statistics, horizon and rate), or PROBLEM, which names what does not fit.
"""

from __future__ import annotations

import itertools
import struct
import weakref
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    RobotSpec,
    checked_rows,
    policy_spec_from_dict,
    robot_spec_from_dict,
    spec_to_dict,
)
from chunkwise.contract.packing import Packed, PackingError, Path, Unpacker
from chunkwise.wires import (
    Answered,
    Buffer,
    Call,
    Cancel,
    Event,
    Failed,
    Hello,
    Infer,
    Leave,
    Offer,
    Offered,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    Sending,
    Share,
    Shared,
    Status,
    Trouble,
    Welcome,
    WireError,
)

__all__ = ["Native"]

VERSION = 1
MAX_TEXT_BYTES = 1 << 20
MAX_SHARED_BYTES = 64 << 20
MAX_NAME = 128
_HEADER = struct.Struct("<2sBBII")
_PLACE = struct.Struct("<QQQ")
_COUNT = struct.Struct("<Q")
JPEG_QUALITY = 90
PLACES = 4
"""Requests that a client can have in shared memory at once: one that is read, one that waits, two to spare."""
MAX_PLACES = 64


_MALFORMED = (InterfaceValidationError, LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What taking apart a tree of another shape raises."""


class Kind(IntEnum):
    """Messages; the client's are odd, the server's even."""

    HELLO = 1
    WELCOME = 2
    INFER = 3
    CHUNK = 4
    RESET = 5
    DONE = 6
    CANCEL = 7
    PROBLEM = 8
    STATUS = 9
    SHARE = 11
    SHARED = 10
    PROBE = 13
    PROBED = 12
    INFER_SHARED = 15


_KINDS = frozenset(int(kind) for kind in Kind)


class Native:
    """Everything that Chunkwise knows: running plan, deadlines, cancelling, episodes, shared memory.

    Args:
        max_message_mb: longest message, MiB.
        images: ``raw``, ``jpeg``, or ``auto``: raw on this machine and on links that are fast enough, else JPEG
            where an encoder is installed (``pip install 'chunkwise[jpeg]'``).  Of the client.
        shared_memory: use it where both ends share a host.  Of the client.
        session: the client's name for itself; empty for one drawn by the server.
    """

    transports: ClassVar[tuple[str, ...]] = ("tcp", "unix")
    whole_task: ClassVar[bool] = True
    """A frame's task arrives as it is, whatever entries it has."""

    def __init__(
        self, *, max_message_mb: int = 32, images: str = "auto", shared_memory: bool = True, session: str = ""
    ) -> None:
        if not 1 <= max_message_mb <= 1024:
            raise ValueError(f"max_message_mb must be 1 to 1024, got {max_message_mb}")
        if images not in ("auto", "raw", "jpeg"):
            raise ValueError(f"images must be auto, raw or jpeg, got {images!r}")
        self.max_bytes = max_message_mb << 20
        self.images, self.shared_memory, self.session = images, shared_memory, session

    def server(self) -> NativeServer:
        """The server's end of a new connection."""
        return NativeServer(self.max_bytes)

    def client(self) -> NativeClient:
        """The client's end of a new connection."""
        return NativeClient(self.max_bytes, self.session, jpeg=self.images == "jpeg")


def message(kind: Kind, tree: dict[str, Any]) -> bytes:
    """A message, whole."""
    return b"".join(pieces(kind, tree))


def pieces(kind: Kind, tree: dict[str, Any]) -> list[Buffer]:
    """A message in pieces: its head, and the bytes of the tree's own arrays."""
    packed = Packed(tree, copy=False)
    return [_HEADER.pack(b"CW", VERSION, kind, len(packed.text), packed.size) + packed.text, *packed.arrays]


class Inbox:
    """Pieces of a stream to messages.

    Args:
        max_bytes: a longer message is refused before anything is made of it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._head = bytearray()
        self._body: memoryview | None = None
        self._filled = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[Kind, memoryview, memoryview]]:
        """The messages that are complete now: kind, text, bytes of the arrays; they own their memory.

        Raises:
            WireError: not a message, of another version, or too long.
        """
        view, found = memoryview(data), []
        while len(view) or self._body is not None:
            if self._body is None:
                missing = _HEADER.size - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) < _HEADER.size:
                    break
                self._begin()
            assert self._body is not None
            piece = view[: len(self._body) - self._filled]
            self._body[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled < len(self._body):
                break
            found.append((self._kind, self._body[: self._text], self._body[self._text :]))
            self._body = None
            self._head.clear()
        return found

    def _begin(self) -> None:
        magic, version, kind, text, arrays = _HEADER.unpack(self._head)
        if magic != b"CW":
            raise WireError(f"not a message of the native wire: begins with {bytes(magic)!r}")
        if version != VERSION:
            raise WireError(f"a message of version {version}; this end speaks version {VERSION}")
        if kind not in _KINDS:
            raise WireError(f"a message of unknown kind {kind}")
        if text > MAX_TEXT_BYTES or text + arrays > self._max_bytes:
            raise WireError(f"a message of {text} + {arrays} bytes; at most {self._max_bytes} are taken")
        self._kind, self._text, self._filled = Kind(kind), text, 0
        self._body = np.empty(text + arrays, dtype=np.uint8).data


def opened(
    text: memoryview, arrays: memoryview, copy: Callable[[Path], bool] = lambda path: False
) -> dict[str, Any]:
    """The tree of a message; its arrays are views of the message, which is nobody else's, unless `copy` says no.

    Raises:
        WireError: it holds none.
    """
    try:
        return Unpacker(copy=copy).unpack(text, arrays)
    except InterfaceValidationError as error:
        raise WireError(str(error)) from error


class NativeServer:
    """The server's end."""

    def __init__(self, max_bytes: int) -> None:
        self._inbox = Inbox(max_bytes)
        self._memory: memoryview | None = None
        self._read: dict[int, weakref.ref[NDArray[np.uint8]]] = {}  # offset -> what the images there are views of

    def opened(self, offer: Offer, now_s: float) -> bytes | None:
        return None

    def receive(self, data: bytes | bytearray | memoryview, now_s: float) -> Sequence[Call]:
        calls: list[Call] = []
        for kind, text, arrays in self._inbox.feed(data):
            try:
                calls += self._call(kind, text, arrays)
            except WireError:
                raise
            except _MALFORMED as error:
                raise WireError(f"{kind.name}: {type(error).__name__}: {error}") from error
        return calls

    def _call(self, kind: Kind, text: memoryview, arrays: memoryview) -> list[Call]:
        if kind is Kind.INFER:
            return [self._infer(opened(text, arrays))]
        if kind is Kind.INFER_SHARED:
            return [self._infer(self._from_memory(text))]
        if kind is Kind.PROBE:  # its arrays are ballast
            return [Reply(message(Kind.PROBED, {"id": _number(opened(text, arrays)["id"])}))]
        tree = opened(text, arrays)
        if kind is Kind.HELLO:
            return self._hello(tree)
        if kind is Kind.CANCEL:
            return [Cancel(_number(tree["target"]))]
        id = _number(tree["id"])
        if kind is Kind.RESET:
            return [Reset(id)]
        if kind is Kind.STATUS:
            return [Status(id)]
        if kind is Kind.SHARE:
            size = _number(tree["size"])
            if not 0 < size <= MAX_SHARED_BYTES:
                raise WireError(f"{size} bytes of shared memory; 1 to {MAX_SHARED_BYTES} can be had")
            return [Share(size, id)]
        raise WireError(f"a client sends no {kind.name}")

    def _hello(self, tree: dict[str, Any]) -> list[Call]:
        versions = tree["versions"]
        if not isinstance(versions, list) or VERSION not in versions:
            text = f"protocol version: the client speaks {versions!r:.60}, this server {VERSION}"
            return [Reply(_problem(None, Problem(Trouble.MISMATCH, text))), Leave("protocol version")]
        robot, expects = tree.get("robot"), tree.get("expects")
        return [
            Hello(
                _text(tree.get("session", "")),
                _text(tree.get("token", "")),
                None if robot is None else robot_spec_from_dict(robot),
                None if expects is None else policy_spec_from_dict(expects),
                _number(tree["id"]),
            )
        ]

    def _infer(self, tree: dict[str, Any]) -> Infer:
        id = _number(tree["id"])
        frame, jpegs = tree["frame"], tree.get("jpeg", [])
        request = _request(tree["request"], id)
        deadline = tree.get("deadline_s")
        images, state = frame["images"], frame["state"]
        encoded = {_text(name): images.pop(name) for name in jpegs}
        seen = Frame(
            images,
            state,
            frame["task"],
            frame["meta"],
            timestamp_ns=_number(frame["timestamp_ns"]),
            sequence_id=_number_or_none(frame["sequence_id"]),
        )
        return Infer(
            id,
            seen,
            request,
            None if deadline is None else _seconds(deadline),
            complete=_decoder(seen, encoded) if encoded else None,
        )

    def _from_memory(self, text: memoryview) -> dict[str, Any]:
        """A tree whose arrays lie in shared memory; images are views of it, everything else is copied."""
        if self._memory is None or len(text) < _PLACE.size:
            raise WireError("INFER_SHARED: there is no shared memory, or no place in it")
        offset, size, count = _PLACE.unpack_from(text)
        end = offset + size
        if offset < _COUNT.size or end > len(self._memory):
            raise WireError(f"INFER_SHARED: bytes {offset} to {end} of {len(self._memory)} shared ones")
        if offset not in self._read and len(self._read) >= MAX_PLACES:
            raise WireError(f"INFER_SHARED: more than {MAX_PLACES} places in shared memory")
        place = np.frombuffer(self._memory[offset:end], dtype=np.uint8)
        place.flags.writeable = False
        self._read[offset] = weakref.ref(place)
        tree = opened(text[_PLACE.size :], place.data, copy=lambda path: path[:2] != ("frame", "images"))
        if _COUNT.unpack_from(self._memory, offset - _COUNT.size)[0] != count:
            raise WireError("INFER_SHARED: the client changed the memory while it was read")
        return tree

    def _busy(self) -> dict[str, Any]:
        """What an answer says of shared memory: the places whose images somebody still looks at."""
        if not self._read:
            return {}
        return {"busy": [offset for offset, place in self._read.items() if place() is not None]}

    def answer(self, call: Call, result: Result, now_s: float) -> bytes | None:
        id = getattr(call, "id", None)
        if isinstance(result, ActionChunk):
            tree = {"id": id, "rows": result.rows, "first_step": result.first_step}
            server_s = result.meta.get("server_s")
            return message(Kind.CHUNK, tree | {"server_s": server_s} | self._busy())
        if isinstance(result, Problem):
            return _problem(id, result, self._busy())
        if isinstance(result, Shared):
            self._memory = result.buffer
            tree = {"id": id, "path": result.path, "nonce": result.nonce.hex(), "size": len(result.buffer)}
            return message(Kind.SHARED, tree)
        if isinstance(result, Offer):
            return message(Kind.WELCOME, {"id": id, **_offer_tree(result)})
        return message(Kind.DONE, {"id": id})

    def fetched(self, call: Any, content: Any, now_s: float) -> Sequence[Call]:
        raise WireError("the native wire asks for no file")


class NativeClient:
    """The client's end.

    Attributes:
        spec: of the policy, once the server has said it.
        robot: what to say of the robot; set it before :meth:`opening`.
        expects: the policy that must be there; set it before :meth:`opening`.
        token: the secret; set it before :meth:`opening`.
        jpeg: send images as JPEG.
    """

    lockstep = False

    def __init__(self, max_bytes: int, session: str = "", *, jpeg: bool = False) -> None:
        self._inbox = Inbox(max_bytes)
        self.session, self.jpeg = session, jpeg
        self.spec: PolicySpec | None = None
        self.robot: RobotSpec | None = None
        self.expects: PolicySpec | None = None
        self.token = ""
        self._memory: memoryview | None = None
        self._places: dict[int, int | None] = {}  # offset -> the call that may still be read there
        self._counts = itertools.count(1)

    def opening(self) -> Sending | None:
        return Sending(
            message(
                Kind.HELLO,
                {
                    "versions": [VERSION],
                    "id": 0,
                    "session": self.session,
                    "token": self.token,
                    "robot": None if self.robot is None else spec_to_dict(self.robot),
                    "expects": None if self.expects is None else spec_to_dict(self.expects),
                },
            )
        )

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        images: dict[str, Any] = dict(frame.images)
        encoded = []
        if self.jpeg:
            for name, image in frame.images.items():
                if image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3:
                    images[name] = np.frombuffer(_encode(image), dtype=np.uint8)
                    encoded.append(name)
        tree: dict[str, Any] = {
            "id": id,
            "deadline_s": deadline_s,
            "frame": {
                "images": images,
                "state": frame.state,
                "task": frame.task,
                "meta": frame.meta,
                "timestamp_ns": frame.timestamp_ns,
                "sequence_id": frame.sequence_id,
            },
            "request": {name: getattr(request, name) for name in _REQUEST},
        }
        if encoded:
            tree["jpeg"] = encoded
        shared = None if self._memory is None else self._into_memory(tree)
        return Sending(shared or pieces(Kind.INFER, tree))

    def _into_memory(self, tree: dict[str, Any]) -> bytes | None:
        """The message with its arrays in shared memory; None where there is too little of it, or all is in use."""
        assert self._memory is not None
        offset = next((offset for offset, call in self._places.items() if call is None), None)
        if offset is None:
            return None
        room = self._memory[offset - _COUNT.size : offset + self._room]
        count = next(self._counts)
        _COUNT.pack_into(room, 0, 0)  # a server that reads here all the same finds that it should not
        try:
            packed = Packed(tree, into=room[_COUNT.size :])
        except PackingError:
            return None
        _COUNT.pack_into(room, 0, count)
        self._places[offset] = tree["id"]
        text = _PLACE.pack(offset, packed.size, count) + packed.text
        return _HEADER.pack(b"CW", VERSION, Kind.INFER_SHARED, len(text), 0) + text

    def _free(self, id: int, busy: list[int]) -> None:
        """The server has answered call `id` and says what it still reads; calls before it have arrived, too."""
        for offset, call in self._places.items():
            if call is not None and call <= id and offset not in busy:
                self._places[offset] = None

    def share(self, buffer: memoryview) -> None:
        """Put the arrays of requests there from now on."""
        share = len(buffer) // PLACES // 64 * 64
        if share > _COUNT.size:
            self._memory, self._room = buffer, share - _COUNT.size
            self._places = {share * index + _COUNT.size: None for index in range(PLACES)}

    def ask_for_memory(self, id: int, size: int) -> Sending:
        """Ask for shared memory; the answer is :class:`Offered`."""
        return Sending(message(Kind.SHARE, {"id": id, "size": size}))

    def probe(self, id: int, ballast: int) -> Sending:
        """Ask for an echo of a message with so many bytes of ballast; answered with no chunk."""
        return Sending(message(Kind.PROBE, {"id": id, "ballast": np.zeros(ballast, dtype=np.uint8)}))

    def status(self, id: int) -> Sending:
        """Ask how the server is; answered with a :class:`Welcome`."""
        return Sending(message(Kind.STATUS, {"id": id}))

    def cancel(self, target: int) -> Sending:
        """The answer to call `target` is no longer wanted."""
        return Sending(message(Kind.CANCEL, {"target": target}))

    def reset(self, id: int) -> Sending | None:
        return Sending(message(Kind.RESET, {"id": id}))

    def receive(self, data: Any, now_s: float) -> Sequence[Event]:
        events: list[Event] = []
        for kind, text, arrays in self._inbox.feed(data):
            try:
                events.append(self._event(kind, opened(text, arrays)))
            except WireError:
                raise
            except _MALFORMED as error:
                raise WireError(f"{kind.name}: {type(error).__name__}: {error}") from error
        return events

    def _event(self, kind: Kind, tree: dict[str, Any]) -> Event:
        id = _number_or_none(tree["id"])
        if id is not None and "busy" in tree:
            self._free(id, [_number(offset) for offset in tree["busy"]])
        if kind is Kind.PROBLEM:
            return Failed(id, Problem(Trouble(tree["kind"]), _text(tree["text"], 1 << 16)))
        number = _number(id)
        if kind is Kind.CHUNK:
            first, server_s = tree["first_step"], tree["server_s"]
            width = None if self.spec is None else self.spec.action_dim
            rows = checked_rows(tree["rows"], width)
            chunk = ActionChunk(rows, _number_or_none(first))
            return Answered(number, chunk, None if server_s is None else _seconds(server_s))
        if kind in (Kind.DONE, Kind.PROBED):
            return Answered(number, None)
        if kind is Kind.SHARED:
            return Offered(_text(tree["path"], 4096), _number(tree["size"]), bytes.fromhex(tree["nonce"]))
        if kind is Kind.WELCOME:
            offer = _offer(tree)
            if offer.policy is not None:
                self.spec = offer.policy
            self.session = offer.session or self.session
            return Welcome(offer)
        raise WireError(f"a server sends no {kind.name}")


_REQUEST = (
    "request_step",
    "request_time_s",
    "active_chunk_length",
    "remaining_steps",
    "latency_steps",
    "inference_delay",
    "execute_horizon",
    "prefix",
    "prefix_weights",
)
"""Fields of a request that travel."""


def _request(tree: dict[str, Any], id: int) -> ChunkRequest:
    """The request in a tree; its running plan is checked."""
    prefix, weights = tree["prefix"], tree["prefix_weights"]
    if isinstance(prefix, np.ndarray) and not len(prefix):  # nothing runs: there is nothing to keep to
        prefix = weights = None
    if prefix is not None:
        prefix = checked_rows(prefix)
        if not np.isfinite(prefix).all():
            raise WireError("INFER: the prefix holds a number that is not finite")
    if weights is not None:
        weights = _weights(weights, prefix)
    return ChunkRequest(
        request_step=_number(tree["request_step"]),
        request_time_s=float(tree["request_time_s"]),
        active_chunk_length=_number(tree["active_chunk_length"]),
        remaining_steps=_number(tree["remaining_steps"]),
        latency_steps=_number(tree["latency_steps"]),
        inference_delay=_number_or_none(tree["inference_delay"]),
        execute_horizon=_number_or_none(tree["execute_horizon"]),
        prefix=prefix,
        prefix_weights=weights,
        id=id,
    )


def _weights(weights: Any, prefix: NDArray[np.float64] | None) -> NDArray[np.float64]:
    fits = isinstance(weights, np.ndarray) and weights.dtype == np.float64 and prefix is not None
    if not fits or weights.shape != (len(prefix),):  # type: ignore[arg-type]
        raise WireError("INFER: prefix_weights must be one float64 per row of the prefix")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise WireError("INFER: prefix_weights must lie in [0, 1]")
    made: NDArray[np.float64] = weights
    return made


def _problem(id: int | None, problem: Problem, further: dict[str, Any] | None = None) -> bytes:
    return message(Kind.PROBLEM, {"id": id, "kind": problem.kind, "text": problem.text} | (further or {}))


def _offer_tree(offer: Offer) -> dict[str, Any]:
    return {
        "readiness": offer.readiness,
        "detail": offer.detail,
        "policy": None if offer.policy is None else spec_to_dict(offer.policy),
        "session": offer.session,
        "version": offer.version,
    }


def _offer(tree: dict[str, Any]) -> Offer:
    policy = tree["policy"]
    return Offer(
        Readiness(tree["readiness"]),
        _text(tree["detail"], 1 << 16),
        None if policy is None else policy_spec_from_dict(policy),
        _text(tree["session"]),
        _text(tree["version"]),
    )


def _decoder(frame: Frame, encoded: dict[str, Any]) -> Any:
    """What decodes the images of a frame when it is called."""

    def complete() -> Frame:
        for name, data in encoded.items():
            frame.images[name] = _decode(name, data)
        return frame

    return complete


def _decode(name: str, data: Any) -> NDArray[np.uint8]:
    simplejpeg = plugins.require("simplejpeg", extra="jpeg")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise WireError(f"INFER: image {name!r} is no JPEG")
    raw = data.tobytes()
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(raw)
        if height * width > 1 << 26:
            raise WireError(f"INFER: image {name!r} has {height} x {width} pixels")
        made: NDArray[np.uint8] = simplejpeg.decode_jpeg(raw, colorspace="RGB")
    except ValueError as error:
        raise WireError(f"INFER: image {name!r}: {error}") from error
    return made


def _encode(image: NDArray[np.uint8]) -> bytes:
    simplejpeg = plugins.require("simplejpeg", extra="jpeg")
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=JPEG_QUALITY, colorspace="RGB")
    return data


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise WireError(f"needs a whole number, has {value!r:.40}")
    return value


def _number_or_none(value: Any) -> int | None:
    return None if value is None else _number(value)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
        raise WireError(f"needs a time in seconds, has {value!r:.40}")
    return float(value)


def _text(value: Any, most: int = MAX_NAME) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise WireError(f"needs a text of at most {most} letters, has {value!r:.40}")
    return value
