"""Settings for every test: Hypothesis draws the same examples each time, transcripts can be recorded again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "chunkwise", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("chunkwise")


def _descriptors() -> set[str]:
    links = [
        path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
    ]  # not the folder's own, closed again
    return {f"{path.name} {os.readlink(path)}" for path in links}


@pytest.fixture
def descriptors() -> Callable[[], set[str]]:
    """What this process has open: ``descriptors() - before`` is what was opened and left.

    Not ``==``: what an earlier test has left to the garbage collector may go meanwhile.
    """
    return _descriptors


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="record tests/transcripts/*.txt again")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI installs every extra, so there a skipped test is a failure: it was meant to run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
