"""A robot with limits and cameras, simulated time, and a folder of its own in the place of /dev/shm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.chaos import leaks, outside
from chunkwise.testing.world import SimulatedClock


@pytest.fixture
def robot() -> Any:
    return plugins.load("robots", "mock")(arms=1, cameras=("head", "wrist"), control_hz=100.0)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(1000.0)


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Others use the machine's own while these tests run."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(leaks, "SHARED", folder)
    monkeypatch.setattr(outside, "SHARED", folder)
    return folder
