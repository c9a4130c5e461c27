"""Encrypted: a server whose certificate is trusted is talked to, another one is told nothing."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame, PolicyFailed, PolicyOutputSpec, PolicySpec
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address

PATIENCE_S = 20.0
PARTS = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
WIRES = {"native": "tcp://127.0.0.1:0", "ark": "http://127.0.0.1:0", "openpi": "ws://127.0.0.1:0"}
URLS = {
    "native": "native://127.0.0.1:PORT",
    "ark": "ark+http://127.0.0.1:PORT?cameras=cam_high:,cam_left_wrist:,cam_right_wrist:",
    "openpi": "openpi://127.0.0.1:PORT",
}
STATE = {part: np.full(dim, 0.25) for part, dim in PARTS.items()}


class Stand:
    """Says: stay where you are."""

    def __init__(self) -> None:
        names = {
            part: [f"joint{n}" for n in range(1, dim + 1)] if dim > 1 else ["gripper"]
            for part, dim in PARTS.items()
        }
        outputs = [
            PolicyOutputSpec(
                part, "joint_position" if dim > 1 else "gripper_position", dim, names=list(names[part])
            )
            for part, dim in PARTS.items()
        ]
        self.spec = PolicySpec(
            "stand", [], list(PARTS), outputs=outputs, state_names=names, action_horizon=4, control_hz=50.0
        )

    def session(self) -> Stand:
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        return np.repeat(np.concatenate([frame.state[part] for part in PARTS])[None], 4, axis=0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(params=list(WIRES))
def url(request: Any, authority: trustme.CA) -> Iterator[str]:
    """Of a server that is encrypted."""
    name = request.param
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listen = Listen(name, plugins.load("wires", name)(), Address.parse(WIRES[name]))
    server = Server(Stand, [listen], Settings(strategy=plugins.load("strategies", "switch")()), tls=context)

    async def begin() -> None:
        await server.start()
        await server.service.loaded

    asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE_S)
    yield URLS[name].replace("PORT", str(server.addresses[0].port))
    asyncio.run_coroutine_threadsafe(server.stop(1.0), loop).result(PATIENCE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_client_that_trusts_the_certificate_is_answered(url: str, trusted: Path) -> None:
    remote = plugins.load("policies", "remote")(url=url, tls=True, ca_file=trusted, timeout_s=PATIENCE_S)
    try:
        chunk = remote.infer(Frame({}, STATE, {"prompt": "stand"}), ChunkRequest(0))
        assert np.allclose(chunk.rows, 0.25)
    finally:
        remote.close()


def test_a_client_that_does_not_trust_it_says_so_and_sends_nothing(url: str, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    with pytest.raises(PolicyFailed, match="certificate"):
        plugins.load("policies", "remote")(url=url, tls=True, ca_file=stranger, start_timeout_s=PATIENCE_S)


def test_a_client_that_speaks_plain_gets_no_answer(url: str) -> None:
    with pytest.raises(PolicyFailed), ExitStack() as stack:
        remote = plugins.load("policies", "remote")(url=url, timeout_s=2.0, start_timeout_s=2.0)
        stack.callback(remote.close)
        remote.infer(Frame({}, STATE, {"prompt": "stand"}), ChunkRequest(0))
