"""Streams over UNIX sockets and TCP, beyond what every transport keeps: addresses, files, silence, dialling."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.transports import Address, Limits, Peer, _stream
from chunkwise.transports._stream import StreamLink

PATIENCE_S = 10.0
Unix: Any = plugins.load("transports", "unix")
Tcp: Any = plugins.load("transports", "tcp")


class Echo:
    """Sends back what it gets."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.lost_told = asyncio.Event()

    def opened(self) -> None: ...

    def received(self, data: Any) -> None:
        self.peer.send(bytes(data))

    def lost(self, why: str) -> None:
        self.lost_told.set()


# Addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("unix:/run/x.sock", Address("unix", "/run/x.sock"), True),
        ("unix:///run/a%20b.sock?rows=2", Address("unix", "/run/a b.sock", options={"rows": "2"}), True),
        ("native+unix:///x", Address("native+unix", "/x"), True),
        ("tcp://127.0.0.1:7777", Address("tcp", host="127.0.0.1", port=7777), True),
        ("tcp://[::1]:7777", Address("tcp", host="::1", port=7777), True),
        ("tcp://localhost:1/", Address("tcp", host="localhost", port=1), True),
        ("tcp://0.0.0.0:1", Address("tcp", host="0.0.0.0", port=1), False),
        ("tcp://[::]:1", Address("tcp", host="::", port=1), False),
        ("http://gpu-box:80/predict", Address("http", "/predict", "gpu-box", 80), False),
        ("http://10.0.0.1?a=&a=2", Address("http", "", "10.0.0.1", 0, {"a": "2"}), False),
    ],
)
def test_an_address_is_taken_apart(text: str, address: Address, local: bool) -> None:
    parsed = Address.parse(text)
    assert parsed == address and parsed.local is local


@pytest.mark.parametrize("text", ["unix:/run/x.sock", "tcp://127.0.0.1:7777", "http://[::1]:80/predict"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no address; write unix:/path/to/socket"),
        ("/run/x.sock", "is no address"),
        ("unix:", "a socket's path is absolute"),
        ("unix://run/x.sock", "a socket's path is absolute"),
        ("tcp:7777", "names no host, as in tcp://127.0.0.1:7777"),
        ("tcp://:7777", "names no host"),
        ("tcp://127.0.0.1:port", "is no address"),
        ("tcp://127.0.0.1:65536", "is no address"),
        ("tcp://[::1", "is no address"),
    ],
)
def test_what_is_no_address_says_what_one_is(text: str, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        Address.parse(text)


# UNIX sockets -------------------------------------------------------------------------------------------------


def test_a_socket_is_its_users_alone_and_gone_afterwards(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "x.sock"
        before = os.umask(0o022)
        os.umask(before)
        listener = await Unix().serve(Address("unix", str(path)), Echo, Limits())
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.umask(before) == before
        await listener.close()
        await listener.close()
        assert not path.exists()

    asyncio.run(story())


def test_a_socket_that_a_dead_program_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()

    async def story() -> None:
        listener = await Unix().serve(Address("unix", str(path)), Echo, Limits())
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), PATIENCE_S) == b"hello"
        writer.close()
        await writer.wait_closed()
        await listener.close()

    asyncio.run(story())


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("1,2\n")

    async def story() -> None:
        with pytest.raises(OSError, match="is no socket; nothing was removed"):
            await Unix().serve(Address("unix", str(path)), Echo, Limits())

    asyncio.run(story())
    assert path.read_text() == "1,2\n"


def test_the_socket_of_whoever_came_later_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"

    async def story() -> None:
        first = await Unix().serve(Address("unix", str(path)), Echo, Limits())
        path.unlink()
        second = await Unix().serve(Address("unix", str(path)), Echo, Limits())
        await first.close()
        assert path.exists()
        await second.close()

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/no/such/folder/x.sock", "/" + "x" * 200])
def test_a_path_that_cannot_be_had_is_named(path: str) -> None:
    async def story() -> None:
        with pytest.raises(OSError, match="cannot listen on /"):
            await Unix().serve(Address("unix", path), Echo, Limits())

    asyncio.run(story())


