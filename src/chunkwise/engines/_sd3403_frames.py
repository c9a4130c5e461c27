"""What an SD3403 worker and its caller say to each other over stdin and stdout; no I/O here.

Little-endian, nothing between the fields::

    request   magic u32, version u16, inputs u16, request id u32, 0 u32             16 bytes
    input     index u32, bytes u32, 0 u32                                           12, then float32 numbers
    response  magic u32, version u16, status u16, request id u32, outputs u32,
              latency [us] u32, error code i32, bytes of the error text u32         28
    output    index u32, type u32, numbers u32, bytes u32, dimensions u32, 0 u32    24, then a u64 for each
                                                                                    dimension, then the numbers
    error     text in UTF-8, after all outputs

The protocol is IB-Robot's.  Its own reader believes every size, so that one stray line on stdout makes all later
answers fail; here sizes are bounded and must agree, and what stands before a response is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines._compiled import BackendError

MAGIC, VERSION = 0x53565031, 1
MAGIC_BYTES = struct.pack("<I", MAGIC)
"""``1PVS`` on the wire."""
REQUEST, INPUT = struct.Struct("<IHHII"), struct.Struct("<III")
RESPONSE, OUTPUT = struct.Struct("<IHHIIIiI"), struct.Struct("<IIIIII")
TYPES = {1: "float32", 2: "float16", 3: "int8", 4: "uint8", 5: "int32", 6: "int64"}
ACTION_OUTPUT = 2
"""Index of the output that is the action; the others are the graph's own business."""
MOST_SKIPPED = 1 << 20
"""Bytes before a response that are none of it."""
MOST_OUTPUTS, MOST_DIMENSIONS, MOST_ERROR_BYTES = 32, 8, 1 << 16
MOST_BYTES = 256 << 20
"""Of all outputs of a response together."""

Reading = Generator[int, bytes, "Response"]
"""Yields how many bytes it wants next, and is sent exactly these."""


class FrameError(BackendError):
    """What the worker wrote is no response to what it was asked; nothing after it can be trusted."""


class WorkerFailed(BackendError):
    """The worker says itself that it could not answer; the next request may go better."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a worker answered.

    Attributes:
        action: the numbers of the action's output, in its shape; None where there is no such output.
        error: what the worker says went wrong; "" where it says that all went well.
        latency_us: how long it says that it took.
        skipped: what stood before the response and is none of it.
    """

    action: NDArray[Any] | None
    error: str
    latency_us: int
    skipped: bytes

    def chosen(self) -> NDArray[Any]:
        """The action's numbers.

        Raises:
            WorkerFailed: there are none.
        """
        if self.error:
            raise WorkerFailed(self.error)
        if self.action is None:
            raise WorkerFailed(f"worker response does not contain output index {ACTION_OUTPUT}")
        return self.action


def request(request_id: int, arrays: Sequence[NDArray[Any]]) -> list[bytes]:
    """A request as pieces to write one after the other.

    Args:
        request_id: that the response must repeat.
        arrays: the inputs in the network's order; their shapes do not go along.
    """
    pieces = [REQUEST.pack(MAGIC, VERSION, len(arrays), request_id, 0)]
    for index, array in enumerate(arrays):
        numbers = np.ascontiguousarray(array, "<f4").tobytes()
        pieces += [INPUT.pack(index, len(numbers), 0), numbers]
    return pieces


def response(request_id: int) -> Reading:
    """Read the response to a request; it is complete when the generator returns.

    Raises:
        FrameError: it is none, or another request's.
    """
    header, skipped = yield from _header()
    _, _, status, answered, outputs, latency_us, code, error_bytes = RESPONSE.unpack(header)
    if answered != request_id:
        raise FrameError(f"mismatched response id: expected {request_id}, got {answered}")
    _bounded("outputs", outputs, MOST_OUTPUTS)
    _bounded("bytes of error text", error_bytes, MOST_ERROR_BYTES)
    action, left = None, MOST_BYTES
    for _ in range(outputs):
        index, numbers, size = yield from _output(left)
        left -= size
        if index == ACTION_OUTPUT:
            if action is not None:
                raise FrameError(f"worker response contains output index {ACTION_OUTPUT} twice")
            action = numbers
    text = (yield error_bytes).decode("utf-8", "replace") if error_bytes else ""
    failed = f"worker inference failed (error_code={code}): {text or 'unknown error'}" if status else ""
    return Response(action, failed, latency_us, skipped)


def _header() -> Generator[int, bytes, tuple[bytes, bytes]]:
    """The first 28 bytes that begin with the magic number, and what stood before them."""
    skipped, seen = bytearray(), b""
    while True:
        seen += yield RESPONSE.size - len(seen)
        at = seen.find(MAGIC_BYTES)
        if at < 0:  # but for what may be its beginning
            at = len(seen) - len(MAGIC_BYTES) + 1
        skipped += seen[:at]
        seen = seen[at:]
        if len(skipped) > MOST_SKIPPED:
            raise FrameError(
                f"unexpected response header: no magic=0x{MAGIC:08x} in {MOST_SKIPPED} bytes, they begin "
                f"{bytes(skipped[:40])!r}"
            )
        if len(seen) == RESPONSE.size:
            magic, version = struct.unpack_from("<IH", seen)
            if version != VERSION:
                raise FrameError(f"unexpected response header: magic=0x{magic:08x}, version={version}")
            return seen, bytes(skipped)


def _output(most: int) -> Generator[int, bytes, tuple[int, NDArray[Any], int]]:
    """One output: its index, its numbers, how many bytes they were; at most `most`."""
    index, kind, count, size, dimensions, _ = OUTPUT.unpack((yield OUTPUT.size))
    if kind not in TYPES:
        raise FrameError(f"unsupported worker element type: {kind}")
    _bounded("dimensions", dimensions, MOST_DIMENSIONS)
    _bounded("bytes", size, most)
    dtype = np.dtype(TYPES[kind]).newbyteorder("<")
    shape = struct.unpack(f"<{dimensions}Q", (yield 8 * dimensions)) if dimensions else (count,)
    held = 1
    for side in shape:  # Python's numbers, which do not overflow
        held *= side
    if not held == count == size // dtype.itemsize or size % dtype.itemsize:
        raise FrameError(
            f"worker output {index}: {size} bytes, {count} numbers of {dtype.itemsize} and the shape {[*shape]} "
            "do not agree"
        )
    numbers = np.frombuffer((yield size) if size else b"", dtype)
    return index, numbers.reshape(shape) if size else numbers, size  # of nothing numpy makes not every shape


def _bounded(what: str, value: int, most: int) -> None:
    if value > most:
        raise FrameError(f"worker response has {value} {what}, at most {most} are read")
