"""Memory that two programs share: the same bytes at both ends, and nothing left behind."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chunkwise.transports._memory import NONCE_BYTES, SharedMemory, attach


def test_both_ends_see_the_same_bytes() -> None:
    memory = SharedMemory(8192)
    view = attach(memory.path, 8192, memory.nonce)
    assert view is not None and len(view) == len(memory.buffer) == 8192
    np.frombuffer(view, dtype=np.float64)[:3] = [1.0, -0.0, np.pi]
    assert bytes(memory.buffer[:24]) == np.array([1.0, -0.0, np.pi]).tobytes()
    memory.buffer[100:103] = b"abc"
    assert bytes(view[100:103]) == b"abc"
    memory.close()


def test_each_piece_is_another_one() -> None:
    one, two = SharedMemory(64), SharedMemory(64)
    assert one.nonce != two.nonce and one.path != two.path
    assert attach(one.path, 64, two.nonce) is None
    one.close(), two.close()


def test_nobody_can_cut_it_under_a_reader() -> None:
    memory = SharedMemory(4096)
    fd = os.open(memory.path, os.O_RDWR)
    for size in (0, 100, 1 << 20):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(fd, size)
    os.close(fd)
    memory.close()


@pytest.mark.parametrize("wrong", ["size", "nonce", "short nonce", "path", "no descriptor", "zero", "huge"])
def test_what_is_not_the_same_memory_is_not_attached(wrong: str, tmp_path: Path) -> None:
    memory = SharedMemory(4096)
    path, size, nonce = memory.path, 4096, memory.nonce
    if wrong == "path":
        file = tmp_path / "memory"
        file.write_bytes(bytes(4096) + nonce)
        path = str(file)
    elif wrong == "no descriptor":
        path = f"/proc/{os.getpid()}/fd/999999"
    elif "nonce" in wrong:
        nonce = bytes(NONCE_BYTES) if wrong == "nonce" else nonce[:4]
    else:
        size = {"size": 4000, "zero": 0, "huge": 1 << 40}[wrong]
    assert attach(path, size, nonce) is None
    memory.close()


def test_closing_leaves_nothing_even_while_somebody_looks(
    descriptors: Callable[[], set[str]],
) -> None:
    before = descriptors()
    memory = SharedMemory(4096)
    looks = np.frombuffer(memory.buffer[:8], dtype=np.uint8)
    view = attach(memory.path, 4096, memory.nonce)
    assert view is not None
    memory.close()
    memory.close()
    assert attach(memory.path, 4096, memory.nonce) is None
    view[:1] = b"x"  # it is there for as long as somebody looks at it
    assert looks[0] == ord("x")
    del memory, looks, view
    gc.collect()
    assert descriptors() <= before


def test_memory_that_cannot_be_had_is_an_os_error(
    monkeypatch: pytest.MonkeyPatch, descriptors: Callable[[], set[str]]
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    before = descriptors()
    monkeypatch.setattr(mmap, "mmap", full)
    with pytest.raises(OSError, match="Cannot allocate"):
        SharedMemory(4096)
    assert descriptors() <= before
