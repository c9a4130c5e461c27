"""The client's half: an ARK server as a policy whose chunks have one row."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, checked_rows
from chunkwise.wires import (
    Answered,
    Event,
    Failed,
    HttpRequest,
    HttpResponse,
    Problem,
    Sending,
    Trouble,
    WireError,
)
from chunkwise.wires.ark import FAULT_HEADER, HOLD_HEADER, SESSION_HEADER, WIDTH, Ark

TROUBLES: Final = {
    **dict.fromkeys((400, 404, 405, 413, 415, 422), Trouble.MALFORMED),
    **dict.fromkeys((401, 403), Trouble.UNAUTHORISED),
    **dict.fromkeys((408, 504), Trouble.DEADLINE),
    429: Trouble.BUSY,
    503: Trouble.LOADING,
}
"""What a status says; everything else is the policy's failure."""
MAX_RESPONSE: Final = 1 << 20


class ArkClient:
    """The client's end: every request and every byte of it as the protocol's published client sends them.

    Args:
        wire: with the options.

    Attributes:
        spec: of the policy that the protocol implies.
    """

    lockstep = True

    def __init__(self, wire: Ark) -> None:
        self._wire = wire
        self.spec = wire.policy
        self._asked: tuple[int, bool] | None = None

    def opening(self) -> Sending | None:
        """Nothing: the protocol has no welcome."""
        return None

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        """One observation, in the order and the encoding of the published client.

        Raises:
            InterfaceValidationError: the frame lacks a state, a picture or a task, or holds what cannot be sent.
        """
        texts = {"state": json.dumps(self._state(frame)), "task": self._task(frame)}
        files = {
            theirs: self._wire.codec.encode(ours, _picture(frame, ours))
            for theirs, ours in self._wire.cameras.items()
        }
        body, content_type = form(texts, files, id)
        self._asked = id, False
        return Sending(self._request("/predict", body, content_type))

    def reset(self, id: int) -> Sending | None:
        """``POST /reset`` where the server knows that; the protocol itself has no episodes."""
        if not self._wire.send_reset:
            return None
        self._asked = id, True
        return Sending(self._request("/reset", b"", "application/x-www-form-urlencoded"))

    def receive(self, data: HttpResponse, now_s: float) -> Sequence[Event]:
        """The action, or why there is none.

        Raises:
            WireError: a 200 that holds no action, or an answer to nothing.
        """
        if self._asked is None:
            raise WireError("an answer to nothing")
        (id, was_reset), self._asked = self._asked, None
        if data.status != 200:
            kind = TROUBLES.get(data.status, Trouble.POLICY_FAILED)
            return [Failed(id, Problem(kind, f"HTTP {data.status}: {_detail(data.body)}"))]
        if was_reset:
            return [Answered(id, None)]
        numbers = _action(data.body)
        if len(numbers) != WIDTH or not all(map(_finite, numbers)):
            text = f"the server answered {len(numbers)} numbers" if len(numbers) != WIDTH else "no finite number"
            return [Failed(id, Problem(Trouble.POLICY_FAILED, f"{text}; an action is {WIDTH} finite ones"))]
        headers = {name.lower(): value for name, value in data.headers.items()}
        meta: dict[str, Any] = {}
        if headers.get(HOLD_HEADER) == "1":
            meta["hold"] = True
        if FAULT_HEADER in headers:
            meta["fault"] = headers[FAULT_HEADER][:1024]
        return [Answered(id, ActionChunk(checked_rows([numbers]), meta=meta))]

    def _request(self, path: str, body: bytes, content_type: str) -> HttpRequest:
        headers = {"content-type": content_type}
        if self._wire.session:
            headers[SESSION_HEADER] = self._wire.session
        return HttpRequest("POST", path, headers=headers, body=body)

    def _state(self, frame: Frame) -> list[float]:
        numbers: list[float] = []
        for part in self._wire.components:
            value = frame.state.get(part.name)
            if value is None or value.shape != (part.dof,) or not np.isfinite(value).all():
                got = "nothing" if value is None else f"{value.tolist()!r:.100}"
                raise InterfaceValidationError(f"state {part.name!r} must be {part.dof} finite numbers, got {got}")
            numbers += value.astype(np.float64).tolist()
        return numbers

    def _task(self, frame: Frame) -> str:
        task = frame.task.get("prompt") or self._wire.task
        if not isinstance(task, str) or not task:
            raise InterfaceValidationError(
                "frame.task has no prompt, and the protocol needs one: set the option task"
            )
        return task


def form(texts: dict[str, str], files: dict[str, bytes], number: int) -> tuple[bytes, str]:
    """Body and content type, byte for byte as the library `requests` makes them.

    Args:
        texts: fields.
        files: pictures by the protocol's names; a form without any is urlencoded.
        number: of the call, from which the boundary is made.
    """
    if not files:
        return urlencode(texts).encode(), "application/x-www-form-urlencoded"
    pieces = [f'form-data; name="{name}"\r\n\r\n'.encode() + text.encode() for name, text in texts.items()]
    for name, data in files.items():
        head = f'form-data; name="{name}"; filename="{name}.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        pieces.append(head.encode() + data)
    boundary = f"{number % (1 << 64):032x}"
    while any(boundary.encode() in piece for piece in pieces):  # a picture holds it by chance
        number += 1 << 64
        boundary = f"{number % (1 << 128):032x}"
    line = f"--{boundary}\r\nContent-Disposition: ".encode()
    body = b"".join([part for piece in pieces for part in (line, piece, b"\r\n")])
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _picture(frame: Frame, name: str) -> Any:
    if name not in frame.images:
        raise InterfaceValidationError(f"the frame has no image {name!r}; the option cameras says which are sent")
    return frame.images[name]


def _action(body: bytes) -> list[Any]:
    """The action in a response."""
    try:
        tree = json.loads(body[: MAX_RESPONSE + 1])
        numbers = tree["action"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise WireError(f"the answer holds no action: {body[:80]!r}") from error
    if not isinstance(numbers, list):
        raise WireError(f"the action must be a list, is {type(numbers).__name__}")
    return numbers


def _finite(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _detail(body: bytes) -> str:
    """What an error says of itself."""
    try:
        detail = json.loads(body[:MAX_RESPONSE])["detail"]
    except (ValueError, RecursionError, KeyError, TypeError):
        detail = body[:200].decode("utf-8", "replace")
    return str(detail)[:500]
