"""A tape: every byte that went over the connections of a listener, with its time, and back again for a replay.

The file is :data:`MAGIC`, then records.  A record is a head of 25 bytes, little-endian (length of the content
uint32, CRC32 of all that follows it uint32, kind uint8, connection uint32, nanoseconds since the tape began
uint64, form of the content uint32), and the content.  It is written front to back and needs no end: what reached
the operating system before a crash reads back.  ``docs/wires/tape.md`` has all of it.

A tape holds whatever was sent, secrets included; the file is its owner's alone.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from chunkwise.recording.errors import RecordingError
from chunkwise.transports import Accept, Connection, Peer
from chunkwise.wires import HttpRequest, HttpResponse

MAGIC: Final = b"\x89CWTAPE1\r\n"
MAX_BYTES: Final = 4 << 30
"""A tape that is longer takes nothing more; it says so in its last record."""
MAX_CONTENT: Final = 1 << 30
_HEAD: Final = struct.Struct("<IIBIQI")
_SUMMED: Final = 8
_JSON: Final = struct.Struct("<I")


class Kind(IntEnum):
    """What a record tells."""

    BEGAN = 0  # the tape: when, by the wall clock
    OPENED = 1  # a connection: wire, transport, peer
    CAME = 2  # from the client
    WENT = 3  # to the client
    LOST = 4  # the connection: why
    FULL = 5  # nothing more is taken


class Form(IntEnum):
    """How the content of a record is written."""

    BYTES = 0
    TEXT = 1
    PLAIN = 2  # JSON
    REQUEST = 3  # HTTP: the length of a JSON text, the text, the body
    RESPONSE = 4
    OTHER = 5  # what it looked like


class TapeRecord(NamedTuple):
    """One thing that happened.

    Attributes:
        kind: what.
        connection: its number in the tape, from 1; 0 for the tape itself.
        time_ns: since the tape began, by a monotonic clock.
        data: bytes, a text, an HTTP request or response, or a mapping of what is told; None for what could not be
            kept.
    """

    kind: Kind
    connection: int
    time_ns: int
    data: Any


class TapeWriter:
    """Writes a tape; every record is the operating system's before the call returns.

    Args:
        path: must not be there yet.
        max_bytes: nothing more is taken beyond it.
        clock_ns: monotonic, nanoseconds.
        on_full: called once when it is full, or the disk is.

    Raises:
        RecordingError: the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        on_full: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.path, self._max_bytes, self._clock_ns, self._on_full = path, max_bytes, clock_ns, on_full
        self._began_ns, self._size, self._number = clock_ns(), 0, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {error.strerror}") from error
        self._put([MAGIC])
        wall = {"wall_ns": time.time_ns()}
        self._record(Kind.BEGAN, 0, wall)

    def tap(self, about: Mapping[str, str], accept: Accept) -> Accept:
        """The same listener's `accept`, with every connection on the tape.

        A taped peer says that it is on another machine, so that nothing goes around the tape in shared memory.
        """

        def taped(peer: Peer) -> Connection:
            self._number += 1
            number = self._number
            self._record(Kind.OPENED, number, {**about, "peer": peer.name})
            return _TapedConnection(self, number, accept(_TapedPeer(self, number, peer)))

        return taped

    def note(self, kind: Kind, connection: int, data: Any) -> None:
        """One record; what is in `data` is written at once, and not kept."""
        self._record(kind, connection, data)

    def close(self) -> None:
        """End it.  Twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _record(self, kind: Kind, connection: int, data: Any) -> None:
        if self._fd < 0:
            return
        form, pieces = _written(data)
        size = sum(len(piece) for piece in pieces)
        if self._size + size + _HEAD.size > self._max_bytes and kind is not Kind.FULL:
            self._record(Kind.FULL, 0, {"bytes": self._size})
            self._stop(f"it has {self._max_bytes} bytes")
            return
        rest = _HEAD.pack(size, 0, kind, connection, self._clock_ns() - self._began_ns, form)[_SUMMED:]
        checksum = zlib.crc32(rest)
        for piece in pieces:
            checksum = zlib.crc32(piece, checksum)
        self._put([struct.pack("<II", size, checksum) + rest, *pieces])

    def _put(self, pieces: list[bytes | memoryview]) -> None:
        try:
            wanted, wrote = sum(map(len, pieces)), os.writev(self._fd, pieces)
            self._size += wrote
            if wrote < wanted:  # a disk that fills up
                rest = b"".join(pieces)[wrote:]
                while rest:
                    wrote = os.write(self._fd, rest)
                    self._size, rest = self._size + wrote, rest[wrote:]
        except OSError as error:
            self._stop(str(error))

    def _stop(self, why: str) -> None:
        self.close()
        self._on_full(f"{self.path} takes nothing more: {why}")


class _TapedPeer:
    """The other end, as a taped connection sees it."""

    local = False

    def __init__(self, tape: TapeWriter, number: int, peer: Peer) -> None:
        self._tape, self._number, self._peer = tape, number, peer
        self.name = peer.name

    def send(self, data: Any) -> None:
        for message in data if isinstance(data, list) else [data]:
            self._tape.note(Kind.WENT, self._number, message)
        self._peer.send(data)

    def close(self) -> None:
        self._peer.close()


class _TapedConnection:
    """A connection that is told the same as the tape."""

    def __init__(self, tape: TapeWriter, number: int, inner: Connection) -> None:
        self._tape, self._number, self._inner = tape, number, inner

    def opened(self) -> None:
        self._inner.opened()

    def received(self, data: Any) -> None:
        self._tape.note(Kind.CAME, self._number, data)
        self._inner.received(data)

    def lost(self, why: str) -> None:
        self._tape.note(Kind.LOST, self._number, {"why": why})
        self._inner.lost(why)


class TapeReader:
    """Reads a tape, any number of times.

    Args:
        path: the file.

    Attributes:
        truncated: whether the last reading met a record that is cut off or damaged, and ended there.

    Raises:
        RecordingError: it is no tape.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.truncated = path, False
        try:
            with path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}") from error
        if magic != MAGIC:
            raise RecordingError(f"{path} is no tape: it does not begin like one")

    def __iter__(self) -> Iterator[TapeRecord]:
        self.truncated = False
        with self.path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - len(MAGIC)
            file.seek(len(MAGIC))
            while left:
                head = file.read(_HEAD.size)
                if len(head) < _HEAD.size:
                    break
                size, checksum, kind, connection, time_ns, form = _HEAD.unpack(head)
                left -= _HEAD.size + size
                if left < 0 or size > MAX_CONTENT:
                    break
                content = file.read(size)
                if zlib.crc32(content, zlib.crc32(head[_SUMMED:])) != checksum:
                    break
                try:
                    record = TapeRecord(Kind(kind), connection, time_ns, _read(Form(form), content))
                except (ValueError, LookupError, TypeError, struct.error, RecursionError) as error:
                    raise RecordingError(f"{self.path}: a record of another version: {error}") from error
                yield record
            else:
                return
        self.truncated = True


