"""What is left of replicas and of Ray Serve, however their server ends; on a cluster that a test may break."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.plugins import load

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TESTS = Path(__file__).parent
ON_NODES = TESTS / "on_nodes.py"
until_ready, ends, Gate = (
    load("policies", f"{TESTS / 'test_replicas.py'}:{name}") for name in ("until_ready", "ends", "Gate")
)
BREATH, BREATH_S = threading.Event(), 0.05
"""Between two looks at a file that somebody is to write."""


def controllers() -> list[int]:
    """Processes of Ray Serve's that this test's cluster has."""
    mark, found = os.environ["CHUNKWISE_TESTS_MARK"].encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends meanwhile
            named = (folder / "cmdline").read_bytes().startswith(b"ray::ServeController")
            if named and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def kill(cluster: Any, server: Any) -> None:
    server.kill()


def kill_head(cluster: Any, server: Any) -> None:
    cluster.kill_head()


def serving(cluster: Any, policy: str, *words: str) -> Any:
    """A server of two replicas on the second node, as a process."""
    command = [sys.executable, "-m", "chunkwise", "serve", "--policy", "replicas", "--policy.of", policy]
    command += ["--policy.num-cpus", "0.5", "--policy.address", cluster.address, "--policy.resources", "bench=0.5"]
    command += ["--policy.replicas", "2", "--log", "json", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("harm", [kill, kill_head])
def test_nothing_is_left_of_ray_serve(own_cluster: Any, tmp_path: Path, harm: Callable[[Any, Any], None]) -> None:
    address = f"{tmp_path}/policy.sock"
    with serving(own_cluster, f"{ON_NODES}:Together", "--listen", f"native=unix:{address}") as server:
        until_ready(server)
        with closing(load("policies", "remote")(url=f"native+unix://{address}")) as robot:
            frame = Frame(state={"arm": np.zeros(3)})
            replicas = {int(robot.infer(frame, ChunkRequest(0)).rows[0, 2]) for _ in range(20)}
        left = [*replicas, *controllers()]
        assert len(left) == len(replicas) + 1
        harm(own_cluster, server)
        server.stderr.read()
    assert server.returncode != 0
    assert all(map(ends, left))


def test_nothing_is_left_of_a_server_that_is_killed_while_it_starts(own_cluster: Any, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with closing(Gate(tmp_path)) as gate:
        options = f"number: 1, gate: {gate.path}, diary: {diary}"
        words = ("--listen", f"native=unix:{tmp_path}/policy.sock")
        with serving(own_cluster, f"{{name: '{ON_NODES}:Checkpoint', {options}}}", *words) as server:
            begun: list[int] = []
            while len(begun) < 2 and server.poll() is None:
                BREATH.wait(BREATH_S)
                said = diary.read_text(encoding="utf-8") if diary.exists() else ""
                begun = [int(line.split()[2]) for line in said.splitlines(keepends=True) if line.endswith("\n")]
            left = [*begun, *controllers()]
            assert len(left) == 3
            server.kill()
            server.stderr.read()
        assert all(map(ends, left))
