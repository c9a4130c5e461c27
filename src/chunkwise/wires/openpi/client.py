"""The client's half: an openpi server, or one that speaks nearly the same, as a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    checked_rows,
    nearest,
    policy_spec_from_dict,
)
from chunkwise.wires import (
    Answered,
    Event,
    Failed,
    HttpRequest,
    HttpResponse,
    Offer,
    Problem,
    Readiness,
    Sending,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires.openpi import OpenPi, Pair
from chunkwise.wires.openpi.arrays import pack, unpack

STATUSES: Final = {401: Trouble.UNAUTHORISED, 403: Trouble.UNAUTHORISED, 503: Trouble.BUSY}
"""What a status in the place of a websocket says; everything else is malformed."""
MAX_TEXT: Final = 2000
"""Letters of an error that are told on; the last ones, as an openpi server sends a traceback."""


class OpenPiClient:
    """The client's end of one connection.

    Args:
        wire: with the options.

    Attributes:
        token: shown as an api key.
        spec: as the server said it, or as the options say.
    """

    lockstep = True
    patient = True  # such servers listen before their policy is loaded, and say nothing until then

    def __init__(self, wire: OpenPi) -> None:
        self._wire = wire
        self.token = ""
        self._metadata: dict[str, Any] | None = None
        self._declared = False
        self._asked: tuple[int, bool] | None = None
        self.spec: PolicySpec | None = _spec(wire, {})

    def opening(self) -> Sending | None:
        """The request for the websocket; the server then speaks first."""
        headers = {"Authorization": f"Api-Key {self.token}"} if self.token else {}
        return Sending(HttpRequest("GET", "", headers=headers))

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        """One observation.

        Raises:
            InterfaceValidationError: the frame lacks something that is to be sent, or cannot be written.
        """
        tree = self._observation(frame)
        if self._wire.session:
            tree |= {"endpoint": "infer", "session_id": self._wire.session}
        try:
            data = pack(tree)
        except (TypeError, ValueError, OverflowError) as error:
            raise InterfaceValidationError(f"the frame cannot be sent: {error}") from error
        self._asked = id, False
        return Sending(data)

    def reset(self, id: int) -> Sending | None:
        """The end of an episode, where the server knows that; the protocol itself has none."""
        knows = bool(self._wire.session) or "reset" in _list(self._metadata or {}, "endpoints")
        if not (knows if self._wire.send_reset is None else self._wire.send_reset):
            return None
        tree = {"endpoint": "reset"}
        if self._wire.session:
            tree["session_id"] = self._wire.session
        self._asked = id, True
        return Sending(pack(tree))

    def receive(self, data: Any, now_s: float) -> Sequence[Event]:
        """What the server has, or the answer to what was asked.

        Raises:
            WireError: it is neither.
        """
        if isinstance(data, HttpResponse):
            kind = STATUSES.get(data.status, Trouble.MALFORMED)
            text = data.body[:MAX_TEXT].decode("utf-8", "replace").strip()
            return [Failed(0, Problem(kind, f"HTTP {data.status}: {text}"))]
        told = data if isinstance(data, str) else None
        tree = {"error": told} if told is not None else unpack(data, self._wire.max_bytes)
        problem = _problem(tree)
        if self._metadata is None:
            if problem is not None:
                return [Failed(0, problem)]
            return [self._welcomed(tree)]
        if self._asked is None:
            raise WireError("an answer to nothing")
        (id, was_reset), self._asked = self._asked, None
        if problem is not None:
            return [Failed(id, problem)]
        return [Answered(id, None)] if was_reset else [self._answered(id, tree)]

    # What the server has --------------------------------------------------------------------------------------

    def _welcomed(self, tree: Any) -> Welcome:
        if not isinstance(tree, dict):
            raise WireError(f"a server begins with a map of what it has, got {type(tree).__name__}")
        declared = tree.get("spec")
        try:
            spec = policy_spec_from_dict(declared) if isinstance(declared, dict) else _spec(self._wire, tree)
        except InterfaceValidationError as error:
            raise WireError(f"what the server says it has: {error}") from error
        self._metadata, self.spec, self._declared = tree, spec, isinstance(declared, dict)
        version = tree.get("server")
        return Welcome(Offer(Readiness.READY, "", spec, "", version if isinstance(version, str) else ""))

    # What is asked --------------------------------------------------------------------------------------------

    def _observation(self, frame: Frame) -> dict[str, Any]:
        spec = self.spec
        cameras = list(frame.images) if spec is None else spec.required_image_keys
        states = list(frame.state) if spec is None else spec.required_state_keys
        pictures = {
            pair.theirs: _there(frame.images, pair.ours[0], "image") for pair in _all(cameras, self._wire.cameras)
        }
        kind = np.float64 if self._declared else np.float32  # which is what others were trained with
        vectors = {pair.theirs: _vector(frame, pair).astype(kind) for pair in _all(states, self._wire.states)}
        prompt = frame.task.get("prompt") or self._wire.task
        tree: dict[str, Any] = {"prompt": prompt} if prompt else {}
        if self._wire.dialect == "aloha":
            images = {name: np.ascontiguousarray(image.transpose(2, 0, 1)) for name, image in pictures.items()}
            return {**vectors, "images": images, **tree}
        if self._wire.dialect == "auto" and self._declared:
            return {"images": pictures, "states": vectors, **tree}
        return {**pictures, **vectors, **tree}

    # What it answers ------------------------------------------------------------------------------------------

    def _answered(self, id: int, tree: Any) -> Answered:
        rows, seconds = tree, None
        if isinstance(tree, dict):
            rows = tree["actions"] if "actions" in tree else self._side_by_side(tree)
            seconds = _seconds(tree.get("server_timing"))
        if not isinstance(rows, np.ndarray):
            raise WireError(f"the answer holds no actions: {str(tree)[:200]}")
        while rows.ndim > 2 and rows.shape[0] == 1:
            rows = rows[0]
        width = self.spec.action_dim if self.spec is not None and self.spec.outputs else None
        try:
            return Answered(id, ActionChunk(checked_rows(rows, width)), seconds)
        except InterfaceValidationError as error:
            raise WireError(f"the server's actions: {error}") from error

    def _side_by_side(self, tree: Mapping[Any, Any]) -> Any:
        """One array of several by name, in the order of the spec, or of the server's own list of them."""
        arrays = {key: value for key, value in tree.items() if isinstance(value, np.ndarray) and value.ndim >= 2}
        names = [] if self.spec is None else [output.target for output in self.spec.outputs]
        names = names or [name for name in _list(self._metadata or {}, "action_keys") if isinstance(name, str)]
        if not names:
            return next(iter(arrays.values())) if len(arrays) == 1 else None
        for name in names:
            if name not in arrays:
                there = ", ".join(map(str, arrays))[:400] or "none"
                known = [key for key in arrays if isinstance(key, str)]
                raise WireError(f"no action {name!r}{nearest(name, known)}; there are: {there}")
        try:
            return np.concatenate([arrays[name] for name in names], axis=-1)
        except ValueError as error:
            raise WireError(f"the server's actions do not lie side by side: {error}") from error


