"""What a robot and an engine say to each other at topics: requests, replies, and how the engine is.

The tensors and the request's id are IB-Robot's own.  What is ours stands in one further list of texts,
``task.chunkwise`` or ``action.chunkwise``, each text ``name=value``: the original leaves lists of texts alone.  A
request's id is of one robot alone, ``SESSION.GENERATION.NUMBER``, and the original gives it back as it came; so a
robot knows its own replies whoever answers.  A robot of ours says which engine of ours it asks, and that one alone
answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError, policy_spec_from_dict, spec_to_dict
from chunkwise.contract.errors import nearest
from chunkwise.wires import Offer, Problem, Readiness, Trouble, WireError
from chunkwise.wires._variants import Value, fields_of, texts_at, values_of

VERSION: Final = 1
REQUEST_ID: Final = "task.request_id"
REPLY_ID: Final = "action.request_id"
ACTION: Final = "action"
MAX_ID: Final = 128
_ASKED, _TOLD, _POLICY = "task.chunkwise", "action.chunkwise", "action.chunkwise.policy"
_RESERVED: Final = ("task", "action")

Operation = Literal["infer", "hello", "reset", "cancel"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a robot asks.

    Attributes:
        id: given back with the reply; empty where the robot gave none.
        batch: the network's tensors, or pictures as `policies/_apart.py` leaves them, uint8.
        session: the robot's name for itself; empty for an original one.
        generation: counts the robot's episodes; what an earlier one asked is given up.
        deadline_s: seconds from now after which the answer is worth nothing; None where the robot does not say.
        operation: ``hello`` is answered at once; ``reset`` begins a generation, ``cancel`` gives `target` up, and
            neither is answered.
        target: the id that is cancelled.
        engine: that is asked, by the name it has for itself; empty for whoever is there.
    """

    id: str
    batch: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    session: str = ""
    generation: int = 0
    deadline_s: float | None = None
    operation: Operation = "infer"
    target: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine answers.

    Attributes:
        id: the request's.
        rows: float32 ``(rows, dim)``, normalised; None where there is a problem, and for a ``hello``.
        problem: why there are none.
        session: the request's, so that one robot's reply is never another's.
        server_s: how long the network took; None where the engine does not say.
        engine: that answers, by the name it has for itself; empty for an original one.
    """

    id: str
    rows: NDArray[np.float32] | None = None
    problem: Problem | None = None
    session: str = ""
    server_s: float | None = None
    engine: str = ""


def request_fields(request: Request, *, packed: bool) -> dict[str, Any]:
    """The fields of a request's message.

    Args:
        request: with tensors whose names begin with ``observation``, for an original engine.
        packed: the engine is one of ours.

    Raises:
        WireError: a tensor that the message cannot hold.
    """
    note = {"session": request.session, "generation": request.generation, "operation": request.operation}
    if request.deadline_s is not None:
        note["deadline_s"] = f"{request.deadline_s:.6f}"
    note |= {name: text for name, text in (("target", request.target), ("engine", request.engine)) if text}
    return fields_of({**request.batch, REQUEST_ID: request.id, _ASKED: _noted(note)}, packed=packed)


def request_of(message: Any) -> Request:
    """The request in a message.

    Raises:
        WireError: it is none; the text names what is wrong.
    """
    values = values_of(message)
    id = _id(values.pop(REQUEST_ID, ()), REQUEST_ID)
    note = _note(values.pop(_ASKED, ()), ("session", "generation", "operation", "deadline_s", "target", "engine"))
    batch = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    for key in batch:
        if key.partition(".")[0] in _RESERVED:
            raise WireError(f"{key} is a tensor; only observations are")
    operation: Any = _one_of(note.get("operation", "infer"), get_args(Operation), "operation")
    generation, deadline_s = _number(note, "generation"), _number(note, "deadline_s")
    return Request(
        id,
        batch,
        note.get("session", "")[:MAX_ID],
        int(generation or 0),
        deadline_s,
        operation,
        note.get("target", "")[:MAX_ID],
        note.get("engine", "")[:MAX_ID],
    )


def reply_fields(reply: Reply) -> dict[str, Any]:
    """The fields of a reply's message; an original robot that finds no ``action`` gives up at once."""
    values: dict[str, Any] = {} if reply.rows is None else {ACTION: np.asarray(reply.rows, np.float32)}
    if reply.id:
        values[REPLY_ID] = reply.id
    note = {"session": reply.session, "engine": reply.engine}
    if reply.server_s is not None:
        note["server_s"] = f"{reply.server_s:.6f}"
    if reply.problem is not None:
        note |= {"trouble": str(reply.problem.kind), "text": reply.problem.text[:2000]}
    return fields_of({**values, _TOLD: _noted(note)})


