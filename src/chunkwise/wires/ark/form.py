"""A request's form: multipart, or urlencoded where the robot sends no camera."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from chunkwise.wires import HttpRequest, HttpResponse, WireError
from chunkwise.wires.ark import WIDTH

MAX_PARTS: Final = 32
MAX_TEXT: Final = 16 << 10
"""Bytes of a field that is text."""
MAX_URLENCODED: Final = 3 * 3 * MAX_TEXT


class Refusal(WireError):
    """A request that is answered with a status; the connection goes on.

    Args:
        status: 4xx.
        detail: a text, or the list of FastAPI's validation errors.
        headers: further ones.
    """

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(detail))
        self.response = told(status, {"detail": detail}, headers)


def told(status: int, tree: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> HttpResponse:
    """A JSON response."""
    return HttpResponse(status, json.dumps(tree).encode(), headers=headers or {})


def fields_of(request: HttpRequest, multipart: Any) -> dict[str, bytes]:
    """The fields by name, files and texts alike.

    Args:
        request: with its body.
        multipart: the package of that name.

    Raises:
        Refusal: 400, it is no form, or a field stands twice in it; 413, too much; 415, something else.
    """
    content_type = request.headers.get("content-type", "")
    try:
        kind, options = multipart.parse_options_header(content_type[:1024])
        if kind == "multipart/form-data":
            return _parts(request.body, options.get("boundary", ""), multipart)
        if kind == "application/x-www-form-urlencoded":
            return _pairs(request.body)
    except Refusal:
        raise
    except multipart.ParserLimitReached as error:
        raise Refusal(413, f"the form: {error}") from error
    except ValueError as error:  # what the parser finds, and bytes that are no text
        raise Refusal(400, f"the form: {str(error)[:200]}") from error
    raise Refusal(415, "the body must be multipart/form-data or application/x-www-form-urlencoded")


def _parts(body: bytes, boundary: str, multipart: Any) -> dict[str, bytes]:
    if not 1 <= len(boundary) <= 70:
        raise Refusal(400, "content-type: a boundary of 1 to 70 letters is needed")
    parser = multipart.PushMultipartParser(
        boundary, max_header_size=1024, max_header_count=8, max_segment_count=MAX_PARTS, strict=True
    )
    found: dict[str, bytes] = {}
    name = ""
    pieces: list[bytes] = []
    for event in parser.parse(body):
        if event is None:
            if name in found:
                raise Refusal(400, f"{name!r:.80} stands twice in the form")
            found[name] = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        elif isinstance(event, (bytes, bytearray)):
            pieces.append(bytes(event))
        else:
            name, pieces = event.name, []
    parser.close()
    return found


def _pairs(body: bytes) -> dict[str, bytes]:
    if len(body) > MAX_URLENCODED:
        raise Refusal(413, f"a form without files has at most {MAX_URLENCODED} bytes")
    found: dict[str, bytes] = {}
    pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARTS, errors="strict")
    for name, value in pairs:
        if name in found:
            raise Refusal(400, f"{name!r:.80} stands twice in the form")
        found[name] = value.encode()
    return found


def task_of(fields: Mapping[str, bytes]) -> str:
    """The task.

    Raises:
        Refusal: 422, it is missing or empty; 400, it is no text.
    """
    return _text(fields, "task")


def state_of(fields: Mapping[str, bytes]) -> list[float]:
    """The fourteen numbers.

    Raises:
        Refusal: 422, they are missing; 400, they are not fourteen finite numbers.
    """
    text = _text(fields, "state")
    try:
        numbers = _STATE.decode(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"state: no JSON: {str(error)[:100]}") from error
    if not isinstance(numbers, list) or len(numbers) != WIDTH:
        count = f"a list of {len(numbers)}" if isinstance(numbers, list) else type(numbers).__name__
        raise Refusal(400, f"state: needs a list of {WIDTH} numbers, has {count}")
    return [_finite(number, index) for index, number in enumerate(numbers)]


def _finite(number: Any, index: int) -> float:
    if isinstance(number, (float, int)) and not isinstance(number, bool):
        try:
            value = float(number)
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
    raise Refusal(400, f"state: number {index} must be finite, is {number!r:.40}")


def _text(fields: Mapping[str, bytes], name: str) -> str:
    raw = fields.get(name)
    if not raw:
        missing = {"type": "missing", "loc": ["body", name], "msg": "Field required", "input": None}
        raise Refusal(422, [missing])
    if len(raw) > MAX_TEXT:
        raise Refusal(413, f"{name}: {len(raw)} bytes, at most {MAX_TEXT}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Refusal(400, f"{name}: no UTF-8") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_STATE = json.JSONDecoder(parse_constant=_no_constant)
