"""A bench behind topics, and a robot that sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.testing.world import SimulatedClock

GRAPH = Path(__file__).with_name("fake_graph.py")
WALL_S = 1.8e9
"""The wall clock when the loop's is at 100 s: the two have nothing to do with each other."""


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(100.0)


@pytest.fixture
def bench(clock: SimulatedClock) -> Any:
    return plugins.load("robots", f"{GRAPH}:Bench")(lambda: WALL_S - 100 + clock())


@pytest.fixture
def robot(bench: Any, clock: SimulatedClock, tmp_path: Path) -> Callable[..., Any]:
    """Makes a robot of a file's text, or of the bench's own."""

    def made(text: str | None = None, **options: Any) -> Any:
        path = tmp_path / "robot.yaml"
        path.write_text(plugins.load("robots", f"{GRAPH}:FILE") if text is None else text, encoding="utf-8")
        times = {"clock": clock, "sleep": clock.sleep, "wall": lambda: WALL_S - 100 + clock()}
        return plugins.load("robots", "ros2")(config=path, node=bench.node, **{**times, **options})

    return made
