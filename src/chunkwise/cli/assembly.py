"""From settings to a session that is ready to open."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from chunkwise.chunking import Strategy
from chunkwise.cli.settings import Choice, Settings, adapter
from chunkwise.options import UsageError, options_of
from chunkwise.policies import Policy, Recipe
from chunkwise.robots import Robot
from chunkwise.runtime.session import Session
from chunkwise.safety import Limits
from chunkwise.workers import Worker


def make_robot(choice: Choice, control_hz: float | None = None) -> Robot:
    """The robot, not yet connected; told the control rate where it asks for one."""
    robot: Robot = _make("robot", choice, control_hz)
    return robot


def recipe_of(choice: Choice, control_hz: float | None = None) -> Recipe:
    """The policy, not yet made; told the control rate where it asks for one."""
    return Recipe(choice.name, choice.options, {} if control_hz is None else {"control_hz": control_hz})


def make_policy(choice: Choice, control_hz: float | None = None) -> Policy:
    """The policy, of a class, of a function, or as the object that the name stands for."""
    policy: Policy = recipe_of(choice, control_hz).make()
    return policy


def make_worker(choice: Choice) -> Callable[..., Worker]:
    """What makes the worker."""
    return functools.partial(adapter("worker", choice.name), **choice.options)


def make_strategy(choice: Choice) -> Strategy:
    """The strategy."""
    strategy: Strategy = _make("strategy", choice)
    return strategy


def make_session(
    settings: Settings, robot: Robot, policy: Policy | Recipe, on_message: Callable[[str], None]
) -> Session:
    """Everything put together."""
    return Session(
        robot,
        policy,
        make_strategy(settings.strategy),
        worker=make_worker(settings.worker),
        control_hz=settings.control_hz,
        latency_s=settings.latency_ms / 1e3,
        inference_timeout_s=settings.inference_timeout_s,
        start_timeout_s=settings.start_timeout_s,
        max_plan_age_s=settings.max_plan_age_s,
        limits=Limits(settings.observation_age_s, settings.hold_s),
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