def _written(data: Any) -> tuple[Form, list[bytes | memoryview]]:
    """The form and the pieces of what is kept."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return Form.BYTES, [memoryview(data).cast("B")]
    if isinstance(data, str):
        return Form.TEXT, [data.encode("utf-8", "surrogatepass")]
    if isinstance(data, HttpRequest):
        plain = [data.method, data.path, dict(data.query), dict(data.headers), data.peer]
        return Form.REQUEST, [_headed(plain), data.body]
    if isinstance(data, HttpResponse):
        return Form.RESPONSE, [_headed([data.status, data.content_type, dict(data.headers)]), data.body]
    if isinstance(data, Mapping):
        return Form.PLAIN, [json.dumps(data).encode()]
    return Form.OTHER, [repr(data)[:4096].encode("utf-8", "replace")]


def _headed(plain: Any) -> bytes:
    text = json.dumps(plain).encode()
    return _JSON.pack(len(text)) + text


def _read(form: Form, content: bytes) -> Any:
    if form is Form.BYTES:
        return content
    if form is Form.TEXT:
        return content.decode("utf-8", "surrogatepass")
    if form is Form.PLAIN:
        return json.loads(content)
    if form is Form.OTHER:
        return None
    (size,) = _JSON.unpack_from(content)
    plain, body = json.loads(content[_JSON.size : _JSON.size + size]), content[_JSON.size + size :]
    if form is Form.REQUEST:
        method, path, query, headers, peer = plain
        return HttpRequest(method, path, query, headers, body, peer)
    status, kind, headers = plain
    return HttpResponse(status, body, kind, headers)
