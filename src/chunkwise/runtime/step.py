"""One turn with the caller's functions in the place of robot and worker: observe, ask, act."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import ref

import numpy as np

from chunkwise.chunking import Fault
from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    RobotFailed,
    RobotSpec,
    coerce_action,
    coerce_frame,
    connect,
    spec_of_answer,
    validate_action,
    validate_frame,
)

if TYPE_CHECKING:
    from chunkwise.runtime.inference import InferenceRuntime

Observe = Callable[[], Frame | Mapping[str, Any]]
Act = Callable[[Action], Any]
ActionSource = Callable[[Frame, ChunkRequest], Any]
"""A policy's ``infer``: a frame and a request to an Action, or a list of them."""
T = TypeVar("T")


@dataclass(slots=True)
class StepResult:
    """What one step did.

    Attributes:
        frame: what was observed.
        raw_action: what the policy, the plan or the hold came to.  A hold has no command for a component whose
            custom kind does not say what holding means.
        action: what was applied: what `act_fn` returned where that is an action, else `raw_action`.
        plan_refreshed: a new chunk took over in this step.
        control_wait_s: how long the pacing slept.
        source: ``policy`` (no runtime), ``chunk``, ``hold`` or ``wait``.
        underrun: the plan had run dry, and this is a hold.
        latency_steps: expected inference delay, in control steps.
        plan_length: control steps that the plan still covers, this one included.
        faults: what went wrong outside since the last step.
        error: the policy's newest failure among it; raised only where the caller asked for that.
        inference_s: how long the policy took, where it ran inside this step.
    """

    frame: Frame
    raw_action: Action
    action: Action
    plan_refreshed: bool = True
    control_wait_s: float = 0.0
    source: str = "policy"
    underrun: bool = False
    latency_steps: int = 0
    plan_length: int = 0
    faults: tuple[Fault, ...] = ()
    error: InterfaceValidationError | None = field(default=None, repr=False)
    inference_s: float = 0.0


def run_step(
    *,
    observe_fn: Observe | None = None,
    act_fn: Act | None = None,
    act_src_fn: ActionSource | None = None,
    frame: Frame | Mapping[str, Any] | None = None,
    execute_action: bool = True,
    runtime: InferenceRuntime | None = None,
    pace_control: bool = True,
    metadata_owner: object | None = None,
) -> StepResult:
    """Observe, get the action of this step, and act.

    Without a runtime the policy is called in every step, and of a chunk the first action is used.

    Args:
        observe_fn, frame: gives a Frame, or a mapping with ``images`` and ``state``; or that itself.
        act_fn: sends an action; what it returns, where that is an action, counts as applied.
        act_src_fn: the policy's ``infer(frame, request)``: an Action or a list of Actions.
        execute_action: False only decides.
        runtime: schedules chunks.
        pace_control: let the runtime's controller wait for the next step.
        metadata_owner: whose frames are numbered; by default whoever `observe_fn` belongs to.

    Raises:
        InterfaceValidationError: a frame, an answer or a returned action is wrong, or does not fit the robot.
        PolicyFailed: the policy raised (without a runtime, or where the runtime was told to raise).
        RobotFailed: `observe_fn` or `act_fn` raised.
    """
    if runtime is not None:
        return runtime.run_step(
            observe_fn=observe_fn,
            act_fn=act_fn,
            act_src_fn=act_src_fn,
            frame=frame,
            execute_action=execute_action,
            pace_control=pace_control,
            metadata_owner=metadata_owner,
        )
    owner = owner_of(observe_fn, act_fn, act_src_fn) if metadata_owner is None else metadata_owner
    seen = take_frame(frame, observe_fn, owner)
    validate_frame(seen)
    if act_src_fn is None:
        raise InterfaceValidationError("run_step() requires act_src_fn=...")
    began = time.perf_counter()
    answer = call_policy(act_src_fn, seen, ChunkRequest(0))
    spent = time.perf_counter() - began
    action = first_action(answer)
    applied = act(act_fn, action) if execute_action else action
    return StepResult(seen, action, applied, inference_s=spent)


def take_frame(frame: object, observe_fn: Observe | None, owner: object) -> Frame:
    """The frame of this step; stamped and numbered where its maker did not, as a frame of its own.

    Arrays are shared: a driver that fills the same array again changes what a policy is still looking at.

    Raises:
        InterfaceValidationError: there is none, or a field of it is wrong.
        TypeError: it is neither a Frame nor a mapping.
        RobotFailed: observing raised.
    """
    if frame is None:
        if observe_fn is None:
            raise InterfaceValidationError("run_step() requires either frame=... or observe_fn=....")
        try:
            frame = observe_fn()
        except Exception as error:
            raise RobotFailed(blame(observe_fn, error)) from error
    seen = coerce_frame(frame)  # type: ignore[arg-type]
    if seen.timestamp_ns and seen.sequence_id is not None:
        return seen
    made = Frame.__new__(Frame)  # the constructor would check every array again
    made.images, made.state, made.task, made.meta = seen.images, seen.state, seen.task, seen.meta
    made.timestamp_ns = seen.timestamp_ns or time.time_ns()
    made.sequence_id = next(_numbers.of(owner)) if seen.sequence_id is None else seen.sequence_id
    return made