def reply_of(message: Any) -> Reply:
    """The reply in a message, of our engine or of an original one.

    Raises:
        WireError: it is none; the text names what is wrong.
    """
    values = values_of(message)
    id = _id(values.get(REPLY_ID, ()), REPLY_ID)
    told = values.get(_TOLD)
    note = {} if told is None else _note(told, ("session", "engine", "server_s", "trouble", "text"))
    problem = None
    if "trouble" in note:
        problem = Problem(Trouble(_one_of(note["trouble"], Trouble, "trouble")), note.get("text", ""))
    session, engine = note.get("session", ""), note.get("engine", "")
    rows = values.get(ACTION)
    if rows is None:
        if told is None:
            raise WireError(f"a reply without {ACTION!r}")
        return Reply(id, None, problem, session, engine=engine)
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or not rows.size:
        raise WireError(f"{ACTION} must be numbers with fractions")
    if rows.ndim == 3 and len(rows) == 1:
        rows = rows[0]
    rows = rows.reshape(1, -1) if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise WireError(f"{ACTION} must be (rows, dim), got {rows.shape}")
    return Reply(id, rows.astype(np.float32, copy=False), problem, session, _number(note, "server_s"), engine)


def reply_id(message: Any) -> str:
    """Whose reply a message is, without a look at the rest; empty for nobody's."""
    return next(iter(texts_at(message, REPLY_ID)), "")


def request_id(message: Any) -> str:
    """The id of a request that may be malformed otherwise."""
    return next(iter(texts_at(message, REQUEST_ID)), "")


def offer_fields(offer: Offer) -> dict[str, Any]:
    """The fields of what an engine says of itself, its process's own name as ``session``."""
    note = {"session": offer.session, "readiness": str(offer.readiness), "text": offer.detail[:2000]}
    values: dict[str, Any] = {_TOLD: _noted(note)}
    if offer.policy is not None:
        values[_POLICY] = json.dumps(spec_to_dict(offer.policy), separators=(",", ":"))
    return fields_of(values)


def offer_of(message: Any) -> Offer:
    """What an engine says of itself.

    Raises:
        WireError: it is no such message.
    """
    values = values_of(message)
    note = _note(values.get(_TOLD, ()), ("session", "readiness", "text"))
    readiness = Readiness(_one_of(note.get("readiness", ""), Readiness, "readiness"))
    policy = values.get(_POLICY, ())
    spec = None
    if isinstance(policy, tuple) and policy:
        try:
            spec = policy_spec_from_dict(json.loads(policy[0]))
        except (
            InterfaceValidationError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
        ) as error:
            raise WireError(f"{_POLICY} is no policy: {error}") from error
    return Offer(readiness, note.get("text", ""), spec, note.get("session", ""))


def _noted(note: Mapping[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in {"version": VERSION, **note}.items()]


def _note(value: Value, known: tuple[str, ...]) -> dict[str, str]:
    """The names and values of a list of ours; none where there is no list, as of an original one."""
    if not isinstance(value, tuple):
        raise WireError(f"{_ASKED} and {_TOLD} are texts")
    note: dict[str, str] = {}
    for text in value:
        name, equals, said = text.partition("=")
        if not equals or name in note or name not in ("version", *known):
            raise WireError(f"{text[:40]!r}: there are {', '.join(known)}, each once, as name=value")
        note[name] = said
    if note and note.pop("version", "") != str(VERSION):
        raise WireError(f"another version than {VERSION}: both ends need the same chunkwise")
    return note


def _id(value: Value, key: str) -> str:
    if not isinstance(value, tuple) or len(value) > 1 or any(len(text) > MAX_ID for text in value):
        raise WireError(f"{key} must be one text of at most {MAX_ID} letters")
    return value[0] if value else ""


def _number(note: Mapping[str, str], name: str) -> float | None:
    if name not in note:
        return None
    try:
        number = float(note[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not 0 <= number < 2**53:
        raise WireError(f"{name} must be a number of at least 0, got {note[name][:40]!r}")
    return number


def _one_of(text: str, choices: Any, name: str) -> str:
    known = [str(choice) for choice in choices]
    if text not in known:
        raise WireError(f"{name} {text[:40]!r}{nearest(text[:40], known)}; there are: {', '.join(known)}")
    return text
