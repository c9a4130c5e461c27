"""Dry runs: whether a robot and a policy keep their side of the contract, without moving anything.

Both spellings are understood: ``observe`` / ``act`` / ``spec`` as here, and ``get_obs`` / ``send_action`` /
``get_spec()`` of the inferaxis interface.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from chunkwise.contract import (
    Action,
    ActionChunk,
    Binding,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    RobotSpec,
    checked_rows,
    coerce_action,
    coerce_frame,
    connect,
    nearest,
    observation_problems,
    spec_of_answer,
    validate_action,
    validate_frame,
    validate_policy_spec,
    validate_robot_spec,
)
from chunkwise.policies import shown

Spec = TypeVar("Spec", RobotSpec, PolicySpec)


def check_robot(robot: object, *, sample_frame: Frame | Mapping[str, Any] | None = None) -> None:
    """Check a robot: its methods, its spec, and one observation against the spec.  Nothing is sent to it.

    Args:
        robot: has ``observe`` (or ``get_obs``), ``act`` (or ``send_action``) and ``spec`` (or ``get_spec()``).
        sample_frame: checked in the place of an observation; the robot is then not asked for one.

    Raises:
        InterfaceValidationError: every problem found, in one message.
    """
    found = _Findings()
    spec = _spec(robot, RobotSpec, validate_robot_spec, found)
    if spec is None and not found.problems:
        found.add(f"{_name(robot)} has neither a spec nor get_spec()")
    _observation(robot, spec, sample_frame, found)
    found.settle(f"robot {_name(robot)} does not keep the contract")


def check_policy(policy: object, *, sample_frame: Frame | Mapping[str, Any] | None = None) -> None:
    """Check a policy: its methods, its spec, and with a sample frame one inference against the spec.

    Args:
        policy: has ``infer(frame, request)``; a ``spec`` (or ``get_spec()``) is checked where there is one.
        sample_frame: inferred from once; without it the policy is not run.

    Raises:
        InterfaceValidationError: every problem found, in one message.
    """
    found = _Findings()
    infer, spec = _policy(policy, found)
    frame = _frame(sample_frame, "sample_frame", found)
    if infer is not None and frame is not None and _inputs(spec, frame, found):
        answer = _infer(policy, infer, frame, found)
        if answer is not None:
            with found.collect():
                count_rows(answer, spec)
    found.settle(f"policy {_name(policy)} does not keep the contract")


def check_pair(executor: object, policy: object, *, sample_frame: Frame | Mapping[str, Any] | None = None) -> None:
    """Check that a policy can drive a robot: one observation, one inference, no action.

    Where both have specs they are bound by name as :func:`~chunkwise.contract.connect` binds them: a component
    needs as many numbers as its command kind says, which for cartesian kinds is not its number of joints.

    Args:
        executor: the robot; its spec is optional here.
        policy: as for :func:`check_policy`.
        sample_frame: inferred from in the place of an observation.

    Raises:
        InterfaceValidationError: every problem found, in one message.
    """
    found = _Findings()
    robot_spec = _spec(executor, RobotSpec, validate_robot_spec, found)
    infer, policy_spec = _policy(policy, found)
    binding: Binding | None = None
    if robot_spec is not None and policy_spec is not None:
        with found.collect():
            binding = connect(robot_spec, policy_spec)
    frame = _observation(executor, robot_spec, sample_frame, found)
    if infer is not None and frame is not None and _inputs(policy_spec, frame, found):
        answer = None
        with found.collect():
            answer = _infer(policy, infer, shown(binding, frame) if binding else frame, found)
        if answer is not None:
            with found.collect():
                count_rows(answer, policy_spec)
                if robot_spec is not None and policy_spec is None:
                    binding = connect(robot_spec, spec_of_answer(robot_spec, answer, _name(policy)))
                if binding is not None:
                    binding.chunk(answer)
    found.settle("executor and policy do not fit")


def count_rows(answer: object, spec: PolicySpec | None = None) -> int:
    """How many rows a policy's answer has, once it is known to be one.

    Args:
        answer: an ActionChunk, rows ``(n, action_dim)``, an Action (or its mapping), or a sequence of Actions.
        spec: what the answer has to match; without one, its rows have to match each other.

    Raises:
        InterfaceValidationError: it is none of these, does not match, or holds a number that is not finite.
    """
    rows = answer.rows if isinstance(answer, ActionChunk) else answer
    if isinstance(rows, (Action, Mapping)):
        rows = [rows]
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        if not rows:
            raise InterfaceValidationError("the answer is empty")
        if any(isinstance(row, (Action, Mapping)) for row in rows):
            return _count_actions(rows, spec)
    array = checked_rows(rows, spec.action_dim if spec is not None else None)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise InterfaceValidationError(f"row {row}, column {column} of the answer is {array[row, column]}")
    return _declared(len(array), spec)


class _Findings:
    """Problems as they come, and one error for all of them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._cause: Exception | None = None

    def add(self, problem: str, cause: Exception | None = None) -> None:
        self.problems.append(problem)
        self._cause = self._cause or cause

    @contextmanager
    def collect(self, call: str = "") -> Iterator[None]:
        """Whatever the block raises is a problem; `call` names the code of somebody else that it runs."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  what a driver or a policy raises is a finding
            ours = not call and isinstance(error, InterfaceValidationError)
            said = str(error) if ours else f"{call or 'checking it'} raised {type(error).__name__}: {error}"
            self.add(said, error)

    def settle(self, headline: str) -> None:
        if self.problems:
            listed = "\n- ".join(self.problems)
            raise InterfaceValidationError(f"{headline}:\n- {listed}") from self._cause


def _name(thing: object) -> str:
    return type(thing).__name__


def _spec(owner: object, kind: type[Spec], validate: Callable[[Spec], None], found: _Findings) -> Spec | None:
    """The owner's spec where it has one and it is right."""
    spec: object = None
    with found.collect(f"{_name(owner)}.spec"):
        spec = getattr(owner, "spec", None)
    get_spec = getattr(owner, "get_spec", None)
    if spec is None and callable(get_spec):
        with found.collect(f"{_name(owner)}.get_spec()"):
            spec = get_spec()
    if spec is None:
        return None
    if not isinstance(spec, kind):
        found.add(f"{_name(owner)}: its spec must be a {kind.__name__}, got {_name(spec)}")
        return None
    before = len(found.problems)
    with found.collect():
        validate(spec)
    return spec if len(found.problems) == before else None


