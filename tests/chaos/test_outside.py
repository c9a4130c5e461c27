from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkwise.chaos.outside import Machine, hogs_of
from chunkwise.chaos.plan import Harm, Injection

HOG = Injection(Harm.CPU_HOG, 0, 1, {"processes": 2})


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen([sys.executable, "-ISc", "input()"], stdin=subprocess.PIPE)
    yield made
    assert made.stdin is not None
    made.stdin.close()
    made.kill()
    made.wait()


@pytest.fixture
def machine(process: subprocess.Popen[bytes]) -> Iterator[Machine]:
    made = Machine(lambda: process.pid)
    yield made
    made.close()


def awaited(pid: int, options: int) -> int:
    """How a child changed, as ``waitid`` has it."""
    result = os.waitid(os.P_PID, pid, options | os.WNOWAIT)
    assert result is not None
    return result.si_code


def test_a_fault_of_a_process_needs_one(machine: Machine) -> None:
    none = Machine(lambda: None)
    try:
        for harm in (Harm.CRASH, Harm.KILL, Harm.FREEZE_PROCESS, Harm.HANG):
            assert "no process of its own" in none.cannot(Injection(harm, 0))
            assert machine.cannot(Injection(harm, 0)) == ""
        assert none.cannot(Injection(Harm.STALL, 0)) == ""
    finally:
        none.close()


def test_kill_kills(machine: Machine, process: subprocess.Popen[bytes]) -> None:
    machine.begin(Injection(Harm.KILL, 0))
    assert process.wait() == -signal.SIGKILL
    late = Injection(Harm.KILL, 1)
    machine.begin(late)
    assert "there was no process to kill" in machine.note(late)


def test_a_process_is_stopped_and_continued(machine: Machine, process: subprocess.Popen[bytes]) -> None:
    freeze = Injection(Harm.FREEZE_PROCESS, 0, 1)
    machine.begin(freeze)
    assert awaited(process.pid, os.WSTOPPED) == os.CLD_STOPPED
    machine.end_of(freeze)
    assert awaited(process.pid, os.WCONTINUED) == os.CLD_CONTINUED


def test_a_process_that_was_killed_meanwhile_is_not_continued(
    machine: Machine, process: subprocess.Popen[bytes]
) -> None:
    freeze = Injection(Harm.FREEZE_PROCESS, 0, 1)
    machine.begin(freeze)
    process.kill()
    process.wait()
    machine.end_of(freeze)
    machine.begin(freeze)
    assert "there was no process to stop" in machine.note(freeze)


def test_closing_continues_what_is_stopped(process: subprocess.Popen[bytes]) -> None:
    machine = Machine(lambda: process.pid)
    machine.begin(Injection(Harm.FREEZE_PROCESS, 0, 1))
    assert awaited(process.pid, os.WSTOPPED) == os.CLD_STOPPED
    machine.close()
    machine.close()
    assert awaited(process.pid, os.WCONTINUED) == os.CLD_CONTINUED


def test_hogs_work_while_somebody_wants_them_to_and_end_with_the_machine() -> None:
    machine = Machine(lambda: None, hogs=2)
    hogs = machine._hogs
    fewer = Injection(Harm.CPU_HOG, 0, 1, {"processes": 1})
    told: list[list[bytes]] = [[], []]
    for hog, words in zip(hogs, told, strict=True):
        write = hog.stdin.write  # type: ignore[union-attr]
        hog.stdin.write = lambda word, words=words, write=write: (words.append(word), write(word))  # type: ignore
    machine.begin(HOG)
    machine.begin(fewer)
    machine.end_of(HOG)
    machine.end_of(fewer)
    assert told == [[b"1", b"0"], [b"1", b"0"]]
    machine.close()
    assert [hog.returncode for hog in hogs] == [0, 0], "they end by themselves"


def test_as_many_hogs_as_the_plan_wants_at_once() -> None:
    assert hogs_of([HOG, Injection(Harm.NAN, 0, 1), Injection(Harm.CPU_HOG, 0, 1, {"processes": 4})]) == 4
    assert hogs_of([]) == 0


def test_files_of_this_run_are_removed_and_those_of_others_stay(shared: Path) -> None:
    machine = Machine(lambda: None)
    remove, again = Injection(Harm.REMOVE_SHARED_MEMORY, 0), Injection(Harm.REMOVE_SHARED_MEMORY, 1)
    (shared / "theirs").touch()
    with (shared / "ours").open("w"):
        machine.begin(remove)
        machine.close()
    assert [path.name for path in shared.iterdir()] == ["theirs"]
    assert machine.note(remove) == "removed ours"
    machine = Machine(lambda: None)
    machine.begin(again)
    machine.close()
    assert machine.note(again) == "there is no file to remove: its memory has no name"
