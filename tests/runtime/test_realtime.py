from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chunkwise.runtime import realtime
from chunkwise.runtime.realtime import YOUNG, Garbage, RealTime


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """What every thread was allowed, on a machine of four cores; nothing here moves a real thread."""
    allowed: dict[int, set[int]] = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: allowed.get(thread, {0, 1, 2, 3}))
    monkeypatch.setattr(os, "sched_setaffinity", allowed.__setitem__)
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, param: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(0))
    return allowed


def refuse(*_: Any) -> None:
    raise PermissionError("Operation not permitted")


class Library:
    def __init__(self, answer: int) -> None:
        self._answer = answer

    def mlockall(self, flags: int) -> int:
        assert flags == 3
        return self._answer

    def munlockall(self) -> int:
        return 0


def test_what_is_refused_is_said_and_nothing_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(-1))
    with RealTime() as granted:
        scheduling, core, memory, garbage = granted.said
    assert "no SCHED_FIFO" in scheduling
    assert "CAP_SYS_NICE" in scheduling
    assert "no core of its own (Operation not permitted)" in core
    assert "memory is not locked" in memory
    assert "between periods" in garbage


def test_a_system_without_any_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_setscheduler", "sched_getaffinity"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with RealTime() as granted:
        scheduling, core, memory, _ = granted.said
    assert "no SCHED_FIFO" in scheduling
    assert "no core of its own" in core
    assert "memory is not locked" in memory


def test_what_is_granted_is_said_and_given_back(
    monkeypatch: pytest.MonkeyPatch, cores: dict[int, set[int]]
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, param: asked.append((pid, policy)))
    loop, child = threading.get_native_id(), 1 << 30
    monkeypatch.setattr(realtime, "_threads", lambda pid="self": [loop, loop + 1] if pid == "self" else [child])
    monkeypatch.setattr(realtime, "_children", lambda pid="self": [])
    with RealTime(30, spare=[4711]) as granted:
        scheduling, core, memory, _ = granted.said
        assert not gc.isenabled()
        assert cores == {loop: {3}, loop + 1: {0, 1, 2}, child: {0, 1, 2}}
    assert asked == [(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK), (0, os.SCHED_OTHER)]
    assert scheduling == "SCHED_FIFO at priority 30"
    assert core == "core 3 for the loop, 0, 1, 2 for everything else"
    assert memory == "memory is locked"
    assert gc.isenabled()
    assert set(map(tuple, cores.values())) == {(0, 1, 2, 3)}


def test_what_was_given_cores_of_its_own_keeps_to_them(
    monkeypatch: pytest.MonkeyPatch, cores: dict[int, set[int]]
) -> None:
    loop, here, there = threading.get_native_id(), 1 << 29, 1 << 30
    cores.update({here: {1, 3}, there: {3}})
    monkeypatch.setattr(realtime, "_threads", lambda pid="self": [loop] if pid == "self" else [here, there])
    monkeypatch.setattr(realtime, "_children", lambda pid="self": [])
    with RealTime(spare=[4711]):
        assert cores == {loop: {3}, here: {1}, there: {0, 1, 2}}
    assert (cores[here], cores[there]) == ({1, 3}, {3})


def test_every_process_of_this_run_keeps_off_the_loops_core(cores: dict[int, set[int]]) -> None:
    camera = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with RealTime():
            assert cores[camera.pid] == {0, 1, 2}
    finally:
        camera.communicate(b"\n")


def test_priority_is_given_back_by_whoever_may_not_clear_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def kernel(pid: int, policy: int, param: object) -> None:
        if asked and not policy & os.SCHED_RESET_ON_FORK:  # needs CAP_SYS_NICE; an rtprio limit is not enough
            raise PermissionError("Operation not permitted")
        asked.append(policy)

    monkeypatch.setattr(os, "sched_setscheduler", kernel)
    with RealTime():
        pass
    assert asked[-1] == os.SCHED_OTHER | os.SCHED_RESET_ON_FORK


def test_one_core_is_not_shared_out(monkeypatch: pytest.MonkeyPatch, cores: dict[int, set[int]]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {5})
    with RealTime() as granted:
        assert "one only" in granted.said[1]
    assert not cores


def test_threads_are_those_of_the_process() -> None:
    assert threading.get_native_id() in realtime._threads()


class Cycle:
    def __init__(self) -> None:
        self.me = self


def test_garbage_is_looked_for_when_there_is_time_and_not_otherwise() -> None:
    now = [0.0]
    look = Garbage(lambda: now[0])
    gone: list[int] = []
    gc.collect()
    gc.disable()
    gc.callbacks.append(lambda phase, info: gone.append(info["generation"]))
    try:
        litter = [[Cycle()] for _ in range(YOUNG + 100)]
        look(1e-5)
        assert gone == [], "there was no time"
        look(0.01)
        assert gone == [1, 1], "start and stop of one look"
        look(0.01)
        assert gone == [1, 1], "nothing new to look at"
        more = [[Cycle()] for _ in range(YOUNG + 100)]
        now[0] += 11.0
        look(-1.0)
        assert gone == [1, 1, 1, 1], "it had been waiting for too long"
        assert len(litter) == len(more)
        gc.enable()
        gone.clear()
        again = [[Cycle()] for _ in range(10)]
        look(1.0)
        assert gone == [], "the interpreter does it itself"
        assert again
    finally:
        gc.callbacks.pop()
