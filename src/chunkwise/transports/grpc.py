"""Remote procedure calls of gRPC, any service and any method: each call is one request with its response.

grpcio moves the messages and knows no service: requests and responses are those of `chunkwise.wires._grpc`.  A
call is answered with one message once all of its own are there, so it may be unary or streamed by the client;
calls that talk while they listen are not this transport's.  One that breaks off may look as if it had ended: gRPC
does not say, so the last message of a protocol must be known as the last.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from chunkwise import plugins
from chunkwise.transports import Accept, Address, Limits, Link, Listener
from chunkwise.wires import HttpRequest, HttpResponse, WireError
from chunkwise.wires._grpc import CONTENT_TYPE, MAX_MESSAGES, Code, code_of, framed, messages_of, status

__all__ = ["Grpc"]

MAX_MESSAGE_BYTES: Final = 64 << 20
"""Of a call where the limits say nothing else, and of a response; three raw pictures of 1080p need 18 MiB."""
READ_S: Final = 30.0
"""A call whose messages are not all there after so long ends."""
CLOSE_S: Final = 1.0
HTTP2_FRAME_BYTES: Final = 4 << 20


class Grpc:
    """Calls of gRPC over HTTP/2; grpcio at both ends, TLS at the client's only."""

    scheme: ClassVar[str] = "grpc"

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen; port 0 takes one that is free.

        Each call is a connection of its own, and is lost once it was answered.  `limits.connections` are calls at
        once, `limits.message_bytes` all messages of one; they are read once its headers were admitted.

        Raises:
            OSError: the address cannot be had, or TLS is asked for: grpcio takes no `ssl.SSLContext`.
            MissingExtra: grpcio is not installed.
        """
        if tls is not None:
            raise OSError(errno.EOPNOTSUPP, f"{address}: gRPC is served without TLS; put a TLS proxy before it")
        grpc = plugins.require("grpc", extra="grpc")
        plugins.require("grpc.aio", extra="grpc")
        calls = _Calls(grpc, accept, limits)
        server = grpc.aio.server(
            handlers=[_handler(grpc, calls)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", calls.most_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
                *([("grpc.max_connection_idle_ms", int(limits.idle_s * 1e3))] if limits.idle_s else []),
            ],
            maximum_concurrent_rpcs=limits.connections,
        )
        try:
            port = server.add_insecure_port(_target(address))
        except RuntimeError as error:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {address}: {error}") from error
        await server.start()
        return GrpcListener(replace(address, port=port), server, calls)

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        """Connect; the token is shown with every call, as ``authorization: Bearer``.

        With TLS, the certificates that `tls` trusts are trusted; whatever else it says is not heeded.

        Raises:
            OSError: nobody listens there.
            MissingExtra: grpcio is not installed.
        """
        grpc = plugins.require("grpc", extra="grpc")
        began_s = time.monotonic()
        with socket.create_connection((address.host, address.port), timeout_s) as probe:  # says at once if nobody
            there = probe.getpeername()[0]
            local = ip_address(there.partition("%")[0]).is_loopback or there == probe.getsockname()[0]
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
            ("grpc.enable_retries", 0),  # a call that is lost is the caller's to know
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: servers tell clients by it
        ]
        if tls is None:
            channel = grpc.insecure_channel(_target(address), options)
        else:
            trusted = "".join(map(ssl.DER_cert_to_PEM_cert, tls.get_ca_certs(binary_form=True)))
            credentials = grpc.ssl_channel_credentials(trusted.encode() or None)
            channel = grpc.secure_channel(_target(address), credentials, options)
        try:
            left_s = timeout_s - (time.monotonic() - began_s)
            grpc.channel_ready_future(channel).result(max(left_s, 0.001))
        except grpc.FutureTimeoutError as error:
            channel.close()
            raise TimeoutError(f"{address}: who listens there speaks no gRPC, or other TLS") from error
        except BaseException:
            channel.close()
            raise
        return GrpcLink(grpc, channel, local, token)


# Serving ------------------------------------------------------------------------------------------------------


class Exchange:
    """One call's other end; the `Peer` that a `Connection` sees.

    Args:
        peer: as gRPC writes it, ``ipv4:127.0.0.1:41234``.

    Attributes:
        response: what was sent; None inside for an end without one.
    """

    __slots__ = ("local", "name", "response")

    def __init__(self, peer: str) -> None:
        self.name = peer
        self.local = _is_local(peer)
        self.response: asyncio.Future[HttpResponse | None] = asyncio.get_running_loop().create_future()

    def send(self, data: Any) -> None:
        """The response; a second one is dropped."""
        if not self.response.done():
            self.response.set_result(data)

    def close(self) -> None:
        """End without a response, where there was none."""
        if not self.response.done():
            self.response.set_result(None)


_UNANSWERED: Final = status(Code.INVALID_ARGUMENT, "the request was refused; the server's log says why")
_UNREAD: Final = status(Code.UNAUTHENTICATED, "the request was refused unread")


class _Calls:
    """Calls to connections, their responses back.

    Args:
        grpc: the package.
        accept: makes a connection of an exchange.
        limits: what is put up with.

    Attributes:
        most_bytes: of all messages of a call.
        exchanges: under way.
    """

    def __init__(self, grpc: Any, accept: Accept, limits: Limits) -> None:
        self._accept = accept
        self.most_bytes = MAX_MESSAGE_BYTES if limits.message_bytes is None else limits.message_bytes
        self._codes = {code.value[0]: code for code in grpc.StatusCode}
        self.exchanges: set[Exchange] = set()

    async def serve(self, method: str, headers: dict[str, str], messages: Any, context: Any) -> bytes:
        """One call, from its first message to its status; the message that answers it."""
        exchange = Exchange(context.peer())
        connection = self._accept(exchange)
        admits = getattr(connection, "admits", None)
        if admits is not None and not admits(headers):
            return self._end(context, exchange.response.result() or _UNREAD)
        try:
            body = await self._body(messages)
        except _Refused as refused:
            return self._end(context, refused.response)
        why = "the client has gone"
        self.exchanges.add(exchange)
        try:
            connection.opened()
            connection.received(HttpRequest("POST", method, {}, headers, body, exchange.name))
            response = await exchange.response
            why = "" if response is not None else "it was not answered"
            return self._end(context, response or _UNANSWERED)
        finally:
            self.exchanges.discard(exchange)
            exchange.close()
            connection.lost(why)

    async def _body(self, messages: Any) -> bytes:
        """All messages of the client, as a body.

        Raises:
            _Refused: they are too many, too long, or not there in time.
        """
        found: list[bytes] = []
        size, most = 0, self.most_bytes
        try:
            async with asyncio.timeout(READ_S):
                async for message in messages:
                    size += len(message)
                    if size > most or len(found) >= MAX_MESSAGES:
                        text = f"a call has at most {MAX_MESSAGES} messages of {most} bytes together"
                        raise _Refused(status(Code.RESOURCE_EXHAUSTED, text))
                    found.append(message)
                await asyncio.sleep(0)  # a call that broke off ends like a whole one, and is cancelled then
        except TimeoutError:
            text = f"the call was not there within {READ_S:g} s"
            raise _Refused(status(Code.DEADLINE_EXCEEDED, text)) from None
        return framed(found)

    def _end(self, context: Any, response: HttpResponse) -> bytes:
        """Say how the call went; the message that answers it, empty for one that fails."""
        try:
            code, text = code_of(response)
            messages = messages_of(response.body)
            if not code and len(messages) != 1:
                code, text = int(Code.INTERNAL), f"{len(messages)} messages answer a call, not one"
        except WireError as error:
            code, text = int(Code.UNKNOWN), str(error)
        if code:
            context.set_code(self._codes.get(code, self._codes[int(Code.UNKNOWN)]))
            context.set_details(text)
            return b""
        return bytes(messages[0])


class GrpcListener:
    """Listens on a port.

    Args:
        address: with the port that was taken.
        server: of grpcio, started.
        calls: that it serves.
    """

    def __init__(self, address: Address, server: Any, calls: _Calls) -> None:
        self.address, self._server, self._calls = address, server, calls

    async def close(self) -> None:
        """Accept nobody any more; what is not answered yet is told so."""
        for exchange in list(self._calls.exchanges):
            exchange.send(status(Code.UNAVAILABLE, "the server is about to stop"))
        await self._server.stop(CLOSE_S)


class _Refused(Exception):
    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.headers["grpc-message"])
        self.response = response


def _handler(grpc: Any, calls: _Calls) -> Any:
    """What grpcio asks who serves a method: whatever its name, one that reads and writes bytes."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio is not read by mypy
        def service(self, details: Any) -> Any:
            texts = [(key, value) for key, value in details.invocation_metadata if isinstance(value, str)]
            headers = {"content-type": CONTENT_TYPE, **{key.lower(): value for key, value in texts}}

            async def serve(messages: Any, context: Any) -> bytes:
                return await calls.serve(details.method, headers, messages, context)

            return grpc.stream_unary_rpc_method_handler(serve)

    return Handler()


