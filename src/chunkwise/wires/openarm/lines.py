"""One JSON object per line: the cutting and the reading, the same for both ends."""

from __future__ import annotations

import json
from typing import Any

from chunkwise.wires import Buffer, WireError


class Lines:
    """Cuts a stream into lines of a bounded length.

    Args:
        limit: bytes of the longest line.
        at_once: lines in one piece, at most; more is no lock-step.
    """

    def __init__(self, limit: int, at_once: int) -> None:
        self._limit, self._at_once = limit, at_once
        self._rest = bytearray()

    def feed(self, data: Buffer) -> list[bytes]:
        """The lines that are whole now, without their ends.

        Raises:
            WireError: a line is too long, or there are too many.
        """
        known = len(self._rest)
        self._rest += data
        found = self._rest.count(b"\n", known)
        if found > self._at_once:
            raise WireError(f"{found} lines in one piece; the protocol goes one by one")
        lines = self._rest.split(b"\n") if found else [self._rest]
        if max(map(len, lines)) > self._limit:
            raise WireError(f"a line of more than {self._limit} bytes")
        self._rest = lines.pop()
        return [bytes(line) for line in lines]


def parsed(line: bytes, *, refuse_nan: bool) -> dict[str, Any]:
    """A line's JSON object.

    Args:
        line: without its end.
        refuse_nan: and infinities, which are no JSON.

    Raises:
        WireError: it is none.
    """
    try:
        tree = json.loads(line, parse_constant=_no_constant if refuse_nan else None)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a line of JSON: {str(error)[:200]}") from error
    if not isinstance(tree, dict):
        raise WireError(f"a line must be a JSON object, got {type(tree).__name__}")
    return tree


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
