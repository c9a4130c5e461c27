"""What goes between a program and its inference process, as trees of plain values and arrays, and back."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.contract import (
    COMMAND_KIND_REGISTRY,
    Action,
    ActionChunk,
    BindingError,
    BuiltinCommandKind,
    ChunkRequest,
    Command,
    CommandKindSpec,
    Frame,
    InterfaceValidationError,
    Motion,
    PolicyFailed,
    PolicySpec,
    checked_rows,
    coerce_action,
    policy_spec_from_dict,
    register_command_kind,
    spec_to_dict,
)
from chunkwise.contract.packing import Packed
from chunkwise.options import UsageError
from chunkwise.processing.errors import ProcessingError

MAX_TRACE_CHARACTERS = 16 << 10

_SAME: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        UsageError,
        InterfaceValidationError,
        BindingError,
        PolicyFailed,
        ProcessingError,
        plugins.UnknownAdapter,
        plugins.MissingExtra,
    )
}
"""Errors of ours: the same kind is raised on this side."""
_PLAIN = (UsageError, plugins.UnknownAdapter, plugins.MissingExtra)


def asked(frame: Frame, request: ChunkRequest) -> dict[str, Any]:
    """A frame and a request; arrays are theirs, not copies."""
    return {
        "frame": {
            "images": frame.images,
            "state": frame.state,
            "task": frame.task,
            "meta": frame.meta,
            "timestamp_ns": frame.timestamp_ns,
            "sequence_id": frame.sequence_id,
        },
        "request": _request_tree(request),
    }


def asked_of(tree: Mapping[str, Any]) -> tuple[Frame, ChunkRequest]:
    """The frame and the request of a tree that :func:`asked` made."""
    frame, request = tree["frame"], tree["request"]
    seen = Frame(
        frame["images"],
        frame["state"],
        frame["task"],
        frame["meta"],
        timestamp_ns=frame["timestamp_ns"],
        sequence_id=frame["sequence_id"],
    )
    return seen, _request_of(request)


def refuse_left_out(packed: Packed) -> None:
    """Refuse what would not arrive as it is.

    Raises:
        InterfaceValidationError: naming it.
    """
    if packed.left_out:
        listed = ", ".join(sorted(packed.left_out))
        raise InterfaceValidationError(
            f"{listed}: only plain values and arrays of numbers can be given to a policy in another process"
        )


def _request_tree(request: ChunkRequest) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "step": request.request_step,
        "time_s": request.request_time_s,
        "active": request.active_chunk_length,
        "remaining": request.remaining_steps,
        "latency": request.latency_steps,
        "delay": request.inference_delay,
        "horizon": request.execute_horizon,
        "prefix_length": request.prefix_length,
        "id": request.id,
    }
    if request.prefix is not None:
        tree |= {"prefix": request.prefix, "weights": request.prefix_weights}
    if request.prev_action_chunk is not None:
        tree["plan"] = actions_tree(request.prev_action_chunk)
    if request.action_prefix is not None and request.action_prefix is not request.prev_action_chunk:
        tree["action_prefix"] = actions_tree(request.action_prefix)
    return tree


def _request_of(tree: Mapping[str, Any]) -> ChunkRequest:
    plan, prefix = tree.get("plan"), tree.get("action_prefix")
    return ChunkRequest(
        tree["step"],
        tree["time_s"],
        tree["active"],
        tree["remaining"],
        tree["latency"],
        None if plan is None else actions_of(plan),
        tree["delay"],
        tree["horizon"],
        None if prefix is None else actions_of(prefix),
        tree["prefix_length"],
        prefix=tree.get("prefix"),
        prefix_weights=tree.get("weights"),
        id=tree["id"],
    )


def actions_tree(actions: Sequence[Action]) -> dict[str, Any]:
    """Actions; one array for all of them where they command the same."""
    columns = _columns(actions[0])
    if all(_columns(action) == columns and not _remarks(action) for action in actions):
        rows = np.stack([np.concatenate([item.value for item in action.commands.values()]) for action in actions])
        return {"columns": columns, "rows": rows}
    return {"actions": [_action_tree(action) for action in actions]}


def actions_of(tree: Mapping[str, Any]) -> list[Action]:
    """The Actions of a tree that :func:`actions_tree` made."""
    if "actions" in tree:
        return [
            Action({name: Command(**command) for name, command in item["commands"].items()}, item["meta"])
            for item in tree["actions"]
        ]
    made = []
    for row in tree["rows"]:
        commands, at = {}, 0
        for name, kind, ref_frame, dim in tree["columns"]:
            commands[name] = Command(kind, row[at : at + dim].copy(), ref_frame)
            at += dim
        made.append(Action(commands))
    return made


def _columns(action: Action) -> list[list[Any]]:
    return [
        [name, str(command.command), command.ref_frame, command.value.size]
        for name, command in action.commands.items()
    ]


def _remarks(action: Action) -> bool:
    return bool(action.meta) or not action.commands or any(item.meta for item in action.commands.values())


def _action_tree(action: Action) -> dict[str, Any]:
    commands = {
        name: {"command": str(item.command), "value": item.value, "ref_frame": item.ref_frame, "meta": item.meta}
        for name, item in action.commands.items()
    }
    return {"commands": commands, "meta": action.meta}


def answer_tree(answer: object) -> dict[str, Any]:
    """What a policy's ``infer`` returned.

    Raises:
        InterfaceValidationError: it is no answer.
    """
    if isinstance(answer, ActionChunk):
        return {"rows": np.asarray(answer.rows), "first_step": answer.first_step, "meta": answer.meta}
    if isinstance(answer, (Action, Mapping)):
        return {"one": actions_tree([coerce_action(answer)])}
    if isinstance(answer, Sequence) and len(answer) and isinstance(answer[0], (Action, Mapping)):
        return {"actions": actions_tree([coerce_action(item) for item in answer])}
    if answer is None:
        raise InterfaceValidationError(
            "infer() returned None; it answers rows, an ActionChunk, an Action or a list of Actions"
        )
    return {"array": checked_rows(answer)}


def answer_of(tree: Mapping[str, Any]) -> Any:
    """The answer of a tree that :func:`answer_tree` made: an ActionChunk, an Action, a list of them, or rows."""
    if "rows" in tree:
        return ActionChunk(checked_rows(tree["rows"]), tree["first_step"], tree["meta"])
    if "one" in tree:
        return actions_of(tree["one"])[0]
    return actions_of(tree["actions"]) if "actions" in tree else tree["array"]


def spec_tree(spec: PolicySpec | None) -> dict[str, Any] | None:
    """A policy's spec; None for a policy without one."""
    return None if spec is None else spec_to_dict(spec)


