"""From settings to a session that is ready to open."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from chunkwise.chunking import Strategy
from chunkwise.cli.settings import Choice, Settings, adapter
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.options import UsageError, options_of
from chunkwise.policies import Answer, Policy
from chunkwise.robots import Robot
from chunkwise.runtime.session import Session


class FunctionPolicy:
    """A bare ``infer(frame, request)`` as a policy; its spec comes from its first answer."""

    def __init__(self, infer: Callable[[Frame, ChunkRequest], Answer]) -> None:
        self._infer = infer

    def infer(self, frame: Frame, request: ChunkRequest) -> Answer:
        """What the function answers."""
        return self._infer(frame, request)


def make_robot(choice: Choice, control_hz: float | None = None) -> Robot:
    """The robot, not yet connected; told the control rate where it asks for one."""
    robot: Robot = _make("robot", choice, control_hz)
    return robot


def make_policy(choice: Choice, control_hz: float | None = None) -> Policy:
    """The policy, of a class, of a function, or as the object that the name stands for."""
    found = adapter("policy", choice.name)
    if isinstance(found, (type, functools.partial)):
        policy: Policy = _make("policy", choice, control_hz)
        return policy
    if hasattr(found, "infer"):
        return found
    if callable(found):
        return FunctionPolicy(found)
    raise UsageError(f"policy {choice.name} is neither a class, a function nor an object with infer()")


def make_strategy(choice: Choice) -> Strategy:
    """The strategy."""
    strategy: Strategy = _make("strategy", choice)
    return strategy


def make_session(settings: Settings, robot: Robot, policy: Policy, on_message: Callable[[str], None]) -> Session:
    """Everything put together."""
    return Session(
        robot,
        policy,
        make_strategy(settings.strategy),
        worker=functools.partial(adapter("worker", settings.worker.name), **settings.worker.options),
        control_hz=settings.control_hz,
        latency_s=settings.latency_ms / 1e3,
        inference_timeout_s=settings.inference_timeout_s,
        start_timeout_s=settings.start_timeout_s,
        max_plan_age_s=settings.max_plan_age_s,
        watchdog_s=settings.watchdog_s,
        realtime=settings.realtime,
        on_message=on_message,
    )


def _make(setting: str, choice: Choice, control_hz: float | None = None) -> Any:
    maker = adapter(setting, choice.name)
    options = dict(choice.options)
    if control_hz is not None and "control_hz" in options_of(maker):
        options.setdefault("control_hz", control_hz)
    try:
        return maker(**options)
    except (TypeError, ValueError, FileNotFoundError) as error:
        name = (
            "" if str(error).startswith(choice.name) else f"{choice.name}: "
        )  # a server's errors name it already
        raise UsageError(f"{setting} {name}{error}") from error
