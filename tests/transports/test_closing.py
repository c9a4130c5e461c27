"""Whoever is being accepted while a listener closes: its socket is closed too, not by the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.transports import Address, Limits, Peer


class Deaf:
    """A connection that does nothing."""

    def __init__(self, peer: Peer) -> None:
        pass

    def opened(self) -> None:
        pass

    def received(self, data: Any) -> None:
        pass

    def lost(self, why: str) -> None:
        pass


async def left_open(address: Address, turns: int, descriptors: Callable[[], set[str]]) -> set[str]:
    """Descriptors left by a listener that is closed `turns` turns of the loop after somebody has knocked."""
    transport: Any = plugins.load("transports", address.transport)
    before = descriptors()
    listener = await transport().serve(address, Deaf, Limits())
    where = listener.address
    with socket.socket(socket.AF_UNIX if where.path else socket.AF_INET) as client:
        client.connect(where.path or (where.host, where.port))
        for _ in range(turns):
            await asyncio.sleep(0)
        await listener.close()
    return descriptors() - before


@pytest.mark.parametrize("turns", range(7))
@pytest.mark.parametrize("name", ["unix", "tcp", "http", "websocket"])
def test_a_listener_that_closes_leaves_no_socket(
    name: str,
    turns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    descriptors: Callable[[], set[str]],
) -> None:
    monkeypatch.setattr("chunkwise.transports._websocket_server.CLOSE_S", 0.1)
    address = Address(name, str(tmp_path / "it")) if name == "unix" else Address(name, host="127.0.0.1")
    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(left_open(address, turns, descriptors)) == set()
    finally:
        gc.enable()
