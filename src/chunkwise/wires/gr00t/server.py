"""The server's half.

====================  ==========================================================================================
``get_action``        the next chunk; also a request without an endpoint
``reset``             an episode ends, answered ``{}``
``ping``              ``{"status": "ok", "message": "Server is running"}``
``get_modality_config``  names of cameras, states, actions and the task, and how many rows a chunk has
``kill``              answered, and ignored: no client ends this server
====================  ==========================================================================================

Whatever is wrong is answered ``{"error": ...}``, and the connection goes on: the oldest clients wait for an answer
without end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicySpec, nearest
from chunkwise.wires import (
    NO_SPEC,
    Call,
    Fetch,
    Infer,
    Offer,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    Status,
    Trouble,
    WireError,
)
from chunkwise.wires._messagepack import packed, unpacked
from chunkwise.wires.gr00t import CAMERA_ALIASES, LANGUAGE, MAX_NAME, MAX_NAMES, PART_ALIASES, Gr00t, matched
from chunkwise.wires.gr00t.dialects import DIALECTS, Form, array_of, is_nd, modality, text_of, written

MAX_WAITING: Final = 64
"""Requests of one connection that are not answered yet."""
MAX_TOKEN: Final = 4096
MAX_PIXELS: Final = 1 << 26
DEFAULT_HZ: Final = 50.0
"""Steps per second of a policy that does not say its rate."""
ENDPOINTS: Final = ("get_action", "reset", "ping", "get_modality_config", "kill")
UNAUTHORISED: Final = "Unauthorized: Invalid API token"
PONG: Final = {"status": "ok", "message": "Server is running"}
KILLED: Final = {"status": "ok", "message": "Ignored: this server is not ended by its clients"}


class Gr00tServer:
    """The server's end.

    Args:
        wire: with the options.
    """

    def __init__(self, wire: Gr00t) -> None:
        self._wire = wire
        self._policy: PolicySpec | None = None
        self._form: Form | None = None
        self._id = 0
        self._since_s: float | None = None  # the episode's first request
        self._order: deque[int] = deque()
        self._said: dict[int, bytes] = {}
        self._forms: dict[int, Form] = {}
        self._questions: dict[int, str] = {}

    def opened(self, offer: Offer, now_s: float) -> bytes | None:
        """Nothing: the client speaks first."""
        self._policy = offer.policy
        return None

    def receive(self, data: Any, now_s: float) -> Sequence[Call]:
        """The call of one request; what is wrong is answered, not raised.

        Raises:
            WireError: too many requests were sent without waiting for their answers.
        """
        if len(self._order) >= MAX_WAITING:
            raise WireError(f"more than {MAX_WAITING} requests that wait for an answer")
        self._id += 1
        self._order.append(self._id)
        try:
            return self._calls(self._id, data, now_s)
        except WireError as error:
            said = self._tell(self._id, {"error": str(error)})
            return [] if said is None else [Reply(said)]

    def answer(self, call: Call, result: Result, now_s: float) -> Any:
        """The answer, once those before it are there; a list where it was waited for."""
        id = getattr(call, "id", 0)
        if isinstance(result, Offer) and result.policy is not None:
            self._policy = result.policy
        if not id:  # our own question for the spec
            return None
        try:
            return self._tell(id, self._answered(id, result))
        except WireError as error:
            return self._tell(id, {"error": str(error)})

    def fetched(self, call: Fetch, content: memoryview | Problem, now_s: float) -> Sequence[Call]:
        """Never: no request is in a file.

        Raises:
            WireError: always.
        """
        raise WireError("the gr00t wire asks for no file")

    # What was asked -------------------------------------------------------------------------------------------

    def _calls(self, id: int, data: Any, now_s: float) -> Sequence[Call]:
        request = unpacked(data, self._wire.max_bytes)
        if not isinstance(request, dict):
            raise WireError(f"a request must be a map, got {type(request).__name__}")
        endpoint = request.get("endpoint", "get_action")
        if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
            raise WireError(f"Unknown endpoint: {endpoint!r:.80}{nearest(str(endpoint)[:80], ENDPOINTS)}")
        token = _token(request.get("api_token"))
        if endpoint == "reset":
            self._since_s = None
            return [Reset(id, token=token)]
        if endpoint != "get_action":
            self._questions[id] = endpoint
            return [Status(id, token=token)]
        seen = _Seen(request.get("data"))
        self._form = self._forms[id] = seen.form
        infer = Infer(
            id,
            Frame({}, dict(seen.states), {"prompt": seen.prompt}),
            ChunkRequest(self._step(now_s), id=id),
            token=token,
            complete=lambda: self._frame(seen),
        )
        return [infer] if self._policy is not None else [Status(token=token), infer]

    def _step(self, now_s: float) -> int:
        """Control steps since the episode began, which the protocol does not count and histories need."""
        if self._since_s is None:
            self._since_s = now_s
        hz = None if self._policy is None else self._policy.control_hz
        return max(int((now_s - self._since_s) * (hz or DEFAULT_HZ)), 0)

    def _frame(self, seen: _Seen) -> Frame:
        """What was seen, in the policy's words."""
        policy, wire = self._policy, self._wire
        if policy is None:
            raise WireError(NO_SPEC)
        targets = [output.target for output in policy.outputs]
        _check("cameras", wire.cameras, policy.required_image_keys)
        _check("states and actions", wire.states | wire.actions, [*policy.required_state_keys, *targets])
        cameras = matched("camera", policy.required_image_keys, list(seen.images), wire.cameras, CAMERA_ALIASES)
        states = matched("state", policy.required_state_keys, list(seen.states), wire.states, PART_ALIASES)
        images = {ours: seen.images[theirs] for ours, theirs in cameras.items()}
        task = {name: seen.texts[name] for name in policy.required_task_keys if name in seen.texts}
        found = {ours: seen.states[theirs] for ours, theirs in states.items()}
        return Frame(images, found, {"prompt": seen.prompt, **task})

    # What is answered -----------------------------------------------------------------------------------------

    def _answered(self, id: int, result: Result) -> Any:
        form, question = self._forms.pop(id, None), self._questions.pop(id, "")
        if isinstance(result, Problem):
            return {"error": _told(result)}
        if isinstance(result, ActionChunk) and form is not None:
            return self._acted(result, form)
        if isinstance(result, Offer):
            if question == "kill":
                return KILLED
            if result.readiness in (Readiness.LOADING, Readiness.FAILED, Readiness.DRAINING):
                return {"error": f"{result.readiness}: {result.detail}".rstrip(": ")}
            return PONG if question == "ping" else self._modalities()
        return {}

    def _acted(self, chunk: ActionChunk, form: Form) -> Any:
        if self._policy is None:
            raise WireError(NO_SPEC)
        rows, parts, start = chunk.rows.astype(np.float32), {}, 0
        if rows.shape[1] != self._policy.action_dim:
            raise WireError(f"the policy answered {rows.shape[1]} columns, it says {self._policy.action_dim}")
        for output in self._policy.outputs:
            part = rows[:, start : start + output.dim]
            name = self._theirs(output.target, self._wire.actions)
            parts[f"action.{name}" if form.dotted else name] = written(
                part[None] if form.batched else part, form.nd
            )
            start += output.dim
        return [parts, {}] if form.listed else parts

    def _modalities(self) -> dict[str, Any]:
        policy, wire = self._policy, self._wire
        if policy is None:
            raise WireError(NO_SPEC)
        form = self._form or (DIALECTS["n1.5"] if wire.dialect == "n1.5" else None)
        named = {
            "video": [self._theirs(name, wire.cameras) for name in policy.required_image_keys],
            "state": [self._theirs(name, wire.states) for name in policy.required_state_keys],
            "action": [self._theirs(output.target, wire.actions) for output in policy.outputs],
        }
        made = {}
        for kind, names in named.items():
            keys = [f"{kind}.{name}" for name in names] if form is not None and form.dotted else names
            made[kind] = modality(keys, range((policy.action_horizon or 1) if kind == "action" else 1), form)
        return {**made, "language": modality([LANGUAGE], [0], form)}

    @staticmethod
    def _theirs(ours: str, renamed: Mapping[str, str]) -> str:
        return next((theirs for theirs, name in renamed.items() if name == ours), ours)

    def _tell(self, id: int, answer: Any) -> bytes | list[bytes] | None:
        """An answer, and those that waited for it: the protocol has no numbers, so their order is all there is."""
        self._said[id] = packed(answer)
        due = []
        while self._order and self._order[0] in self._said:
            due.append(self._said.pop(self._order.popleft()))
        return due[0] if len(due) == 1 else due or None


