"""The server's half: what it has, then a chunk for every observation.

What is wrong with an observation is told in the answer, in the words that the client's own server would use, and
the connection goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicySpec, spec_to_dict
from chunkwise.contract.errors import nearest
from chunkwise.wires import (
    NO_SPEC,
    Call,
    Fetch,
    Hello,
    HttpRequest,
    HttpResponse,
    Infer,
    Offer,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    Trouble,
    WireError,
)
from chunkwise.wires.openpi import SGLANG_PATH, VLLM_PATH, OpenPi
from chunkwise.wires.openpi.arrays import pack, unpack
from chunkwise.wires.openpi.observation import ALOHA, frame_of

MAX_TOKEN: Final = 4096
MAX_NAME: Final = 128
DEFAULT_HZ: Final = 50.0
IMPLIED: Final = 0
"""Number of a reset that nobody asked for, so that nobody is told of it."""
STATUSES: Final = {Trouble.UNAUTHORISED: 401}
"""HTTP statuses of problems at the beginning; 503 for every other."""


class OpenPiServer:
    """The server's end of one connection.

    Args:
        wire: with the options.
    """

    def __init__(self, wire: OpenPi) -> None:
        self._wire = wire
        self._path = ""
        self._begun = self._loading = False
        self._spec: PolicySpec | None = None
        self._columns: np.ndarray[Any, np.dtype[np.intp]] | None = None
        self._ids = 0
        self._since_s = 0.0
        self._episode: str | None = None
        self._asked_s: dict[int, float] = {}
        self._answered_s = 0.0
        self._total_s: float | None = None

    def opened(self, offer: Offer, now_s: float) -> bytes | None:
        """Nothing before the request is known."""
        self._loading = offer.readiness is Readiness.LOADING
        return None

    def receive(self, data: HttpRequest | bytes | bytearray | memoryview | str, now_s: float) -> Sequence[Call]:
        """The calls in the request that begins the connection, or in one frame.

        Raises:
            WireError: the connection does not begin with a request, or has a second one.
        """
        if isinstance(data, HttpRequest):
            return [self._begin(data)]
        if not self._begun:
            raise WireError("a frame before the request for a websocket")
        self._ids += 1
        try:
            if isinstance(data, str):
                raise WireError("a text frame; observations are binary ones")
            return self._calls(unpack(data, self._wire.max_bytes), now_s)
        except WireError as error:
            return [self._infer(_refusing(error), now_s)]

    def fetched(self, call: Fetch, content: memoryview | Problem, now_s: float) -> Sequence[Call]:
        """Never: no observation is in a file.

        Raises:
            WireError: always.
        """
        raise WireError("the openpi wire asks for no file")

    def answer(self, call: Call, result: Result, now_s: float) -> bytes | str | HttpResponse | None:
        """What to send for the result of a call."""
        if isinstance(call, Hello):
            return self._greeting(result, now_s)
        if isinstance(call, Reset) and call.id == IMPLIED:
            return None
        if isinstance(result, Problem):
            if isinstance(call, Infer):
                self._asked_s.pop(call.id, None)
            return self._told(result)
        if isinstance(call, Reset):
            return pack({"status": "reset successful"})
        if isinstance(call, Infer) and isinstance(result, ActionChunk):
            return self._acted(call.id, result, now_s)
        return self._told(Problem(Trouble.POLICY_FAILED, "no answer"))

    # The beginning --------------------------------------------------------------------------------------------

    def _begin(self, request: HttpRequest) -> Call:
        if self._begun:
            raise WireError("a second request for a websocket")
        if request.headers.get("upgrade", "websocket").lower() != "websocket":
            return Reply(HttpResponse(426, b"observations come over a websocket\n", "text/plain"))
        self._begun, self._path = True, request.path.rstrip("/")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        known = kind.lower() in ("api-key", "bearer") and len(token) <= MAX_TOKEN
        return Hello(token=token.strip() if known else "", wait=True)

    def _greeting(self, result: Result, now_s: float) -> bytes | str | HttpResponse | None:
        if isinstance(result, Problem):
            if self._loading and result.kind is not Trouble.UNAUTHORISED:  # the websocket is there already
                return self._told(result)
            body = f"{result.kind}: {result.text}\n".encode()
            return HttpResponse(STATUSES.get(result.kind, 503), body, "text/plain")
        if not isinstance(result, Offer) or result.readiness is Readiness.FAILED:
            why = result.detail if isinstance(result, Offer) else ""
            return self._told(Problem(Trouble.POLICY_FAILED, f"the policy did not load: {why}"))
        self._since_s = self._answered_s = now_s
        self._spec = result.policy
        metadata: dict[str, Any] = {"server": result.version, "endpoints": ["infer", "reset"]}
        if result.policy is not None:
            try:
                sent = self._in_order(result.policy)
            except WireError as error:
                return self._told(Problem(Trouble.MISMATCH, str(error)))
            metadata |= _metadata(sent)
        return pack(metadata)

    def _in_order(self, spec: PolicySpec) -> PolicySpec:
        """The policy's spec with its outputs in the order in which their columns are sent.

        Raises:
            WireError: an option names an output that the policy does not have, or leaves one out.
        """
        there = [output.target for output in spec.outputs]
        order = list(self._wire.actions) or there
        if not self._wire.actions and {output.target: output.dim for output in spec.outputs} == ALOHA:
            order = list(ALOHA)
        for name in order:
            if name not in there:
                raise WireError(f"actions: the policy has no output {name!r}{nearest(name, there)}")
        if len(order) < len(there):
            raise WireError(f"actions: {', '.join(name for name in there if name not in order)} is missing")
        starts = dict(zip(there, np.cumsum([0] + [output.dim for output in spec.outputs]).tolist(), strict=False))
        outputs = [output for name in order for output in spec.outputs if output.target == name]
        if order != there:
            pieces = [np.arange(starts[item.target], starts[item.target] + item.dim) for item in outputs]
            self._columns = np.concatenate(pieces)
        return replace(spec, outputs=outputs)

    # Frames ---------------------------------------------------------------------------------------------------

    def _calls(self, tree: Any, now_s: float) -> list[Call]:
        if not isinstance(tree, dict):
            raise WireError(f"an observation is a map, got {type(tree).__name__}")
        endpoint, episode = tree.get("endpoint", "infer"), tree.get("session_id")
        if endpoint not in ("infer", "reset"):
            raise WireError(f"no endpoint {endpoint!r:.60}; there are: infer, reset")
        if episode is not None and (not isinstance(episode, (str, int)) or len(str(episode)) > MAX_NAME):
            raise WireError(f"session_id must be a text of at most {MAX_NAME} letters")
        another = episode is not None and self._episode not in (None, str(episode))
        if episode is not None:
            self._episode = str(episode)
        if endpoint == "reset":
            self._since_s = now_s
            return [Reset(self._ids)]
        if self._spec is None:
            raise WireError(NO_SPEC)
        spec, wire = self._spec, self._wire
        call = self._infer(lambda: frame_of(tree, spec, wire.cameras, wire.states, wire.task), now_s)
        return [Reset(IMPLIED), call] if another else [call]

    def _infer(self, complete: Callable[[], Frame], now_s: float) -> Infer:
        """A request; the protocol counts no steps, so the clock does."""
        hz = DEFAULT_HZ if self._spec is None or self._spec.control_hz is None else self._spec.control_hz
        step = max(int((now_s - self._since_s) * hz), 0)
        self._asked_s[self._ids] = now_s
        return Infer(self._ids, Frame(), ChunkRequest(step, id=self._ids), complete=complete)

    # Answers --------------------------------------------------------------------------------------------------

    def _acted(self, id: int, chunk: ActionChunk, now_s: float) -> bytes | str:
        began_s = self._asked_s.pop(id, now_s)
        rows = chunk.rows if self._columns is None else chunk.rows[:, self._columns]
        with np.errstate(over="ignore"):
            sent = rows.astype(np.float32)
        if not np.isfinite(sent).all():
            return self._told(Problem(Trouble.POLICY_FAILED, "the chunk holds a number that is not finite"))
        bare = self._path == VLLM_PATH if self._wire.bare is None else self._wire.bare
        if bare:
            return pack(sent)
        timing = {"infer_ms": 1e3 * (now_s - began_s)}
        if self._total_s is not None:
            timing["prev_total_ms"] = 1e3 * self._total_s
        self._total_s, self._answered_s = now_s - self._answered_s, now_s
        policy_s = chunk.meta.get("server_s", now_s - began_s)
        return pack({"actions": sent, "policy_timing": {"infer_ms": 1e3 * policy_s}, "server_timing": timing})

    def _told(self, problem: Problem) -> bytes | str:
        text = f"{problem.kind}: {problem.text}"
        if self._path == VLLM_PATH:
            return pack({"type": "error", "message": text})
        if self._path == SGLANG_PATH:
            return pack({"error": text})
        return text


def _refusing(error: WireError) -> Callable[[], Frame]:
    """Refused when it is its turn: then it is answered, counted and logged like every other request."""
    text = str(error)

    def complete() -> Frame:
        raise WireError(text)

    return complete


def _metadata(spec: PolicySpec) -> dict[str, Any]:
    """What a client may want to know, in plain values; the names are vLLM-omni's where it has one."""
    outputs = [replace(output, meta={}) for output in spec.outputs]
    plain = replace(spec, meta={}, outputs=outputs, supports_prefix=False)  # the protocol has no place for one
    return {
        "policy": spec.name,
        "action_horizon": spec.action_horizon,
        "action_dim": spec.action_dim,
        "action_keys": [output.target for output in spec.outputs],
        "action_space": spec.outputs[0].command if spec.outputs else "",
        "control_hz": spec.control_hz,
        "image_keys": list(spec.required_image_keys),
        "state_keys": list(spec.required_state_keys),
        "images": {name: asdict(rule) for name, rule in spec.images.items()},
        "spec": spec_to_dict(plain),
    }