# Silence, and dialling ----------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_ends() -> None:
    async def story() -> None:
        made: list[Echo] = []

        def accept(peer: Peer) -> Echo:
            made.append(Echo(peer))
            return made[-1]

        listener = await Tcp().serve(Address("tcp", host="127.0.0.1"), accept, Limits(idle_s=0.05))
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)
        await asyncio.wait_for(made[0].lost_told.wait(), PATIENCE_S)
        writer.close()
        await listener.close()

    asyncio.run(story())


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def story() -> None:
        made: list[Echo] = []

        def accept(peer: Peer) -> Echo:
            made.append(Echo(peer))
            return made[-1]

        listener = await Tcp().serve(Address("tcp", host="127.0.0.1"), accept, Limits(unsent_bytes=100_000))
        with socket.create_connection(("127.0.0.1", listener.address.port)) as client:
            client.sendall(b"x")
            while not made:
                await asyncio.sleep(0)
            made[0].peer.send(bytes(32 << 20))  # more than the kernel takes
            await asyncio.wait_for(made[0].lost_told.wait(), PATIENCE_S)
        await listener.close()

    asyncio.run(story())


def test_dialling_connects_as_soon_as_somebody_listens_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "REDIAL_S", 0.005)
    path = str(tmp_path / "x.sock")

    async def story() -> None:
        dialer = await Unix().dial(Address("unix", path), Echo, Limits())
        called: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()
        server = await asyncio.start_unix_server(lambda reader, writer: called.put_nowait((reader, writer)), path)
        for word in (b"one", b"two"):
            reader, writer = await asyncio.wait_for(called.get(), PATIENCE_S)
            writer.write(word)
            assert await asyncio.wait_for(reader.readexactly(3), PATIENCE_S) == word
            writer.close()
            await writer.wait_closed()
        await dialer.close()
        await dialer.close()
        server.close()
        while not called.empty():  # it had called once more
            called.get_nowait()[1].close()
        await asyncio.sleep(0)

    asyncio.run(story())


# The client's end ---------------------------------------------------------------------------------------------


@contextmanager
def pair() -> Iterator[tuple[StreamLink, socket.socket]]:
    """A link and the socket at its other end."""
    here, there = socket.socketpair()
    link = StreamLink(here, local=True)
    try:
        yield link, there
    finally:
        link.close()
        there.close()


def test_pieces_are_sent_one_after_the_other() -> None:
    with pair() as (link, there):
        link.send([b"one", memoryview(b"two"), bytearray(b"three")], PATIENCE_S)
        assert there.recv(100) == b"onetwothree"


def test_a_server_that_does_not_read_is_a_time_out() -> None:
    with pair() as (link, _), pytest.raises(TimeoutError, match="does not read"):
        link.send(bytes(64 << 20), 0.02)


def test_what_is_larger_than_the_kernels_buffer_is_sent_whole() -> None:
    content = bytes(range(256)) * (32 << 10)
    with pair() as (link, there):
        found = bytearray()

        def read() -> None:
            while len(found) < len(content):
                found.extend(there.recv(1 << 20))

        reader = threading.Thread(target=read)
        reader.start()
        link.send(content, PATIENCE_S)
        reader.join(PATIENCE_S)
        assert bytes(found) == content


def test_a_server_that_has_gone_is_an_os_error() -> None:
    with pair() as (link, there):
        there.sendall(b"last")
        there.close()
        assert bytes(link.receive(PATIENCE_S) or b"") == b"last"
        with pytest.raises(ConnectionResetError, match="closed the connection"):
            link.receive(PATIENCE_S)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            for _ in range(3):
                link.send(bytes(1 << 20), PATIENCE_S)
    link.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        link.receive(0.0)