def _spec(wire: OpenPi, metadata: Mapping[Any, Any]) -> PolicySpec | None:
    """What the options say, with what the server says beside it; None where nobody says what the columns are."""
    if not wire.outputs:
        return None
    horizon, hz = metadata.get("action_horizon"), metadata.get("control_hz")
    return PolicySpec(
        "openpi",
        [pair.ours[0] for pair in wire.cameras],
        [name for pair in wire.states for name in pair.ours],
        outputs=wire.outputs,
        action_horizon=wire.action_horizon or (horizon if type(horizon) is int and horizon > 0 else None),
        control_hz=wire.control_hz or (float(hz) if isinstance(hz, (int, float)) and 0 < hz < 1e6 else None),
    )


def _all(names: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    """Every one of our names once, under their names where an option says these."""
    wanted = [pair for pair in pairs if any(name in names for name in pair.ours)]
    covered = {name for pair in wanted for name in pair.ours}
    return wanted + [Pair(name, (name,)) for name in names if name not in covered]


def _there(found: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in found:
        there = ", ".join(found) or "none"
        raise InterfaceValidationError(f"the frame has no {what} {name!r}{nearest(name, found)}; it has {there}")
    return found[name]


def _vector(frame: Frame, pair: Pair) -> Any:
    parts: list[Any] = [_there(frame.state, name, "state") for name in pair.ours]
    vector = parts[0] if len(parts) == 1 else np.concatenate([np.ravel(part) for part in parts])
    if pair.dim and vector.size != pair.dim:
        raise InterfaceValidationError(f"{pair.theirs} is {pair.dim} numbers, the frame has {vector.size}")
    return vector


def _problem(tree: Any) -> Problem | None:
    """The problem that a server tells, in any of the ways of this family."""
    if not isinstance(tree, dict):
        return None
    text = tree.get("message") if tree.get("type") == "error" else tree.get("error")
    if not isinstance(text, str):
        return None
    kind, colon, rest = text.partition(": ")
    if colon and kind in list(Trouble):
        return Problem(Trouble(kind), rest[-MAX_TEXT:] or kind)
    return Problem(Trouble.POLICY_FAILED, text.strip()[-MAX_TEXT:] or "the server says only that it failed")


def _list(metadata: Mapping[Any, Any], name: str) -> list[Any]:
    found = metadata.get(name)
    return found if isinstance(found, list) else []


def _seconds(timing: Any) -> float | None:
    found = timing.get("infer_ms") if isinstance(timing, dict) else None
    return found / 1e3 if isinstance(found, float) and 0 <= found < 1e9 else None
