"""The start script: a head, and a node with the custom resource, from nothing but a home directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.options import UsageError
from chunkwise.testing.worker import repeat_state

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "inference" / "start_ray.sh"
PATIENCE_S = 60.0
STORE = f"--object-store-memory={80 << 20}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def started(words: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The script with ``--block``, until it says that the node runs; ended with the context."""
    with subprocess.Popen(
        [SCRIPT, *words, "--block", "--num-cpus=1", STORE],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Ray runtime started" in line:
                    break
            else:
                pytest.fail(f"no node: {''.join(lines)}")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            finally:
                os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="cw-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    """Of somebody who has never used Ray."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    made = {"HOME": str(home), "PATH": path, "PORT": str(free_port()), "RAY_TMPDIR": str(home)}
    return made | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


def test_a_head_and_a_node_with_a_token_run_a_policy_and_a_fleet(
    home: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker: Any = None
    with ExitStack() as nodes:
        nodes.enter_context(started(["head"], env))
        token = home / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o077 == 0
        address = f"{socket.gethostbyname(socket.gethostname())}:{env['PORT']}"
        nodes.enter_context(started(["node", address, "inference_pc", "arm=2"], env))
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        options = {"address": address, "resources": ("inference_pc", "arm=0.5"), "start_timeout_s": PATIENCE_S}
        make = plugins.load("workers", "ray")
        monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "2")  # seconds that Ray tries with another token; 20 else
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        with pytest.raises(UsageError, match=r"(?i)cannot join a Ray cluster .*token"):
            make(repeat_state, **options)
        monkeypatch.delenv("RAY_NUM_REDIS_GET_RETRIES")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token.read_text())
        worker = make(repeat_state, **options)
        try:
            worker.submit(Frame(state={"arm": np.array([1.0, 2.0])}), ChunkRequest(0))
            assert worker.wait(PATIENCE_S)
            (answer,) = worker.arrivals()
            assert answer.chunk is not None, answer.error
            assert answer.chunk.rows.tolist() == [[1.0, 2.0]]
        finally:
            worker.close()
        drives_a_fleet(home, env)


def drives_a_fleet(home: Path, env: dict[str, str]) -> None:
    """As somebody does on the head who has set nothing in the environment."""
    turn = {"policy": f"{Path(__file__).with_name('on_fleet.py')}:Turn", "resources": "inference_pc"}
    robots = {"left": {"robot": {"name": "mock", "arms": 1}, "policy": "turn", "resources": "arm", "seconds": 1}}
    file = home / "fleet.yaml"
    file.write_text(json.dumps({"policies": {"turn": turn}, "robots": robots}), encoding="utf-8")
    command = [sys.executable, "-m", "chunkwise"]
    ran = subprocess.run(
        [*command, "up", str(file), "--ray"], env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "left | policy 'turn' drives robot 'mock':" in ran.stdout
    seen = subprocess.run([*command, "status"], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert seen.returncode == 0, seen.stderr
    assert "arm 2" in seen.stdout and "no fleet" in seen.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "start_ray.sh head"),
        (["node"], "which head?"),
        (["node", "10.0.0.1", "inference_pc"], "no token: copy the head's"),
    ],
)
def test_what_is_missing_is_said(env: dict[str, str], words: list[str], said: str) -> None:
    made = subprocess.run([SCRIPT, *words], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 2
    assert said in made.stderr


def test_a_head_says_what_others_need_and_no_secret(home: Path, env: dict[str, str]) -> None:
    ray = home / "ray"
    ray.write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
    ray.chmod(0o700)
    here = {**env, "PATH": f"{home}:{env['PATH']}"}
    for more, said in (
        ({"RAY_AUTH_TOKEN": "5ec7e7"}, "export RAY_AUTH_TOKEN=..."),
        ({}, "mkdir -p -m 700 ~/.ray"),
    ):
        made = subprocess.run([SCRIPT, "head"], env={**here, **more}, capture_output=True, text=True)
        assert said in made.stdout and "5ec7e7" not in made.stdout + made.stderr


def test_a_resource_that_is_none_is_refused(env: dict[str, str]) -> None:
    words = ["node", "10.0.0.1", "inference pc"]
    made = subprocess.run(
        [SCRIPT, *words], env={**env, "RAY_AUTH_TOKEN": "0" * 64}, capture_output=True, text=True
    )
    assert made.returncode == 2
    assert "inference pc is neither RESOURCE nor RESOURCE=AMOUNT" in made.stderr
