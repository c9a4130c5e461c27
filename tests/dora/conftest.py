"""The two environments of the genuine nodes, and a policy server in front of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VENVS = {"dora-0.5": ".venv-dora", "dora-1.1": ".venv-dora-new"}
TASK = "phase=belts&phase_shape=2,2,2"
"""The tracker of the belts travels as the phase classifier's result."""


def beside(name: str) -> ModuleType:
    """The module of that name in this folder."""
    known = f"tests_dora_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture(scope="session")
def dataflow() -> ModuleType:
    """The module dataflow.py."""
    return beside("dataflow")


@pytest.fixture(scope="session")
def fake_node() -> type:
    """The class that stands for a Dora node."""
    return beside("fake_node").FakeNode


@pytest.fixture(params=VENVS)
def venv(request: pytest.FixtureRequest) -> Path:
    """An environment with the genuine nodes, once for each version of Dora."""
    folder = ROOT / VENVS[request.param]
    if not (folder / ".ready").exists():
        pytest.skip(f"{request.param}: no {folder.name}; make it with `make dora-env`")
    return folder


class PolicyServer:
    """`chunkwise serve` as a process of its own.

    Attributes:
        lines: what it has written to its log.
    """

    def __init__(self, policy: str, socket: Path, *further: str) -> None:
        self.socket, self.lines = socket, list[str]()
        command = "import sys; from chunkwise.cli import main; sys.exit(main())"
        listen = f"openarm=unix:{socket}?{TASK}"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", command, "serve", "--policy", policy, "--verbose"),
                *(word for address in (listen, *further) for word in ("--listen", address)),
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("ready")

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()

    def wait_for(self, event: str, times: int = 1) -> None:
        """Until an event has been seen in the log so often."""
        with self._grown:
            found = self._grown.wait_for(lambda: self.count(event) >= times, 60)
        assert found, f"no {event} in the log:\n{''.join(self.lines)}"

    def count(self, event: str) -> int:
        """How often the log, as far as it was read, names an event."""
        return sum(line.split()[1:2] == [event] for line in self.lines)

    def stop(self) -> int:
        """SIGTERM, and its exit code; the log is complete then."""
        if self._process.poll() is None:
            self._process.terminate()
        self._reader.join(30)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return self._process.wait(30)


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Starts servers, each on the same socket, and stops them after the test."""
    servers: list[PolicyServer] = []
    # Not pytest's own folder: the name of a UNIX socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:

        def start(policy: str, *further: str) -> PolicyServer:
            servers.append(PolicyServer(policy, Path(folder, "policy.socket"), *further))
            return servers[-1]

        start.folder = folder  # type: ignore[attr-defined]

        try:
            yield start
        finally:
            for server in servers:
                server.stop()
