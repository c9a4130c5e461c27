"""Every transport there is keeps the contract of a transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chunkwise.testing import TransportConformance
from chunkwise.transports import Address, Transport
from chunkwise.wires import HttpRequest, HttpResponse
from chunkwise.wires._grpc import framed, messages_of

REQUESTS = ("http", "grpc")
"""Transports that move requests and their responses."""


@pytest.mark.usefixtures("adapter")
class TestTransports(TransportConformance):
    kind = "transports"
    adapter: Any

    @pytest.fixture(autouse=True)
    def place(self, adapter: Any, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.streams = adapter.scheme not in ("http", "zmq", "grpc")  # type: ignore[misc]

    def make_transport(self) -> Transport:
        return self.adapter()

    def make_address(self) -> Address:
        scheme = self.adapter.scheme
        if scheme == "unix":
            return Address("unix", str(self.folder / "socket"))
        return Address(scheme, host="127.0.0.1")

    def make_request(self, content: bytes) -> Any:
        content = self._body(content)
        return content if self.adapter.scheme not in REQUESTS else HttpRequest("POST", "/", body=content)

    def make_answer(self, content: bytes) -> Any:
        content = self._body(content)
        return content if self.adapter.scheme not in REQUESTS else HttpResponse(body=content)

    def content(self, data: Any) -> bytes:
        body = data.body if isinstance(data, (HttpRequest, HttpResponse)) else bytes(data)
        return b"".join(messages_of(body)) if self.adapter.scheme == "grpc" else body

    def _body(self, content: bytes) -> bytes:
        return framed([content]) if self.adapter.scheme == "grpc" else content