class _Seen:
    """What a robot saw, in its own words; copied, and checked as far as that needs no policy.

    Args:
        data: of the request.

    Attributes:
        form: how it was written.
        images: camera -> uint8 RGB ``(height, width, 3)``, the newest.
        states: part -> float64 ``(dim,)``, the newest.
        texts: key -> text.
    """

    def __init__(self, data: Any) -> None:
        if not isinstance(data, dict):
            raise WireError(f"get_action needs data: a map, got {type(data).__name__}")
        listed = "observation" in data
        observation = data["observation"] if listed else data
        if not isinstance(observation, dict):
            raise WireError(f"observation must be a map, got {type(observation).__name__}")
        self.images: dict[str, NDArray[np.uint8]] = {}
        self.states: dict[str, NDArray[np.float64]] = {}
        self.texts: dict[str, str] = {}
        self._dotted = self._batched = self._nd = False
        for key, value in observation.items():
            self._entry(key, value)
        self.form = Form(listed, self._dotted, listed or self._batched, self._nd)

    @property
    def prompt(self) -> str:
        """The first text; empty where there is none."""
        return next(iter(self.texts.values()), "")

    def _entry(self, key: str | bytes, value: Any) -> None:
        name = _name(key)
        if name in ("video", "state", "language"):
            if not isinstance(value, dict):
                raise WireError(f"{name} must be a map of names, got {type(value).__name__}")
            for inner, item in value.items():
                self._take(name, _name(inner), item, f"{name}.{_name(inner)}")
            return
        kind, _, rest = name.removeprefix("observation.").partition(".")
        if kind in ("video", "state") and rest:
            self._dotted = True
            self._take(kind, rest, value, name)
        elif kind in ("annotation", "language", "task"):
            self._take("language", name, value, name)

    def _take(self, kind: str, name: str, value: Any, where: str) -> None:
        if len(self.images) + len(self.states) + len(self.texts) >= MAX_NAMES:
            raise WireError(f"an observation of more than {MAX_NAMES} names")
        if kind == "language":
            self.texts[name] = text_of(value, where)
            return
        array = array_of(value, where)
        self._nd = self._nd or is_nd(value)
        if kind == "video":
            self.images[name] = _picture(array, where)
        else:
            self._batched = self._batched or array.ndim == 3
            self.states[name] = _numbers(array, where)


