from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from chunkwise.runtime import realtime


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def refuse(*_: Any) -> None:
    raise PermissionError("Operation not permitted")


class Library:
    def __init__(self, answer: int) -> None:
        self._answer = answer

    def mlockall(self, flags: int) -> int:
        assert flags == 3
        return self._answer


def test_what_is_refused_is_said_and_nothing_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(-1))
    scheduling, memory, _ = realtime.enable()
    assert "no SCHED_FIFO" in scheduling
    assert "CAP_SYS_NICE" in scheduling
    assert "memory is not locked" in memory


def test_a_system_without_any_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setscheduler")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    scheduling, memory, _ = realtime.enable()
    assert "no SCHED_FIFO" in scheduling
    assert "memory is not locked" in memory


def test_what_is_granted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, param: asked.append((pid, policy)))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(0))
    scheduling, memory, _ = realtime.enable(30)
    assert asked == [(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK)]  # the policy's threads do not inherit it
    assert scheduling == "SCHED_FIFO at priority 30"
    assert memory == "memory is locked"
    realtime.disable()
    assert asked[-1] == (0, os.SCHED_OTHER)
