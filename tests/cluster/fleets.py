"""`chunkwise up` as somebody starts it who reads its lines, and what its robots left behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).with_name("on_fleet.py")
PATIENCE_S = 120.0


def arm(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """A robot of a fleet's file, with a directory of its own for what it tells."""
    path = folder / name
    path.mkdir()
    return {"robot": {"name": f"{HERE}:TellingArm", "path": str(path)}, "strategy": "switch", **more}


class Up:
    """The command, running.

    Attributes:
        lines: what it printed so far.
    """

    def __init__(self, folder: Path, fleet: Mapping[str, Any], *words: str) -> None:
        self.file, self.report = folder / "fleet.yaml", folder / "reports.json"
        self.file.write_text(yaml.safe_dump(dict(fleet), sort_keys=False), encoding="utf-8")
        self.lines: list[str] = []
        self._new, self._ended = threading.Condition(), False
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "chunkwise", "up", str(self.file), "--json", str(self.report), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as said:
            for line in said:
                with self._new:
                    self.lines.append(line.rstrip())
                    self._new.notify_all()
        with self._new:
            self._ended = True
            self._new.notify_all()

    def says(self, pattern: str, since: int = 0) -> int:
        """Wait for a line; the number of the one after it."""

        def found() -> list[int]:
            return [number for number in range(since, len(self.lines)) if re.search(pattern, self.lines[number])]

        with self._new:
            self._new.wait_for(lambda: found() or self._ended, PATIENCE_S)
            assert found(), f"nothing like {pattern!r} in:\n" + "\n".join(self.lines)
            return found()[0] + 1

    def running(self, *names: str) -> None:
        """Wait until these robots run."""
        for name in names:
            self.says(rf"^ *{name} \|.* Hz .*running$")

    def send(self, number: signal.Signals) -> None:
        """A signal, to this process alone."""
        os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Processes that it started itself."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def ends(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._popen.wait(PATIENCE_S)
        with self._new:
            self._new.wait_for(lambda: self._ended, PATIENCE_S)
        return code

    def reports(self) -> dict[str, Any]:
        """What it wrote for ``--json``."""
        made: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))
        return made

    def close(self) -> None:
        """End it, if it has not."""
        with suppress(ProcessLookupError):
            self._popen.kill()
        self._popen.wait()


@contextmanager
def up(folder: Path, fleet: Mapping[str, Any], *words: str) -> Iterator[Up]:
    """The command for a fleet, ended with the context."""
    made = Up(folder, fleet, *words)
    try:
        yield made
    finally:
        made.close()


def status(address: str) -> dict[str, Any]:
    """What ``chunkwise status`` says."""
    command = [sys.executable, "-m", "chunkwise", "status", "--address", address, "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert said.returncode == 0, said.stderr
    made: dict[str, Any] = json.loads(said.stdout)
    return made


def number_in(path: Path) -> int:
    """A process's number, from the file that it wrote it into."""
    return int(path.read_text(encoding="utf-8"))


def ends(pid: int) -> bool:
    """Whether a process that may have ended already ends."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], PATIENCE_S)[0])
    finally:
        os.close(fd)


def last_speeds(folder: Path, name: str) -> Any:
    """Of a robot that was let go of: how far its joint was sent in each of its last steps, rad."""
    assert ends(number_in(folder / name / "pid"))
    sent = np.array(json.loads((folder / name / "last.json").read_text(encoding="utf-8"))["sent"])
    return np.abs(np.diff(sent))[-12:]


def came_to_a_standstill(folder: Path, name: str) -> bool:
    """Whether a robot was let go of after a brake, its speed fallen evenly to zero, or while it held."""
    speeds = last_speeds(folder, name)
    braked = np.all(np.diff(speeds) <= 1e-9) and speeds[0] > 5 * speeds[-1] and speeds[-1] < 2e-4
    return bool(braked or not speeds.any())