def _name(key: str | bytes) -> str:
    name = str(key, "utf-8", "replace") if isinstance(key, bytes) else key
    if len(name) > MAX_NAME:
        raise WireError(f"a name of {len(name)} letters; at most {MAX_NAME} are taken")
    return name


def _picture(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """The newest picture of the first of a batch."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4, 5) or array.shape[-1] != 3 or not array.size:
        raise WireError(f"{where} must be uint8 (B, T, H, W, 3), got {array.dtype} {array.shape}")
    newest = _newest(array, array.ndim - 3, where)
    if newest.shape[0] * newest.shape[1] > MAX_PIXELS:
        raise WireError(f"{where} has {newest.shape[0]} x {newest.shape[1]} pixels")
    return np.ascontiguousarray(newest)


def _numbers(array: NDArray[Any], where: str) -> NDArray[np.float64]:
    """The newest state of the first of a batch."""
    if array.dtype.kind not in "iufb" or array.ndim not in (1, 2, 3) or not array.size:
        raise WireError(f"{where} must be numbers (B, T, D), got {array.dtype} {array.shape}")
    newest = _newest(array, array.ndim - 1, where)
    if not np.isfinite(newest).all():
        raise WireError(f"{where} holds a number that is not finite")
    return newest.astype(np.float64)


def _newest(array: NDArray[Any], leading: int, where: str) -> NDArray[Any]:
    if leading == 2 and array.shape[0] != 1:
        raise WireError(f"{where} has a batch of {array.shape[0]}; a session is one robot (B = 1)")
    newest: NDArray[Any] = array[(0, -1)[2 - leading :]]
    return newest


def _check(option: str, renamed: Mapping[str, str], known: Sequence[str]) -> None:
    """An option names only what the policy has."""
    for ours in renamed.values():
        if ours not in known:
            raise WireError(f"option {option}: the policy has no {ours!r}{nearest(ours, known)}")


def _token(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TOKEN:
        raise WireError("api_token must be a text")
    return value


def _told(problem: Problem) -> str:
    if problem.kind is Trouble.UNAUTHORISED:
        return UNAUTHORISED
    text = problem.text
    return text if text.startswith(str(problem.kind)) else f"{problem.kind}: {text}"