# Asking -------------------------------------------------------------------------------------------------------


class GrpcLink:
    """A client's end; blocks, with a time-out, and is used from one thread.

    What is sent is a request, or a list of them: each is sent once the one before it was answered well.  A request
    has one message for its answer.

    Args:
        grpc: the package.
        channel: connected.
        local: whether the other end is on this machine.
        token: shown with every call; empty for none.
    """

    def __init__(self, grpc: Any, channel: Any, local: bool, token: str) -> None:
        self._grpc, self._channel, self.local = grpc, channel, local
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._waiting: deque[HttpRequest] = deque()
        self._call: Any = None
        self._closed = False

    def send(self, data: Any, timeout_s: float) -> None:
        self._waiting += data if isinstance(data, Sequence) else [data]
        self._begin()

    def receive(self, timeout_s: float) -> HttpResponse | None:
        self._begin()
        call = self._call
        if call is None:
            time.sleep(max(timeout_s, 0.0))  # a server says nothing that it was not asked
            return None
        try:
            message = call.result(max(timeout_s, 0.0))
        except self._grpc.FutureTimeoutError:
            return None
        except (self._grpc.RpcError, self._grpc.FutureCancelledError):
            self._call = None
            self._waiting.clear()
            return self._failed(call)
        self._call = None
        return HttpResponse(200, framed([message]), CONTENT_TYPE)

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._channel.close()

    def _begin(self) -> None:
        """The next call, where none is under way."""
        if self._closed:
            raise ConnectionResetError("the connection is closed")
        if self._call is not None or not self._waiting:
            return
        asked = self._waiting.popleft()
        headers = [(key, value) for key, value in asked.headers.items() if key != "content-type"]
        metadata, messages = [*headers, *self._metadata], messages_of(asked.body)
        if len(messages) == 1:  # on the wire a stream of one message looks the same, and costs a thread more
            self._call = self._channel.unary_unary(asked.path).future(bytes(messages[0]), metadata=metadata)
        else:
            self._call = self._channel.stream_unary(asked.path).future(map(bytes, messages), metadata=metadata)

    def _failed(self, call: Any) -> HttpResponse:
        """A status as a response.

        Raises:
            ConnectionResetError: the server has gone, or says that it goes.
        """
        code, text = call.code(), call.details() or ""
        if code is self._grpc.StatusCode.UNAVAILABLE:
            raise ConnectionResetError(text or "the server has gone")
        number = Code.CANCELLED if code is None else code.value[0]
        return HttpResponse(200, b"", CONTENT_TYPE, {"grpc-status": str(int(number)), "grpc-message": text})


def _target(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _is_local(peer: str) -> bool:
    """Whether ``ipv4:127.0.0.1:80``, ``ipv6:%5B::1%5D:80`` or ``unix:...`` is on this machine."""
    kind, _, where = unquote(peer).partition(":")
    try:
        return kind == "unix" or ip_address(where.rpartition(":")[0].strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False
