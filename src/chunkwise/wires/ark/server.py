"""The server's half: one for every request; what lasts longer is in the wire.

====================  ==========================================================================================
``POST /predict``     an observation, answered ``{"action": [14 numbers]}``
``POST /reset``       an episode ends, answered ``{"ok": true}``
``GET /health``       200 ``{"status": "ready", ...}``, or 503 with another status
====================  ==========================================================================================

Every other answer is ``{"detail": ...}``: a list of one FastAPI validation error where a field is missing or empty
(422), else a text that names the field.  400 is for what is wrong in itself, 401 for no token or another one,
beside 404, 405, 413 and 415; 500, 503 and 504 are for what the server cannot do.

The header ``X-Session`` names the session of a client that shares its address with others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from chunkwise.contract import Frame
from chunkwise.contract.values import Array
from chunkwise.wires import (
    Call,
    Fetch,
    HttpRequest,
    HttpResponse,
    Observe,
    Offer,
    Played,
    Problem,
    Readiness,
    Reply,
    Reset,
    Result,
    Status,
    Trouble,
    WireError,
)
from chunkwise.wires.ark import (
    CAMERAS,
    FAULT_HEADER,
    HOLD_HEADER,
    MAX_SESSIONS,
    PARTS,
    SESSION_HEADER,
    WIDTH,
    Ark,
    Episode,
)
from chunkwise.wires.ark.form import Refusal, fields_of, state_of, task_of, told
from chunkwise.wires.ark.pictures import check_picture

METHODS: Final = {"/predict": "POST", "/reset": "POST", "/health": "GET"}
STATUSES: Final = {
    Trouble.MALFORMED: 400,
    Trouble.UNAUTHORISED: 401,
    Trouble.POLICY_FAILED: 500,
    Trouble.DEADLINE: 504,
}
"""Statuses of problems; 503 for every other."""
LASTING: Final = (Trouble.MALFORMED, Trouble.UNAUTHORISED, Trouble.MISMATCH)
"""Problems that do not pass by themselves."""
MAX_HEADER: Final = 512
MAX_NAME: Final = 128
MAX_TOKEN: Final = 4096


class ArkServer:
    """The server's end of one request.

    Args:
        wire: with the options, and what is remembered of every session.
    """

    def __init__(self, wire: Ark) -> None:
        self._wire = wire
        self._state: list[float] = []
        self._before: Episode | None = None

    def opened(self, offer: Offer, now_s: float) -> HttpResponse | None:
        """Nothing: the client speaks first."""
        return None

    def receive(self, data: HttpRequest, now_s: float) -> Sequence[Call]:
        """The one call of a request; a refusal where it is wrong."""
        try:
            return [self._call(data, now_s)]
        except Refusal as refusal:
            return [Reply(refusal.response)]

    def fetched(self, call: Fetch, content: memoryview | Problem, now_s: float) -> Sequence[Call]:
        """Never: no request is in a file.

        Raises:
            WireError: always.
        """
        raise WireError("the ark wire asks for no file")

    def answer(self, call: Call, result: Result, now_s: float) -> HttpResponse | None:
        """The response to a call."""
        if isinstance(call, Observe):
            self._remember(call, result, now_s)
            return self._acted(result)
        if isinstance(result, Problem):
            return refused(result)
        if isinstance(call, Status) and isinstance(result, Offer):
            return _health(result)
        if isinstance(call, Reset):
            self._wire.episodes.pop(call.session, None)
            return told(200, {"ok": True})
        return told(500, {"detail": "the server has no answer"})

    # What was asked -------------------------------------------------------------------------------------------

    def _call(self, request: HttpRequest, now_s: float) -> Call:
        method = METHODS.get(request.path)
        if method is None:
            raise Refusal(404, "Not Found")
        if request.method != method:
            raise Refusal(405, "Method Not Allowed", {"allow": method})
        if "origin" in request.headers:
            raise Refusal(403, "a page in a browser drives no robot")
        session, token = _session(request), _token(request)
        if request.path == "/health":
            return Status(session=session, token=token)
        if request.path == "/reset":
            return Reset(session=session, token=token)
        return self._observe(request, session, token, now_s)

    def _observe(self, request: HttpRequest, session: str, token: str, now_s: float) -> Observe:
        wire = self._wire
        fields = fields_of(request, wire.multipart)
        numbers, task = state_of(fields), task_of(fields)
        pictures = {name: fields[name] for name in CAMERAS if name in fields}
        for name, data in pictures.items():
            try:
                check_picture(data, wire.max_side)
            except WireError as error:
                raise Refusal(400, f"{name}: {error}") from error
        pictures = {name: data for name, data in pictures.items() if name in wire.cameras}
        self._state = numbers
        episode, reset = self._episode(session, task, list(pictures), now_s)
        state = self._state_by_name(numbers)
        return Observe(
            episode.robot,
            Frame({}, state, {"prompt": task}),
            self._completion(state, task, pictures, episode),
            control_hz=wire.control_hz,
            paced=True,
            patience_s=wire.start_patience_s if reset else 0.0,
            reset=reset,
            session=session,
            token=token,
        )

    def _state_by_name(self, numbers: Sequence[float]) -> dict[str, Array]:
        row = np.array(numbers, dtype=np.float64)
        state, start = {}, 0
        for part, dof in PARTS:
            state[self._wire.parts[part]] = row[start : start + dof]
            start += dof
        return state

    def _completion(
        self, state: dict[str, Array], task: str, pictures: dict[str, bytes], episode: Episode
    ) -> Callable[[], Frame]:
        wire = self._wire

        def complete() -> Frame:
            images = {}
            for name, data in pictures.items():
                try:
                    images[wire.cameras[name]] = wire.codec.decode(data)
                except WireError as error:
                    raise WireError(f"{name}: {error}") from error
            gone = [name for name in episode.robot.image_keys if name not in images]
            if gone:
                raise WireError(f"the episode began with a picture of {', '.join(gone)}, this call has none")
            return Frame(images, dict(state), {"prompt": task})

        return complete

    # What is remembered ---------------------------------------------------------------------------------------

    def _episode(self, session: str, task: str, cameras: list[str], now_s: float) -> tuple[Episode, bool]:
        """The episode that a call belongs to, and whether the call begins it.

        Remembered before the call is answered, for a second one may come meanwhile.
        """
        episodes = self._wire.episodes
        before = self._before = episodes.get(session)
        reset = before is None or before.task != task or now_s - before.seen_s > self._wire.idle_s
        robot = self._wire.robot(cameras) if before is None or reset else before.robot
        episode = Episode(task, now_s, robot)
        episodes[session] = episode
        episodes.move_to_end(session)
        if len(episodes) > MAX_SESSIONS:
            episodes.popitem(last=False)
        return episode, reset

    def _remember(self, call: Observe, result: Result, now_s: float) -> None:
        """A pause is counted from the answer; an episode that could not begin has not, and who may not ask leaves
        no trace."""
        episodes, key = self._wire.episodes, call.session
        refused = isinstance(result, Problem) and (call.reset or result.kind is Trouble.UNAUTHORISED)
        if not refused:
            if key in episodes:
                episodes[key] = episodes[key]._replace(seen_s=now_s)
        elif self._before is None:
            episodes.pop(key, None)
        else:
            episodes[key] = self._before

    # What is answered -----------------------------------------------------------------------------------------

    def _acted(self, result: Result) -> HttpResponse:
        if isinstance(result, Played):
            return self._played(result)
        problem = result if isinstance(result, Problem) else Problem(Trouble.POLICY_FAILED, "no answer")
        if self._wire.errors == "status" or problem.kind in LASTING:
            return refused(problem)
        return _action(self._state, True, f"{problem.kind}: {problem.text}")

    def _played(self, played: Played) -> HttpResponse:
        row = played.row
        if row is None:
            return told(503, {"detail": "nothing is known that holds the robot"})
        if row.shape != (WIDTH,):
            text = f"the policy commands {row.size} of the {WIDTH} numbers; the protocol needs all of them"
            return told(503, {"detail": text})
        if not np.isfinite(row).all():
            return told(503, {"detail": "the row holds a number that is not finite"})
        return _action(row.tolist(), played.holding, "; ".join(played.faults))


def refused(problem: Problem) -> HttpResponse:
    """A problem as a status."""
    headers = {"www-authenticate": "Bearer"} if problem.kind is Trouble.UNAUTHORISED else {}
    return told(STATUSES.get(problem.kind, 503), {"detail": f"{problem.kind}: {problem.text}"}, headers)


def _action(row: list[float], holding: bool, fault: str) -> HttpResponse:
    headers = {}
    if holding:
        headers[HOLD_HEADER] = "1"
    if fault:
        line = fault[:MAX_HEADER].encode("ascii", "replace").decode()
        headers[FAULT_HEADER] = "".join(letter if letter.isprintable() else " " for letter in line)
    return told(200, {"action": row}, headers)


def _health(offer: Offer) -> HttpResponse:
    tree = {
        "status": offer.readiness.value,
        "detail": offer.detail,
        "policy": "" if offer.policy is None else offer.policy.name,
        "version": offer.version,
    }
    return HttpResponse(200 if offer.readiness is Readiness.READY else 503, json.dumps(tree).encode())


def _session(request: HttpRequest) -> str:
    name = request.headers.get(SESSION_HEADER)
    if name is None:
        return f"at {request.peer[:MAX_NAME] or 'somebody'}"
    if not 0 < len(name) <= MAX_NAME or not (name.isascii() and name.isprintable()):
        raise Refusal(400, f"x-session must be 1 to {MAX_NAME} printable ASCII letters")
    return f"named {name}"


def _token(request: HttpRequest) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        return ""
    if len(token) > MAX_TOKEN:
        raise Refusal(400, f"authorization has more than {MAX_TOKEN} letters")
    return token.strip()
