"""The client's half: a GR00T server as a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    checked_rows,
    nearest,
    validate_policy_spec,
)
from chunkwise.wires import (
    Answered,
    Event,
    Failed,
    Offer,
    Problem,
    Readiness,
    Sending,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires._messagepack import packed, unpacked
from chunkwise.wires.gr00t import MAX_NAME, MAX_NAMES, Gr00t
from chunkwise.wires.gr00t.dialects import DIALECTS, array_of, modality_of, written

MAX_ERROR: Final = 2000


class Gr00tClient:
    """The client's end.

    Args:
        wire: with the options.

    Attributes:
        spec: of the policy behind the server, where the options say what its columns are.
        token: shown with every request; empty for none.
    """

    lockstep = True

    def __init__(self, wire: Gr00t) -> None:
        self._wire, self._form = wire, DIALECTS[wire.dialect]
        self.spec: PolicySpec | None = None
        self.token = ""
        self._cameras: dict[str, str] | None = None
        self._states: dict[str, str] | None = None
        self._language: str | None = wire.language
        self._asked: tuple[int, str] | None = None

    def opening(self) -> Sending | None:
        """What modalities there are."""
        return self._sending(0, "get_modality_config")

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        """One observation, in the chosen dialect.

        Raises:
            InterfaceValidationError: the frame lacks what the server reads, or holds what cannot be sent.
        """
        cameras = {name: name for name in frame.images} if self._cameras is None else self._cameras
        states = {name: name for name in frame.state} if self._states is None else self._states
        video = {theirs: self._written(_picture(frame, ours)) for ours, theirs in cameras.items()}
        state = {theirs: self._written(self._numbers(frame, ours)) for ours, theirs in states.items()}
        observation: dict[str, Any] = {"video": video, "state": state, "language": {}}
        if self._language is not None:
            observation["language"] = {self._language: [[self._prompt(frame)]]}
        if self._form.listed:
            return self._sending(id, "get_action", {"observation": observation, "options": None})
        flat = {f"video.{name}": value for name, value in video.items()}
        flat |= {f"state.{name}": value for name, value in state.items()}
        flat |= {name: value[0] for name, value in observation["language"].items()}
        return self._sending(id, "get_action", flat)

    def reset(self, id: int) -> Sending | None:
        """An episode ends; N1 and N1.5 have no word for it."""
        return self._sending(id, "reset", {"options": None}) if self._form.listed else None

    def receive(self, data: Any, now_s: float) -> Sequence[Event]:
        """The answer to what was asked.

        Raises:
            WireError: it is none.
        """
        if self._asked is None:
            raise WireError("an answer to nothing")
        (id, endpoint), self._asked = self._asked, None
        answer = None if bytes(data[:6]) == b"ERROR" else unpacked(data, self._wire.max_bytes)
        if answer is None or (isinstance(answer, dict) and "error" in answer):
            return [self._failed(id, endpoint, "ERROR" if answer is None else str(answer["error"]))]
        if endpoint == "get_modality_config":
            return [self._welcome(answer)]
        if endpoint == "reset":
            return [Answered(id, None)]
        return [self._chunk(id, answer)]

    # What is sent ---------------------------------------------------------------------------------------------

    def _sending(self, id: int, endpoint: str, data: Any = None) -> Sending:
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self.token:
            request["api_token"] = self.token
        self._asked = id, endpoint
        return Sending(packed(request))

    def _written(self, array: NDArray[Any]) -> dict[str | bytes, Any]:
        """An array with the time, and the batch where the dialect has it, before its own sides."""
        leading = (1, 1) if self._form.batched else (1,)
        return written(array.reshape(leading + array.shape), self._form.nd)

    def _numbers(self, frame: Frame, name: str) -> NDArray[np.float32]:
        value, needed = frame.state.get(name), self._wire.dims.get(name)
        if value is None:
            raise InterfaceValidationError(f"state {name!r} is missing{nearest(name, frame.state)}")
        if value.ndim != 1 or (needed is not None and len(value) != needed) or not np.isfinite(value).all():
            wanted = "finite numbers" if needed is None else f"{needed} finite numbers"
            raise InterfaceValidationError(f"state {name!r} must be {wanted}, got shape {value.shape}")
        return value.astype(np.float32)

    def _prompt(self, frame: Frame) -> str:
        prompt = frame.task.get("prompt", self._wire.task)
        if not isinstance(prompt, str):
            raise InterfaceValidationError(f"task 'prompt' must be a text, got {type(prompt).__name__}")
        return prompt

    # What is heard --------------------------------------------------------------------------------------------

    def _failed(self, id: int, endpoint: str, text: str) -> Event:
        word = text.partition(":")[0].strip()
        if endpoint == "get_modality_config" and word == Readiness.LOADING:
            return Welcome(Offer(Readiness.LOADING, text[:MAX_ERROR]))
        kind = Trouble(word) if word in list(Trouble) else Trouble.POLICY_FAILED
        if word == "Unauthorized":
            kind = Trouble.UNAUTHORISED
        return Failed(id, Problem(kind, text[:MAX_ERROR] or "the server says nothing of it"))

    def _welcome(self, answer: Any) -> Welcome:
        if not isinstance(answer, dict):
            raise WireError(f"get_modality_config answered {type(answer).__name__}, not a map")
        found = {kind: modality_of(value, str(kind)[:80]) for kind, value in answer.items()}
        every = [key for keys, _ in found.values() for key in keys]
        if len(every) > MAX_NAMES or any(len(key) > MAX_NAME for key in every):
            raise WireError(f"more than {MAX_NAMES} names, or one of more than {MAX_NAME} letters")
        names = {kind: [_bare(key, str(kind)) for key in keys] for kind, (keys, _) in found.items()}
        if names:
            parts = names.get("state", []) + names.get("action", [])
            _check("cameras", self._wire.cameras, names.get("video", []))
            _check("states and actions", self._wire.states | self._wire.actions, parts)
            self._cameras = _ours(names.get("video", []), self._wire.cameras)
            self._states = _ours(names.get("state", []), self._wire.states)
            keys = found["language"][0] if "language" in found else []
            self._language = keys[0] if keys else None
        actions = list(_ours(names["action"], self._wire.actions)) if "action" in names else None
        self.spec = self._spec(actions, found["action"][1] if "action" in found else 0)
        return Welcome(Offer(Readiness.READY, "", self.spec))

    def _spec(self, actions: list[str] | None, steps: int) -> PolicySpec | None:
        wire = self._wire
        if not wire.outputs:
            return None
        told = [output.target for output in wire.outputs]
        if actions is not None and set(told) != set(actions):
            raise WireError(f"outputs: {', '.join(told)} are said, the server's are {', '.join(actions)}")
        spec = PolicySpec(
            "gr00t",
            list(self._cameras or {}),
            list(self._states or {}),
            outputs=list(wire.outputs),
            action_horizon=wire.action_horizon or (steps if steps > 1 else None),
            control_hz=wire.control_hz,
        )
        try:
            validate_policy_spec(spec)
        except InterfaceValidationError as error:
            raise WireError(str(error)) from error
        return spec

    def _chunk(self, id: int, answer: Any) -> Event:
        parts = answer[0] if isinstance(answer, list) and answer else answer
        if not isinstance(parts, dict) or not parts:
            raise WireError("get_action answered no map of parts")
        found: dict[str, NDArray[Any]] = {}
        for key, value in parts.items():
            theirs = _bare(str(key), "action")
            found[self._wire.actions.get(theirs, theirs)] = _rows(array_of(value, str(key)[:120]), str(key)[:120])
        targets = list(found) if self.spec is None else [output.target for output in self.spec.outputs]
        if set(targets) != set(found) or (self.spec is None and len(found) > 1):
            told = ", ".join(f"{name} ({rows.shape[1]})" for name, rows in found.items())
            text = f"the server's parts are {told}; say outputs=component:kind:dim of each"
            return Failed(id, Problem(Trouble.MISMATCH, text))
        for name, rows in found.items():
            if not np.isfinite(rows).all():
                text = f"{name} holds a number that is not finite"
                return Failed(id, Problem(Trouble.POLICY_FAILED, text))
        if len({len(rows) for rows in found.values()}) > 1:
            raise WireError("the parts of an action have different numbers of rows")
        try:
            rows = checked_rows(np.concatenate([found[name] for name in targets], axis=1), self._width(found))
        except InterfaceValidationError as error:
            raise WireError(str(error)) from error
        return Answered(id, ActionChunk(rows))

    def _width(self, found: Mapping[str, NDArray[Any]]) -> int | None:
        """Columns in all, once every part has as many as were said."""
        if self.spec is None:
            return None
        for output in self.spec.outputs:
            columns = found[output.target].shape[1]
            if columns != output.dim:
                raise WireError(f"{output.target}: {columns} columns, {output.dim} were said")
        return self.spec.action_dim


def _picture(frame: Frame, name: str) -> NDArray[np.uint8]:
    image = frame.images.get(name)
    if image is None:
        raise InterfaceValidationError(f"camera {name!r} is missing{nearest(name, frame.images)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InterfaceValidationError(f"image {name!r} must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    return image


def _rows(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Rows ``(T, D)`` of a part: the first of a batch; a part of one number may lack its side."""
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2, 3) or not array.size:
        raise WireError(f"{where} must be numbers (T, D), got {array.dtype} {array.shape}")
    if array.ndim == 3 and array.shape[0] != 1:
        raise WireError(f"{where} has a batch of {array.shape[0]}, one robot asked")
    if array.ndim == 1:
        return array[:, None]
    return array[0] if array.ndim == 3 else array


def _bare(key: str, kind: str) -> str:
    return key.removeprefix(f"{kind}.")


def _check(option: str, renamed: Mapping[str, str], there: Sequence[str]) -> None:
    """An option names only what the server has."""
    for theirs in renamed:
        if theirs not in there:
            raise WireError(f"option {option}: the server has no {theirs!r}{nearest(theirs, there)}")


def _ours(theirs: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Our names with theirs."""
    return {renamed.get(name, name): name for name in theirs}
