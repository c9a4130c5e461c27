"""Messages between two processes, both ends in this one."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from chunkwise.memory import Memory
from chunkwise.workers._channel import MAX_PACKET_BYTES, Channel, Gone, pair


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = (Channel(end, waits=False) for end in pair())
    yield here, there
    here.close()
    there.close()


@pytest.mark.parametrize("size", [0, 10, MAX_PACKET_BYTES // 8 - 40, MAX_PACKET_BYTES // 8, 1 << 20])
def test_small_and_large_messages_arrive_alike(ends: tuple[Channel, Channel], size: int) -> None:
    here, there = ends
    here.send({"n": 1, "rows": np.arange(float(size))})
    received = there.receive()
    assert received is not None and received[1] is None
    assert received[0]["n"] == 1 and np.array_equal(received[0]["rows"], np.arange(float(size)))
    assert there.receive() is None


def test_bytes_and_memory_arrive_together(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    memory = Memory.new(4096)
    memory.buffer[7] = 42
    here.send_bytes(b"abc", memory)
    memory.close()
    received = there.receive()
    assert received is not None and received[1] is not None
    assert received[0] == {"bytes": b"abc"}
    assert not os.get_inheritable(received[1])
    mine = Memory.received(received[1], most=4096, writable=False)
    assert mine.buffer[7] == 42
    mine.close()


def test_the_end_of_the_other_one_is_told_after_what_it_said(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send({"n": 1})
    here.close()
    assert there.receive() == ({"n": 1, "left_out": []}, None)
    for _ in range(2):
        with pytest.raises(Gone):
            there.receive()
    with pytest.raises(Gone):
        there.send({"n": 2})


def test_a_closed_end_is_gone_for_its_owner_too(ends: tuple[Channel, Channel]) -> None:
    ends[0].close()
    assert ends[0].ready()
    with pytest.raises(Gone):
        ends[0].receive()


def test_who_does_not_read_is_gone(ends: tuple[Channel, Channel]) -> None:
    here, _ = ends
    with pytest.raises(Gone, match="has not read"):
        for _ in range(10_000):
            here.send({"n": 1})


def test_what_is_no_message_is_refused_and_no_descriptor_stays_open(
    ends: tuple[Channel, Channel], descriptors: Callable[[], set[str]]
) -> None:
    _, there = ends
    raw: socket.socket = ends[0]._socket
    memory = Memory.new(4096)
    before = descriptors()
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory.fd]))]
    two = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory.fd] * 2))]
    for data, with_it in (
        (b"\0garbage", []),
        (b"\1", []),
        (b"\1", control),
        (b"\7", control),
        (b"\0", two),
        (b"\0" * (MAX_PACKET_BYTES + 9), []),
    ):
        raw.sendmsg([data], with_it)
        with pytest.raises(ValueError, match=r".+"):
            there.receive()
    assert descriptors() - before == set()
    memory.close()


def test_memory_whose_size_may_change_is_refused() -> None:
    fd = os.memfd_create("x")
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="sealed: False"):
        Memory.received(fd, most=4096)
    sealed = Memory.new(4096)
    with pytest.raises(ValueError, match="at most 100"):
        Memory.received(os.dup(sealed.fd), most=100)
    with pytest.raises(PermissionError):
        os.ftruncate(sealed.fd, 10)
    sealed.close()
    sealed.close()