def spec_of(tree: Mapping[str, Any] | None) -> PolicySpec | None:
    """The spec of such a tree."""
    return None if tree is None else policy_spec_from_dict(tree)


def kinds_tree() -> list[dict[str, Any]]:
    """The command kinds that a program has registered beyond the built-in ones."""
    return [asdict(kind) for name, kind in COMMAND_KIND_REGISTRY.items() if name not in list(BuiltinCommandKind)]


def register_kinds(tree: Sequence[Mapping[str, Any]]) -> None:
    """Make them known here as well."""
    for item in tree:
        if item["name"] not in COMMAND_KIND_REGISTRY:
            motion = item["motion"]
            register_command_kind(
                CommandKindSpec(**{**item, "motion": None if motion is None else Motion(motion)})
            )


def error_tree(error: BaseException) -> dict[str, Any]:
    """An exception: its kind, its text and its traceback."""
    plain = isinstance(error, _PLAIN) and error.__cause__ is None  # its text says all
    trace = "" if plain else "".join(traceback.format_exception(error))
    return {"kind": type(error).__name__, "text": str(error), "trace": trace[-MAX_TRACE_CHARACTERS:]}


def said(tree: Mapping[str, Any]) -> str:
    """An error of the other side in one line, as a worker's answer has it."""
    return f"{tree['kind']}: {tree['text']}"


def error_of(tree: Mapping[str, Any]) -> Exception:
    """An error of the other side as an exception to raise here, its traceback in a note.

    Of ours it is of the same kind; of others it is a PolicyFailed.
    """
    kind = _SAME.get(tree["kind"])
    error = PolicyFailed(said(tree)) if kind is None else kind(tree["text"])
    if tree["trace"]:
        error.add_note(f"in the inference process:\n{tree['trace']}")
    return error
