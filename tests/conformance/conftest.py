"""Every adapter that is found is tested; one whose extra is not installed is skipped by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chunkwise import plugins

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


@pytest.fixture
def adapter(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The class of the adapter, which the test's instance gets as `adapter`."""
    try:
        request.instance.adapter = plugins.load(request.cls.kind, request.param)
    except plugins.MissingExtra as missing:
        pytest.skip(f"{request.param}: {missing}")
    yield request.instance.adapter
