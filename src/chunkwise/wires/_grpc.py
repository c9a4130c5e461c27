"""A gRPC call as the HTTP request and response that it is: messages with their lengths in the body.

A request is ``POST /package.Service/Method`` with the call's metadata as headers and every message of the client
in the body, each behind a byte 0 and its length (uint32, big-endian).  A response holds the server's messages in
the same way; its status stands in the headers ``grpc-status`` (a number, 0 for success) and ``grpc-message`` (a
text).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from chunkwise.wires import Buffer, HttpRequest, HttpResponse, WireError

CONTENT_TYPE: Final = "application/grpc"
MAX_MESSAGES: Final = 4096
_PREFIX: Final = struct.Struct(">BI")


class Code(IntEnum):
    """How a call ended; gRPC's own numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


def framed(messages: Iterable[Buffer]) -> bytes:
    """Messages as a body.

    >>> framed([b"ab", b""])
    b'\\x00\\x00\\x00\\x00\\x02ab\\x00\\x00\\x00\\x00\\x00'
    """
    pieces: list[Buffer] = []
    for message in messages:
        pieces += (_PREFIX.pack(0, len(message)), message)
    return b"".join(pieces)


def messages_of(body: Buffer) -> Sequence[memoryview]:
    """The messages in a body, as views of it.

    Raises:
        WireError: it is cut off, or a message in it is compressed, or they are too many.
    """
    view, at = memoryview(body), 0
    found: list[memoryview] = []
    while at < len(view):
        if len(view) - at < _PREFIX.size:
            raise WireError("a message is cut off")
        flag, size = _PREFIX.unpack_from(view, at)
        at += _PREFIX.size
        if flag or size > len(view) - at:
            raise WireError("a message is compressed" if flag else "a message is cut off")
        if len(found) >= MAX_MESSAGES:
            raise WireError(f"a call has more than {MAX_MESSAGES} messages")
        found.append(view[at : at + size])
        at += size
    return found


def request(path: str, messages: Iterable[Buffer]) -> HttpRequest:
    """A call."""
    return HttpRequest("POST", path, headers={"content-type": CONTENT_TYPE}, body=framed(messages))


def response(message: Buffer) -> HttpResponse:
    """The one message that answers a call."""
    return HttpResponse(200, framed([message]), CONTENT_TYPE)


def status(code: Code, text: str) -> HttpResponse:
    """The end of a call that has no answer."""
    return HttpResponse(200, b"", CONTENT_TYPE, {"grpc-status": str(int(code)), "grpc-message": text[:4096]})


def code_of(response: HttpResponse) -> tuple[int, str]:
    """Number and text of a response's status.

    Raises:
        WireError: it has none that is one.
    """
    number = response.headers.get("grpc-status", "0")
    if response.status != 200 or not (number.isascii() and number.isdecimal() and len(number) < 3):
        raise WireError(f"HTTP {response.status} is no gRPC status")
    return int(number), response.headers.get("grpc-message", "")
