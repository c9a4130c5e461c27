"""Every adapter that is found is tested; one whose extra is not installed is skipped by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import robot_layout
from chunkwise.recording import EpisodeWriter

EXTRA_FOLDER = "CHUNKWISE_TEST_FOLDER"
"""A folder with folders named as in `plugins.KINDS`, whose adapters are tested as well."""

_folders = ExitStack()


def pytest_configure() -> None:
    extra = os.environ.get(EXTRA_FOLDER)
    for folder in sorted(Path(extra).iterdir()) if extra else []:
        _folders.enter_context(plugins.folder(folder.name, folder))


def pytest_unconfigure() -> None:
    _folders.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kind = getattr(metafunc.cls, "kind", None)
    if "adapter" in metafunc.fixturenames and kind is not None:
        metafunc.parametrize("adapter", plugins.names(kind), indirect=True)


def recording(folder: Path) -> Mapping[str, Any]:
    """A short episode of the mock robot."""
    robot = plugins.load("robots", "mock")(arms=1, cameras=("head",))
    layout = robot_layout(robot.spec)
    path = folder / "episode.mcap"
    with EpisodeWriter(path, robot=robot.spec) as writer:
        for step in range(5):
            writer.frame(robot.observe(), step=step)
            action = layout.action(np.full(layout.width, 0.01 * step))
            writer.action(action, robot.act(action), step=step)
    return {"path": str(path)}


ARGUMENTS: Mapping[tuple[str, str], Callable[[Path], Mapping[str, Any]]] = {
    ("policies", "replay"): recording,
    ("robots", "replay"): recording,
}
"""What an adapter that cannot be made without arguments is made with."""


@pytest.fixture
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The class of the adapter, with its arguments where it needs some; the test's instance gets it too."""
    kind, name = request.cls.kind, request.param
    try:
        made = plugins.load(kind, name)
    except plugins.MissingExtra as missing:
        pytest.skip(f"{name}: {missing}")
    if (kind, name) in ARGUMENTS:
        made = functools.partial(made, **ARGUMENTS[kind, name](tmp_path))
    request.instance.adapter = made
    yield made
