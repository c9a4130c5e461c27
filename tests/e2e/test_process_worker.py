"""A policy in a process of its own, from a script, from `chunkwise run` and behind `chunkwise serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.cli import main
from chunkwise.contract import ChunkRequest, Frame, InterfaceValidationError, PolicyFailed
from chunkwise.policies import Recipe
from chunkwise.runtime.session import Session
from chunkwise.workers import WorkerFailed

pytestmark = pytest.mark.slow

ELSEWHERE = Path(__file__).parents[1] / "workers" / "elsewhere.py"
ARM = Recipe("wave", {"components": "arm:7"})
PATIENCE_S = 60.0


def mock() -> Any:
    return plugins.load("robots", "mock")(arms=1)


def test_a_kill_in_the_middle_of_a_run_costs_no_command() -> None:
    said: list[str] = []
    session = Session(mock(), ARM, "switch", worker="process", control_hz=50.0, on_message=said.append)
    again, killed = threading.Event(), []

    def kill_once(turns: list[Any]) -> None:
        worker: Any = session.worker
        newest = max((turn.decision.source.chunk for turn in turns), default=-1)
        if not killed and newest > 0:
            killed.append(newest)
            os.kill(worker.pid, signal.SIGKILL)
        elif killed and worker.restarts and newest > killed[0] + 1:
            again.set()

    with session:
        report = session.run(seconds=PATIENCE_S, stop=again, on_progress=kill_once)
    sent = [turn.sent for turn in session.turns]
    first = next(index for index, row in enumerate(sent) if row is not None)
    assert all(row is not None for row in sent[first:])
    assert again.is_set(), "no chunk came after the process was started again"
    assert any("exit code -9" in text for text in [*said, *report.fault_details.values()])


def test_a_script_without_a_guard_is_told_what_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from chunkwise.contract import ActionChunk, ChunkRequest, Frame\n"
        "from chunkwise.plugins import load\n"
        "def infer(frame, request): return ActionChunk(np.zeros((1, 1)))\n"
        "load('workers', 'process')(infer)\n",
        encoding="utf-8",
    )
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 1
    assert "must stand under `if __name__ == '__main__':`" in made.stderr


def test_a_policy_that_was_made_here_is_refused_before_the_robot_moves() -> None:
    policy = ARM.make()
    session = Session(mock(), policy, worker="process")
    with pytest.raises(InterfaceValidationError, match="give a recipe"):
        session.open()


def test_a_policy_that_does_not_load_is_told_before_the_robot_is_connected() -> None:
    robot = mock()
    connected: list[bool] = []
    robot.connect = lambda: connected.append(True)
    with pytest.raises(WorkerFailed, match="the weights are for another robot"):
        Session(robot, Recipe(f"{ELSEWHERE}:Raises"), worker="process").open()
    assert not connected


def test_the_command_runs_a_policy_in_a_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    argv = ["run", "--robot.arms", "1", "--policy", "wave", "--policy.components", "arm:7", "--seconds", "0.5"]
    assert main([*argv, "--worker", "process", "--worker.threads", "1", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["chunks"] > 0
    assert main([*argv, "--worker", "process", "--policy.rwos", "3"]) == 2
    assert "no option 'rwos' (did you mean 'rows'?)" in capsys.readouterr().err
    assert main([*argv, "--worker", "process", "--worker.slots", "2"]) == 2
    assert "slots must be at least 3" in capsys.readouterr().err


def test_a_server_goes_on_when_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"
    argv = ["--policy", f"{ELSEWHERE}:Mirror", "--worker", "process", "--listen", f"native=unix:{path}"]
    with subprocess.Popen(
        [sys.executable, "-m", "chunkwise", "serve", "--log", "json", *argv], stderr=subprocess.PIPE, text=True
    ) as server:
        watchdog = threading.Timer(PATIENCE_S, server.kill)
        watchdog.start()
        try:
            assert server.stderr is not None
            next(line for line in server.stderr if '"ready"' in line)
            there: Any = plugins.load("policies", "remote")(url=f"native+unix://{path}")
            frame = Frame(state={"arm": np.array([1.0, 2.0])})
            assert there.infer(frame, ChunkRequest(0)).rows.tolist() == [[1.0, 2.0]]
            (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split() or _children(
                server.pid
            )
            os.kill(int(child), signal.SIGKILL)
            next(line for line in server.stderr if "exit code -9" in line)
            while True:
                try:
                    assert there.infer(frame, ChunkRequest(1)).rows.tolist() == [[1.0, 2.0]]
                    break
                except PolicyFailed:  # it is being started
                    os.sched_yield()
            there.close()
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
        finally:
            watchdog.cancel()
            server.kill()


def _children(pid: int) -> list[str]:
    return [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--worker", "inline"], "a thread of its own, or in a process"),
        (["--worker.threads", "2"], "the server's own thread has no options"),
        (["--worker", "process", "--worker.thread", "2"], "did you mean 'threads'?"),
        (["--worker", "proces"], "did you mean 'process'?"),
    ],
)
def test_a_servers_worker_that_is_none_is_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--policy", "wave", *argv]) == 2
    assert words in capsys.readouterr().err