def call_policy(source: ActionSource, frame: Frame, request: ChunkRequest) -> Any:
    """Whatever the policy answers.

    Raises:
        PolicyFailed: it raised; its exception is the cause.
    """
    try:
        return source(frame, request)
    except Exception as error:
        raise PolicyFailed(blame(source, error)) from error


def first_action(answer: object) -> Action:
    """The action that a policy's answer begins with; the rest is checked to be actions.

    Raises:
        InterfaceValidationError: it is neither an action nor a list of them.
    """
    actions = as_actions(answer)
    validate_action(actions[0])
    return actions[0]


def as_actions(answer: object) -> list[Action]:
    """A policy's answer as a list of at least one Action.

    Raises:
        InterfaceValidationError: it is neither an action nor a sequence of them.
    """
    if isinstance(answer, (Action, Mapping)):
        return [coerce_action(answer)]
    if isinstance(answer, Sequence) and not isinstance(answer, (str, bytes)) and len(answer):
        return [
            item if isinstance(item, Action) else coerce_action(_item(item, index))
            for index, item in enumerate(answer)
        ]
    raise InterfaceValidationError(
        f"act_src_fn() must return an Action or a non-empty list of Actions, got {type(answer).__name__}"
        + (
            ": rows say no names here; Action.single(target=..., command=..., value=row) does"
            if _rows(answer)
            else ""
        )
    )


def act(act_fn: Act | None, action: Action) -> Action:
    """Send the action; what was applied.

    Where `act_fn` is a method of a robot with a ``spec`` (or ``get_spec()``), the action has to fit it.

    Raises:
        BindingError: the robot does not have such a component, or does not take such a command.
        InterfaceValidationError: there is nothing to send with, or the returned action is wrong.
        RobotFailed: acting raised.
    """
    if not callable(act_fn):
        raise InterfaceValidationError("run_step() requires a callable act_fn=... to execute the action")
    robot = getattr(act_fn, "__self__", None)
    if robot is not None:
        _fits.of(robot).check(action)
    try:
        returned = act_fn(action)
    except Exception as error:
        raise RobotFailed(blame(act_fn, error)) from error
    if returned is action or not isinstance(returned, (Action, Mapping)):
        return action
    applied = coerce_action(returned)
    validate_action(applied)
    return applied


def blame(function: object, error: Exception) -> str:
    """``Arm.send_action() raised OSError: bus error``."""
    return f"{spoken(function)} raised {type(error).__name__}: {error}"


def spoken(function: object) -> str:
    """``Arm.send_action()``."""
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{type(owner).__name__}.{name}()" if owner is not None else f"{name}()"


def owner_of(*functions: object) -> object:
    """Whose frames these are: the object of the first function that is given, or its code."""
    first = next((function for function in functions if function is not None), None)
    owner = getattr(first, "__self__", None)
    return getattr(first, "__code__", first) if owner is None else owner


def _rows(answer: object) -> bool:
    return isinstance(answer, (ActionChunk, np.ndarray))


def _item(item: object, index: int) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise InterfaceValidationError(f"chunk[{index}] must be an Action or mapping, got {type(item).__name__}")
    return item


class _PerOwner(Generic[T]):
    """Something for every owner, who is forgotten when it goes."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._kept: dict[int, tuple[object, T]] = {}

    def of(self, owner: object) -> T:
        key = id(owner)  # an owner need not be hashable, and equal ones are not the same
        kept = self._kept.get(key)
        if kept is None:
            try:
                watched: object = ref(owner, lambda _: self._kept.pop(key, None))
            except TypeError:  # cannot be watched, so it must stay, or another would take over its address
                watched = owner
            kept = self._kept[key] = watched, self._make(owner)
        return kept[1]


class _Fit:
    """What has been compared with a robot's spec, where it has one."""

    def __init__(self, robot: object) -> None:
        spec = getattr(robot, "spec", None)
        get_spec = getattr(robot, "get_spec", None)
        if spec is None and callable(get_spec):
            try:
                spec = get_spec()
            except Exception as error:
                raise RobotFailed(blame(get_spec, error)) from error
        self._spec = spec if isinstance(spec, RobotSpec) else None
        self._compared: set[tuple[tuple[str, str, int], ...]] = set()

    def check(self, action: Action) -> None:
        """Compare components, kinds and lengths; once for all actions that agree in these."""
        if self._spec is None:
            return
        commands = action.commands.items()
        signature = tuple((name, command.command, command.value.size) for name, command in commands)
        if signature not in self._compared:
            connect(self._spec, spec_of_answer(self._spec, action, "run_step"))
            self._compared.add(signature)


_numbers = _PerOwner(lambda owner: count())
_fits = _PerOwner(_Fit)
