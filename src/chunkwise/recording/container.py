"""The file: an MCAP container (https://mcap.dev/spec) of uncompressed chunks, each with its checksum.

Only what a log needs: it is written front to back, and no index is needed to read it, so whatever reached the
operating system before a crash reads back.  The `mcap` library is not used: its writer copies every image several
times, its reader decompresses without bound, and it needs two compiled packages.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from chunkwise.contract.packing import Buffer
from chunkwise.recording.errors import RecordingError

MAGIC = b"\x89MCAP0\r\n"
MAX_RECORD_BYTES = 1 << 30

HEADER, FOOTER, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x01, 0x02, 0x04, 0x05, 0x06, 0x0F
_RECORD = struct.Struct("<BQ")  # opcode, length of what follows
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK = struct.Struct("<QQQIIQ")  # start, end, size, checksum, length of the compression's name, length
_CHANNEL = struct.Struct("<HH")  # number, schema


class Message(NamedTuple):
    """One record of a recording.

    Attributes:
        topic: its kind.
        sequence: its number in the file.
        time_ns: when it was recorded, wall clock.
        data: its bytes, in pieces when written, in one when read.
    """

    topic: str
    sequence: int
    time_ns: int
    data: Sequence[Buffer]


class TornError(RecordingError):
    """From here on the file is cut off or damaged, as after a crash."""


def beginning(profile: str, library: str, topics: Sequence[str], encoding: str) -> bytes:
    """The start of a file: magic, header, and one channel per topic, numbered from 1."""
    made = MAGIC + _record(HEADER, _text(profile) + _text(library))
    for number, topic in enumerate(topics, start=1):
        made += _record(CHANNEL, _CHANNEL.pack(number, 0) + _text(topic) + _text(encoding) + _text(""))
    return made


def chunk(messages: Sequence[Message], numbers: Mapping[str, int]) -> list[Buffer]:
    """Messages as one chunk, in pieces to be written in order; nothing is copied.

    Args:
        messages: at least one.
        numbers: topic -> number of its channel.
    """
    records: list[Buffer] = []
    for message in messages:
        length = _MESSAGE.size + sum(map(len, message.data))
        head = _MESSAGE.pack(numbers[message.topic], message.sequence & 0xFFFFFFFF, *2 * (message.time_ns,))
        records += [_RECORD.pack(MESSAGE, length) + head, *message.data]
    size, checksum = 0, 0
    for piece in records:
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
    times = [message.time_ns for message in messages]
    head = _CHUNK.pack(min(times), max(times), size, checksum, 0, size)
    return [_RECORD.pack(CHUNK, len(head) + size) + head, *records]


def ending() -> bytes:
    """The end of a file that was closed properly; it has no index."""
    return _record(DATA_END, bytes(4)) + _record(FOOTER, bytes(20)) + MAGIC


def messages(file: BinaryIO) -> Iterator[Message]:
    """The messages of a file, from its first byte on, until its end.

    Raises:
        RecordingError: the file is no MCAP file, or is compressed.
        TornError: the file ends, or its bytes are damaged, or a message is missing, before its end was written.
    """
    for expected, message in enumerate(_messages(file)):
        if message.sequence != expected & 0xFFFFFFFF:  # what else is damaged may read as a record to be skipped
            raise TornError(f"message {message.sequence} follows message {expected - 1}")
        yield message


def _messages(file: BinaryIO) -> Iterator[Message]:
    """The same, with no eye on their numbers."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise RecordingError("no recording: the file does not begin like one")
    at = len(MAGIC)
    topics: dict[int, str] = {}
    while True:
        head = file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            raise TornError(f"the file ends at byte {at + len(head)}, before its end was written")
        opcode, length = _RECORD.unpack(head)
        at += _RECORD.size
        if opcode == 0 or length > min(MAX_RECORD_BYTES, size - at):
            raise TornError(f"the record at byte {at - _RECORD.size} is cut off or damaged")
        content = memoryview(file.read(length))
        if len(content) < length:
            raise TornError(f"the record at byte {at - _RECORD.size} is cut off")
        try:
            if opcode == DATA_END:
                return
            if opcode == CHANNEL:
                _learn(content, topics)
            elif opcode == MESSAGE:
                yield _message(content, topics)
            elif opcode == CHUNK:
                yield from _unchunked(content, topics, at)
        except (struct.error, UnicodeDecodeError) as error:
            raise RecordingError(f"the record at byte {at - _RECORD.size} is none of MCAP's: {error}") from error
        at += length


def _unchunked(content: memoryview, topics: dict[int, str], at: int) -> Iterator[Message]:
    """The messages of a chunk that lies at byte `at`."""
    _, _, size, checksum, named, stored = _CHUNK.unpack_from(content)
    if bytes(content[_CHUNK.size - 8 :][:named]) in (b"lz4", b"zstd"):
        raise RecordingError("the file is compressed; `mcap decompress` makes one that can be read")
    records = content[_CHUNK.size + named :]
    if not len(records) == size == stored or zlib.crc32(records) != checksum:
        raise TornError(f"the chunk at byte {at - _RECORD.size} does not match its checksum")
    while records:
        opcode, length = _RECORD.unpack_from(records)
        inner = records[_RECORD.size : _RECORD.size + length]
        if len(inner) < length:
            raise RecordingError("a chunk's record reaches beyond the chunk")
        if opcode == MESSAGE:
            yield _message(inner, topics)
        elif opcode == CHANNEL:
            _learn(inner, topics)
        records = records[_RECORD.size + length :]


def _message(content: memoryview, topics: Mapping[int, str]) -> Message:
    channel, sequence, time_ns, _ = _MESSAGE.unpack_from(content)
    if channel not in topics:
        raise RecordingError(f"a message of channel {channel}, which the file does not declare")
    return Message(topics[channel], sequence, time_ns, (content[_MESSAGE.size :],))


def _learn(content: memoryview, topics: dict[int, str]) -> None:
    """Remember a channel's topic."""
    number, _ = _CHANNEL.unpack_from(content)
    (length,) = struct.unpack_from("<I", content, _CHANNEL.size)
    start = _CHANNEL.size + 4
    topics[number] = bytes(content[start : start + length]).decode()


def _record(opcode: int, content: bytes) -> bytes:
    return _RECORD.pack(opcode, len(content)) + content


def _text(text: str) -> bytes:
    made = text.encode()
    return struct.pack("<I", len(made)) + made
