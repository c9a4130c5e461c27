"""Listeners and the service behind them: what may listen where, and how it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame, InterfaceValidationError
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address, Limits
from chunkwise.wires import Failed, Readiness, Trouble, Welcome

PATIENCE_S = 10.0
Native: Any = plugins.load("wires", "native")
TCP = Address("tcp", host="127.0.0.1")


class Client:
    """A client on the same event loop: a real connection, and the native wire's client half."""

    def __init__(self) -> None:
        self.half = Native().client()
        self.events: list[Any] = []

    async def connect(self, address: Address) -> Client:
        """Connect."""
        if address.transport == "unix":
            self.reader, self.writer = await asyncio.open_unix_connection(address.path)
        else:
            self.reader, self.writer = await asyncio.open_connection(address.host, address.port)
        return self

    def tell(self, sending: Any) -> None:
        """Say something."""
        self.writer.writelines(sending.data if isinstance(sending.data, list) else [sending.data])

    def ask(self, id: int, value: float) -> None:
        """Ask for a chunk."""
        seen = Frame(state={"arm": np.array([value, value])})
        self.tell(self.half.ask(id, seen, ChunkRequest(0, id=id), None))

    async def heard(self, count: int = 1) -> list[Any]:
        """The next events; fewer where the server ends the connection."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.events) < count and (data := await self.reader.read(1 << 16)):
                self.events += self.half.receive(data, 0.0)
        now, self.events = self.events[:count], self.events[count:]
        return now

    async def ended(self) -> bool:
        """Whether the server has ended the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def native(address: Address, **given: Any) -> Listen:
    """The native wire there."""
    return Listen("native", Native(), address, **given)


@pytest.fixture
def serve(held: Any) -> Callable[..., None]:
    """Runs a story beside a started server whose policy is loaded."""

    def run(story: Any, listens: list[Listen], **given: Any) -> None:
        async def whole() -> None:
            server = Server(lambda: held, listens, **given)
            await server.start()
            clients: list[Client] = []

            async def client(index: int = 0) -> Client:
                clients.append(await Client().connect(server.addresses[index]))
                return clients[-1]

            try:
                await server.service.loaded
                await story(server, client)
            finally:
                held.go.set()
                for made in clients:
                    await made.close()
                await server.stop(drain_s=0.0)

        asyncio.run(whole())

    return run


def test_one_policy_on_many_addresses(serve: Any, held: Any, tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"

    async def story(server: Server, client: Any) -> None:
        assert [address.transport for address in server.addresses] == ["unix", "tcp", "tcp"]
        assert all(address.port for address in server.addresses[1:])
        made = [await client(index) for index in range(3)]
        for number, one in enumerate(made):
            one.tell(one.half.opening())
            one.ask(1, float(number))
        for number, one in enumerate(made):
            welcome, answer = await one.heard(2)
            assert isinstance(welcome, Welcome) and welcome.offer.policy == held.spec
            assert answer.chunk.rows[0].tolist() == [number, number]
        assert os.stat(path).st_mode & 0o777 == 0o600

    serve(story, [native(Address("unix", str(path))), native(TCP), native(TCP)])
    assert not path.exists()


@pytest.mark.parametrize("loads", [True, False])
def test_it_says_that_it_is_ready_once_all_listen_and_the_policy_is_loaded(
    held: Any, loads: bool, tmp_path: Path
) -> None:
    said: list[str] = []
    go = threading.Event()

    def make() -> Any:
        assert go.wait(PATIENCE_S)
        if not loads:
            raise ValueError("on purpose")
        return held

    async def whole() -> None:
        listens = [native(Address("unix", str(tmp_path / name))) for name in ("a", "b")]
        server = Server(make, listens, on_event=lambda name, **details: said.append(name))
        await server.start()
        assert said == ["listening", "listening"]
        go.set()
        await server.service.loaded
        await asyncio.sleep(0)
        assert said[2:] == (["policy_loaded", "ready"] if loads else ["policy_failed_to_load"])
        await server.stop(drain_s=0.0)

    asyncio.run(whole())


def test_who_shows_no_token_is_refused_and_the_connection_ends(serve: Any, tmp_path: Path) -> None:
    async def story(server: Server, client: Any) -> None:
        for token in ("", "another"):
            one = await client()
            one.half.token = token
            one.tell(one.half.opening())
            one.ask(1, 0.0)
            (refused,) = await one.heard()
            assert isinstance(refused, Failed) and refused.problem.kind is Trouble.UNAUTHORISED
            assert await one.ended()
        knows, local, anybody = await client(), await client(1), await client(2)
        knows.half.token = "s3cret"
        for one in (knows, local, anybody):
            one.tell(one.half.opening())
            assert isinstance((await one.heard())[0], Welcome)

    listens = [native(TCP), native(Address("unix", str(tmp_path / "s"))), native(TCP, anonymous=True)]
    serve(story, listens, settings=Settings(token="s3cret"))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "gpu-box"])
