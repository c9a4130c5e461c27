"""Run a dataflow to its end, and leave no process behind whatever happens.

`dora run` of 0.5 orphans its nodes when it is terminated. So it runs in a session of its own and is told when to
stop (the belt); SIGINT ends it in order where it did not (the brace); and what of its session is still there is
killed by process id, and by nothing else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATAFLOW = ROOT / "inference" / "dataflow-inference.yaml"
ROBOT_DATAFLOW = ROOT / "inference" / "dataflow-robot.yaml"
GRACE_S = 15
"""How long `dora run` may take to stop [s]; it gives a node 10 s to end by itself."""
RESET = "Resetting trajectory, discarding any previous trajectory."
"""What the genuine actions executor prints when it honours a reset."""


@dataclass(frozen=True)
class Ended:
    """How a dataflow ended.

    Attributes:
        code: exit code of `dora run`.
        output: what it and its nodes printed.
        report: the simulation's report; empty where it wrote none.
        spied: what `spy` saw, in order; empty where none was in the dataflow.
        survivors: processes that it left behind, which had to be killed.
    """

    code: int
    output: str
    report: dict[str, Any]
    spied: list[dict[str, Any]]
    survivors: list[str]

    def printed(self, node: str, text: str) -> int:
        """How often a node printed a line with this text."""
        lines = re.findall(rf"\b{node}:.*", self.output)
        return sum(text in line for line in lines)


def with_schedule(text: str, *, episodes: int, seconds: float, pause: float = 1.0) -> str:
    """The dataflow with another schedule for its controller."""
    schedule = f"controller --episodes {episodes} --seconds {seconds} --pause {pause}"
    text, changed = re.subn(r"controller --episodes \S+ --seconds \S+ --pause \S+", schedule, text)
    assert changed == 1, "the dataflow has one controller, with a schedule"
    return text


def with_spy(text: str) -> str:
    """The dataflow and a node more, that writes down every chunk on its way to the executor."""
    spy = Path(__file__).with_name("spy.py")
    return text + (
        "\n  - id: spy\n    path: python\n"
        f"    args: {spy}\n"
        "    inputs:\n      actions: {source: policy-server/actions, queue_size: 100}\n"
        "      command: controller/command\n"
    )


def run(text: str, *, venv: Path, socket: Path, folder: Path, stop_after_s: int) -> Ended:
    """Run a dataflow in `folder` with the dora of `venv` until it ends by itself, or until it is stopped."""
    (folder / "dataflow.yaml").write_text(text, encoding="utf-8")
    report, spied, printed = folder / "report.json", folder / "spied.jsonl", folder / "printed.txt"
    environment = os.environ | {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(venv),
        "SOCKET": str(socket),
        "REPORT": str(report),
        "SPIED": str(spied),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with printed.open("wb") as output:
        dora = subprocess.Popen(
            [venv / "bin" / "dora", "run", "dataflow.yaml", "--stop-after", f"{stop_after_s}s"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = _wait(dora, stop_after_s + GRACE_S)
        finally:
            survivors = _end_session(dora)
    return Ended(
        code,
        printed.read_text(encoding="utf-8", errors="replace"),
        json.loads(report.read_text(encoding="utf-8")) if report.exists() else {},
        [json.loads(line) for line in spied.read_text(encoding="utf-8").splitlines()] if spied.exists() else [],
        survivors,
    )


def _wait(dora: subprocess.Popen[bytes], timeout_s: float) -> int:
    try:
        return dora.wait(timeout_s)
    except subprocess.TimeoutExpired:
        dora.send_signal(signal.SIGINT)
        return dora.wait(GRACE_S)


def _end_session(dora: subprocess.Popen[bytes]) -> list[str]:
    """Kill what is left of its session, and name it."""
    left = []
    for pid, command in _session(dora.pid):
        left.append(command)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    dora.wait()
    return left


def _session(leader: int) -> list[tuple[int, str]]:
    """Process ids and command lines of a session's living processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # pid (name) state ppid pgrp session ...; the name may hold anything, brackets too
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append((int(entry.name), command.strip()))
    return found