def _method(owner: object, names: Sequence[str], arguments: int, found: _Findings) -> Callable[..., Any] | None:
    """The first of the named methods that there is, when it takes that many arguments."""
    for name in names:
        method = getattr(owner, name, None)
        if not callable(method):
            continue
        try:
            inspect.signature(method).bind(*range(arguments))
        except TypeError as error:
            found.add(f"{_name(owner)}.{name}() must take {arguments} arguments: {error}")
            return None
        except ValueError:  # a callable without a signature, such as a compiled one
            pass
        return method  # type: ignore[no-any-return]
    found.add(f"{_name(owner)} has no {' or '.join(f'{name}()' for name in names)}")
    return None


def _policy(policy: object, found: _Findings) -> tuple[Callable[..., Any] | None, PolicySpec | None]:
    infer = _method(policy, ["infer"], 2, found)
    if getattr(policy, "reset", None) is not None:
        _method(policy, ["reset"], 0, found)
    return infer, _spec(policy, PolicySpec, validate_policy_spec, found)


def _observation(
    robot: object, spec: RobotSpec | None, sample: Frame | Mapping[str, Any] | None, found: _Findings
) -> Frame | None:
    """The sample, or one observation; checked against the robot's spec."""
    observe = _method(robot, ["observe", "get_obs"], 0, found)
    _method(robot, ["act", "send_action"], 1, found)
    observed: object = sample
    if sample is None:
        if observe is None:
            return None
        call = f"{_name(robot)}.{getattr(observe, '__name__', 'observe')}()"
        with found.collect(call):
            observed = observe()
            if observed is None:
                raise TypeError("it returned None")
    frame = _frame(observed, "sample_frame" if sample is not None else "the observation", found)
    if frame is not None and spec is not None:
        for problem in observation_problems(spec, frame):
            found.add(problem)
    return frame


def _frame(value: object, where: str, found: _Findings) -> Frame | None:
    if value is None:
        return None
    try:
        frame = coerce_frame(value)  # type: ignore[arg-type]  # anything else is what it refuses
        validate_frame(frame)
    except (TypeError, ValueError) as error:
        found.add(f"{where}: {error}", error)
        return None
    return frame


def _inputs(spec: PolicySpec | None, frame: Frame, found: _Findings) -> bool:
    """Whether the frame has what the policy reads."""
    if spec is None:
        return True
    before = len(found.problems)
    _missing("camera", spec.required_image_keys, frame.images, found, "the policy reads ")
    _missing("state", spec.required_state_keys, frame.state, found, "the policy reads ")
    _missing("task entry", spec.required_task_keys, frame.task, found, "the policy reads ")
    for key, names in spec.state_names.items():
        value = frame.state.get(key)
        if value is None or value.shape != (len(names),):
            has = "nothing" if value is None else f"shape {value.shape}"
            found.add(f"the policy reads {len(names)} joints of state {key!r}, the frame has {has}")
    return len(found.problems) == before


def _missing(
    what: str,
    wanted: Sequence[str],
    there: Mapping[str, Any],
    found: _Findings,
    whose: str = "the robot declares ",
) -> None:
    for name in wanted:
        if name not in there:
            listed = ", ".join(there) or "none"
            hint = nearest(name, there)
            found.add(f"{whose}{what} {name!r}, the frame does not have it{hint}; there are: {listed}")


def _infer(policy: object, infer: Callable[..., Any], frame: Frame, found: _Findings) -> object:
    answer: object = None
    with found.collect(f"{_name(policy)}.infer()"):
        answer = infer(frame, ChunkRequest(0))
        if answer is None:
            raise TypeError("it returned None")
    return answer


def _count_actions(rows: Sequence[Any], spec: PolicySpec | None) -> int:
    wanted: dict[str, tuple[str, int]] | None = None
    if spec is not None:
        wanted = {output.target: (str(output.command), output.dim) for output in spec.outputs}
    for index, row in enumerate(rows):
        try:
            action = coerce_action(row)
            validate_action(action)
        except InterfaceValidationError as error:
            raise InterfaceValidationError(f"row {index} of the answer: {error}") from error
        given = {name: (str(item.command), item.value.size) for name, item in action.commands.items()}
        wanted = given if wanted is None else wanted
        if given != wanted:
            raise InterfaceValidationError(
                f"row {index} of the answer commands {_listed(given)}; it should be {_listed(wanted)}"
            )
    return _declared(len(rows), spec)


def _listed(commands: Mapping[str, tuple[str, int]]) -> str:
    return ", ".join(f"{name}: {size} x {kind}" for name, (kind, size) in commands.items())


def _declared(rows: int, spec: PolicySpec | None) -> int:
    if spec is not None and spec.action_horizon is not None and rows != spec.action_horizon:
        raise InterfaceValidationError(f"the spec declares {spec.action_horizon} rows, the answer has {rows}")
    return rows