def test_what_others_can_reach_needs_a_token(held: Any, host: str) -> None:
    there = Address("tcp", host=host, port=7777)
    with pytest.raises(InterfaceValidationError, match="can be reached from other machines: give a token"):
        Server(lambda: held, [native(TCP), native(there)])
    Server(lambda: held, [native(there)], Settings(token="s3cret"))
    Server(lambda: held, [native(there, anonymous=True)])


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "tcp://127.9.9.9:1"])
def test_this_machine_needs_none(held: Any, text: str) -> None:
    Server(lambda: held, [native(Address.parse(text))])


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        (Listen("native", Native(), Address("http", host="127.0.0.1")), "native is carried by tcp, unix"),
        (Listen("health", None, TCP), "health is carried by http"),
        (Listen("native", Native(), TCP, dial=True), "tcp can only listen"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_listens(
    held: Any, listen: Listen, words: str
) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        Server(lambda: held, [listen])


def test_where_one_address_cannot_be_had_nothing_listens(held: Any, tmp_path: Path) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            there = Address("tcp", host="127.0.0.1", port=taken.getsockname()[1])
            path = tmp_path / "policy.sock"
            server = Server(lambda: held, [native(Address("unix", str(path))), native(there)])
            with pytest.raises(OSError, match=f"cannot listen on {there}"):
                await server.start()
            assert not path.exists()

    asyncio.run(story())


def test_connections_are_limited(serve: Any) -> None:
    async def story(server: Server, client: Any) -> None:
        made = [await client() for _ in range(3)]
        for one in made[:2]:
            one.tell(one.half.opening())
            assert isinstance((await one.heard())[0], Welcome)
        assert await made[2].ended()
        made[0].ask(1, 3.0)
        assert (await made[0].heard())[0].chunk is not None

    serve(story, [native(TCP)], limits=Limits(connections=2))


def test_a_second_client_is_greeted_while_the_policy_runs(serve: Any, held: Any) -> None:
    async def story(server: Server, client: Any) -> None:
        one, two = await client(), await client()
        one.tell(one.half.opening())
        await one.heard()
        held.go.clear()
        one.ask(1, 1.0)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, held.entered.acquire, True, PATIENCE_S)
        two.tell(two.half.opening())
        assert isinstance((await two.heard())[0], Welcome)
        assert not held.go.is_set() and not one.events
        held.go.set()
        assert (await one.heard())[0].chunk.rows[0].tolist() == [1.0, 1.0]

    serve(story, [native(TCP)])


def test_stopping_answers_what_is_under_way(serve: Any, held: Any) -> None:
    async def story(server: Server, client: Any) -> None:
        one, two = await client(), await client()
        for each in (one, two):
            each.tell(each.half.opening())
            await each.heard()
        held.go.clear()
        one.ask(1, 1.0)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, held.entered.acquire, True, PATIENCE_S)
        stopping = asyncio.create_task(server.stop(drain_s=PATIENCE_S))
        two.ask(1, 2.0)
        assert (await two.heard())[0].problem.kind is Trouble.DRAINING
        assert server.service.readiness is Readiness.DRAINING
        held.go.set()
        assert (await one.heard())[0].chunk.rows[0].tolist() == [1.0, 1.0]
        assert await one.ended() and await two.ended()
        await stopping

    serve(story, [native(TCP)])


def test_a_policy_that_hangs_does_not_keep_the_server(serve: Any, held: Any) -> None:
    async def story(server: Server, client: Any) -> None:
        one = await client()
        one.tell(one.half.opening())
        await one.heard()
        held.go.clear()
        one.ask(1, 1.0)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, held.entered.acquire, True, PATIENCE_S)
        server.service.inference.join = lambda timeout_s: False  # type: ignore[method-assign]
        await server.stop(drain_s=0.0)
        assert await one.ended()

    serve(story, [native(TCP)])


def test_what_is_no_message_ends_that_connection_alone(serve: Any) -> None:
    async def story(server: Server, client: Any) -> None:
        one, two = await client(), await client()
        two.tell(two.half.opening())
        await two.heard()
        one.writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert await one.ended()
        two.ask(1, 2.0)
        assert (await two.heard())[0].chunk is not None

    serve(story, [native(TCP)])


def test_half_a_message_is_forgotten_with_its_connection(serve: Any) -> None:
    async def story(server: Server, client: Any) -> None:
        one, two = await client(), await client()
        for each in (one, two):
            each.tell(each.half.opening())
            await each.heard()
        assert len(server.service.sessions) == 2
        one.writer.write(b"CW\x01\x03\xff\x00\x00\x00")
        await one.close()
        async with asyncio.timeout(PATIENCE_S):
            while len(server.service.sessions) == 2:
                await asyncio.sleep(0)
        two.ask(1, 2.0)
        assert (await two.heard())[0].chunk is not None

    serve(story, [native(TCP)])
