"""The person at OpenArm's keyboard, on a schedule: `start`, `stopped`, and `quit` at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from chunkwise.robots.dora.messages import words


def schedule(episodes: int, seconds: float, pause: float) -> Iterator[tuple[float, str]]:
    """What is said, each with how long to wait before it [s]; the first pause lets every node come up."""
    for _ in range(episodes):
        yield pause, "start"
        yield seconds, "stopped"
    yield pause, "quit"


def control(
    node: Any,
    *,
    episodes: int = 2,
    seconds: float = 6.5,
    pause: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Say everything on the schedule as the output `command`, and return.

    Args:
        node: a Dora node, or what behaves like one.
        episodes: how many.
        seconds: how long each of them is [s].
        pause: before each of them, and before the end [s].
        sleep: waits [s].
    """
    for wait_s, command in schedule(episodes, seconds, pause):
        sleep(wait_s)
        node.send_output("command", words(command))
