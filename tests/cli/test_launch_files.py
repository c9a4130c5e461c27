"""The launch files start our programs with what they are given.

What stands for ROS 2's ``launch`` here takes what that does: signatures, what a command may be made of, and what
happens to arguments are as in ``launch`` of Humble and Jazzy.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from chunkwise.cli import engine_topics
from chunkwise.cli.parser import Parser
from chunkwise.transports._ros2.inference_topics import InferenceTopics

FOLDER = Path(__file__).parents[2] / "inference"
RUN = {"output", "output_format", "shell", "emulate_tty", "log_cmd", "on_exit", "respawn", "condition"}


class LaunchContext:
    """What is known while actions are executed."""

    def __init__(self, given: dict[str, str]) -> None:
        self.launch_configurations = dict(given)
        self.started: list[list[str]] = []


class LaunchConfiguration:
    """The value of an argument."""

    def __init__(self, variable_name: Any, *, default: Any = None) -> None:
        self.name, self.default = variable_name, default

    def perform(self, context: LaunchContext) -> str:
        return context.launch_configurations[self.name]


def text_of(word: Any, context: LaunchContext) -> str:
    """A text, a substitution, or several of them joined; anything else is refused, as by ``launch``."""
    if isinstance(word, str):
        return word
    if isinstance(word, LaunchConfiguration):
        return word.perform(context)
    if not isinstance(word, Iterable):
        raise TypeError(f"{word!r} is neither a text nor a substitution")
    parts = list(word)
    assert all(isinstance(part, (str, LaunchConfiguration)) for part in parts), "they are not nested deeper"
    return "".join(text_of(part, context) for part in parts)


class DeclareLaunchArgument:
    """An argument, which must be given where it has no default."""

    def __init__(
        self, name: str, *, default_value: Any = None, description: Any = None, choices: Any = None
    ) -> None:
        self.name, self.default = name, default_value

    def execute(self, context: LaunchContext) -> None:
        if self.name not in context.launch_configurations:
            if self.default is None:
                raise RuntimeError(f"Required launch argument '{self.name}' was not provided.")
            context.launch_configurations[self.name] = text_of(self.default, context)


class ExecuteProcess:
    """A program."""

    def __init__(self, *, cmd: Iterable[Any], name: Any = None, **options: Any) -> None:
        assert options.keys() <= RUN
        self.cmd = list(cmd)

    def execute(self, context: LaunchContext) -> None:
        context.started.append([text_of(word, context) for word in self.cmd])


class OpaqueFunction:
    """A function of the context, which gives further actions."""

    def __init__(self, *, function: Callable[..., Any], args: Any = None, kwargs: Any = None) -> None:
        self.function = function

    def execute(self, context: LaunchContext) -> Any:
        return self.function(context)


class LaunchDescription:
    """Actions in order."""

    def __init__(
        self, initial_entities: Iterable[Any] | None = None, *, deprecated_reason: str | None = None
    ) -> None:
        self.entities = list(initial_entities or ())


@pytest.fixture(autouse=True)
def launch(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, tuple[type, ...]] = {
        "launch": (LaunchDescription, LaunchContext),
        "launch.actions": (DeclareLaunchArgument, ExecuteProcess, OpaqueFunction),
        "launch.substitutions": (LaunchConfiguration,),
    }
    for module, classes in names.items():
        made = ModuleType(module)
        for one in classes:
            setattr(made, one.__name__, one)
        monkeypatch.setitem(sys.modules, module, made)


def started(file: str, **given: str) -> list[str]:
    """The command that a file starts with these arguments."""
    description = runpy.run_path(str(FOLDER / file))["generate_launch_description"]()
    context, actions = LaunchContext(given), list(description.entities)
    while actions:
        actions[:1] = actions[0].execute(context) or []
    (command,) = context.started
    return command


def test_the_engine_is_started_at_the_topics_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    program, command, *flags = started(
        "cloud_inference.launch.py", policy_path="/models/act", input_topic="/left/batch"
    )
    assert (program, command) == ("chunkwise", "engine")
    parser = Parser("engine --ros2", "", "")
    engine_topics.add_flags(parser)
    parsed = parser.parse(flags)
    assert (parsed.policy, parsed.device) == ("/models/act", "auto")
    assert InferenceTopics.parse(parsed.ros2) == InferenceTopics("/left/batch", "/inference/action")
    made = SimpleNamespace()
    monkeypatch.setattr(engine_topics, "TopicEngine", lambda make, topics, **options: made)
    monkeypatch.setattr(engine_topics.asyncio, "run", lambda coroutine: coroutine.close() or 0)
    flags[flags.index("/models/act")] = str(FOLDER)
    assert engine_topics.main(flags) == 0


def test_what_must_be_said_is_asked_for() -> None:
    with pytest.raises(RuntimeError, match="'policy_path' was not provided"):
        started("cloud_inference.launch.py")
    with pytest.raises(RuntimeError, match="'robot_config' was not provided"):
        started("robot.launch.py")


def test_a_robot_is_started_as_its_file_says_and_what_is_said_wins() -> None:
    assert started("robot.launch.py", robot_config="so101.yaml") == ["chunkwise", "up", "so101.yaml"]
    assert started(
        "robot.launch.py",
        robot_config="so101.yaml",
        control_mode="model_inference",
        execution_mode="distributed",
        cloud_local="True",
        command="/opt/chunkwise/bin/chunkwise",
    ) == [
        *("/opt/chunkwise/bin/chunkwise", "up", "so101.yaml", "--control-mode", "model_inference"),
        *("--execution-mode", "distributed", "--cloud-local"),
    ]
