"""The engine that ``chunkwise up --cloud-local`` starts, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chunkwise import plugins

pytestmark = pytest.mark.slow
write = plugins.load("policies", f"{Path(__file__).parents[1] / 'policies' / 'tiny_checkpoint.py'}:write")
PATIENCE_S = 60.0
URL = f"ros2://?domain={101 + os.getpid() % 100}&loopback=true&input=/beside/batch"
BESIDE = """\
import sys
from chunkwise.cli import up
with up._beside(sys.argv[1:]):
    sys.stdin.read()
"""
NAMED = """\
import os, sys
print(os.getpid(), file=sys.stderr, flush=True)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("killed", [True, False])
def test_an_engine_beside_a_robot_ends_with_it(tmp_path: Path, killed: bool) -> None:
    """Also where the robot's program was killed, and could end nobody any more."""
    write(tmp_path / "act", {"observation.state": (3,)}, 3, rows=4)
    engine = [sys.executable, "-m", "chunkwise", "engine", "--policy", str(tmp_path / "act")]
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            BESIDE,
            sys.executable,
            "-c",
            NAMED,
            *engine,
            "--until-stdin-ends",
            f"--ros2={URL}",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as robot:
        assert robot.stdin is not None and robot.stderr is not None
        pid = int(robot.stderr.readline())
        watchdog = threading.Timer(PATIENCE_S, os.kill, (pid, signal.SIGKILL))
        watchdog.start()
        assert any("Waiting for preprocessed batches" in line for line in robot.stderr)
        if killed:
            robot.kill()
        else:
            robot.stdin.close()
        robot.stderr.read()  # the engine has the other end of it too
        in_time = watchdog.is_alive()
        watchdog.cancel()
        assert in_time, "the engine outlived it"
        assert robot.wait(PATIENCE_S) == (-signal.SIGKILL if killed else 0)
