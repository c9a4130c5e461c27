"""``chunkwise replay-wire``: play a tape's client against a live server, and show what is answered differently."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.cli.parser import Parser
from chunkwise.options import UsageError, convert
from chunkwise.recording.readings import Framing, differences, first_message, framing_of
from chunkwise.recording.tape import Kind, TapeReader, TapeRecord
from chunkwise.transports import Address, Link, Transport
from chunkwise.wires import HttpRequest

EXAMPLES = """\
  chunkwise replay-wire one.tape --against unix:/run/user/1000/chunkwise.sock
  chunkwise replay-wire one.tape --against tcp://127.0.0.1:7777 --ignore server_s,session
  chunkwise replay-wire one.tape --against websocket://127.0.0.1:8000 --ignore server_timing,policy_timing
"""
ASKED = ("http", "grpc")
"""Transports whose connections are one request with its response: sent when its response is due."""
OWN_HEADERS = ("host", "connection", "upgrade", "content-length", "transfer-encoding", "te", "user-agent")
OWN_STARTS = ("sec-websocket-", "grpc-")
"""Headers of a request that are the transport's, which makes them anew."""
TAKES = {"unix": ("unix", "tcp"), "tcp": ("unix", "tcp")}
"""Transports that a tape of the first one can be played over."""


def main(argv: Sequence[str]) -> int:
    """0 when every answer is the same, 1 when one is not."""
    description = "Play what clients said on a tape against a live server, in the recorded order, and compare."
    parser = Parser("replay-wire", description, EXAMPLES)
    parser.add_argument("tape", metavar="TAPE", nargs="?", help="made by record-wire, or by serve --tape")
    parser.add_argument("--against", metavar="ADDRESS", help="of the live server: unix:/path, tcp://host:port ...")
    parser.add_argument(
        "--ignore",
        metavar="NAMES",
        default="",
        help="entries that may differ, wherever they stand: server_s,session",
    )
    parser.add_argument("--wire", metavar="NAME", default="", help="only connections of this wire")
    parser.add_argument("--timeout-s", metavar="X", default="10", help="for each answer (default 10)")
    parsed = parser.parse(argv)
    if parsed.tape is None or parsed.against is None:
        raise UsageError("write chunkwise replay-wire TAPE --against ADDRESS")
    timeout_s: float = convert(parsed.timeout_s, float, "timeout-s")
    if not timeout_s > 0:
        raise UsageError(f"timeout-s must be above zero, got {parsed.timeout_s}")
    ignored = frozenset(name.strip() for name in parsed.ignore.split(",") if name.strip())
    reader, address = TapeReader(Path(parsed.tape)), Address.parse(parsed.against)
    if address.transport not in plugins.names("transports"):
        there = ", ".join(plugins.names("transports"))
        raise UsageError(f"{parsed.against!r}: no transport {address.transport!r}; there are: {there}")
    replay = Replay(reader, address, ignored, timeout_s, parsed.wire)
    for number, line in replay.run():
        print(f"connection {number}: {line}")
    return _conclude(replay, reader)


def _conclude(replay: Replay, reader: TapeReader) -> int:
    if reader.truncated:
        print("the tape is cut off; what is there was played", file=sys.stderr)
    if not replay.compared and not replay.different:
        print(f"no answer on the tape was asked for over {replay.transport_name}; nothing was compared")
        return 1
    verdict = "all the same" if not replay.different else f"{replay.different} not the same"
    print(f"{replay.connections} connections, {replay.compared} answers compared: {verdict}")
    return 1 if replay.different else 0


@dataclass(slots=True)
class _Played:
    """A connection of the tape, and what plays it.

    Attributes:
        link: to the live server; None before it is needed, and once it is given up.
        framing: where its answers end; None for a transport of messages.
        due: of the tape's answers, what is not a whole message yet.
        come: the same of the live ones.
        request: what is sent when its answer is due.
        answers: how many were compared.
    """

    key: Any
    link: Link | None
    framing: Framing | None
    due: bytearray = field(default_factory=bytearray)
    come: bytearray = field(default_factory=bytearray)
    request: Any = None
    answers: int = 0


class Replay:
    """Plays a tape.

    Args:
        reader: of the tape.
        address: of the live server.
        ignored: names of entries that may differ.
        timeout_s: for each answer.
        wire: whose connections are played; empty for all.

    Attributes:
        connections, compared, different: how many.
    """

    def __init__(
        self, reader: TapeReader, address: Address, ignored: Collection[str], timeout_s: float, wire: str = ""
    ) -> None:
        self._reader, self._address, self._ignored, self._timeout_s = reader, address, ignored, timeout_s
        self._wire, self.transport_name = wire, address.transport
        self._transport: Transport = plugins.load("transports", address.transport)()
        self._open: dict[int, _Played] = {}
        self._links: dict[Any, Link] = {}
        self.connections = self.compared = self.different = 0

    def run(self) -> Iterator[tuple[int, str]]:
        """Lines for people, each with the number of the connection that it is about."""
        framings = self._framings()
        try:
            for record in self._reader:
                for line in self._play(record, framings):
                    yield record.connection, line
        finally:
            for link in self._links.values():
                link.close()

    def _framings(self) -> dict[int, Framing]:
        """How the answers of every stream on the tape are cut into messages."""
        starts: dict[int, bytes] = {}
        ends: dict[int, bytes] = {}
        for record in self._reader:
            if record.kind is Kind.WENT and isinstance(record.data, bytes) and record.data:
                starts[record.connection] = (starts.get(record.connection, b"") + record.data[:3])[:3]
                ends[record.connection] = record.data[-1:]
        return {number: framing_of(start, ends[number]) for number, start in starts.items()}

    def _play(self, record: TapeRecord, framings: dict[int, Framing]) -> Iterator[str]:
        if record.kind is Kind.OPENED:
            yield from self._begin(record, framings)
            return
        played = self._open.get(record.connection)
        if played is None:
            return
        try:
            if record.kind is Kind.CAME:
                self._say(played, record.data)
            elif record.kind is Kind.WENT:
                yield from self._hear(played, record.data)
            elif record.kind is Kind.LOST:
                yield from self._end(record.connection, played)
        except OSError as error:
            yield f"answer {played.answers + 1}: {error or type(error).__name__}"
            self._give_up(record.connection, played)

    def _begin(self, record: TapeRecord, framings: dict[int, Framing]) -> Iterator[str]:
        about = record.data
        transport, there = about["transport"], self._address.transport
        if there not in TAKES.get(transport, (transport,)) or (self._wire and about["wire"] != self._wire):
            return
        number = record.connection
        key = about["peer"] if transport in ASKED else number
        framing = framings.get(number, Framing.NONE) if transport in TAKES else None
        played = _Played(key, None, framing)
        try:
            played.link = self._link(key)
        except OSError as error:
            yield f"no connection to {self._address}: {error}"
            self.different += 1
            return
        self._open[number] = played
        self.connections += 1

    def _link(self, key: Any) -> Link:
        """The link of a connection; requests of one client share one."""
        if key not in self._links:
            self._links[key] = self._transport.connect(self._address, timeout_s=self._timeout_s)
        return self._links[key]

    def _say(self, played: _Played, data: Any) -> None:
        if isinstance(data, HttpRequest):
            data = replace(data, headers=_without_own(data.headers))
        if self._address.transport in ASKED:
            played.request = data
            return
        assert played.link is not None
        played.link.send(data, self._timeout_s)

    def _hear(self, played: _Played, data: Any) -> Iterator[str]:
        """Compare what the tape has with what comes now."""
        assert played.link is not None
        if data is None:
            raise OSError("the tape could not keep this answer")
        if played.request is not None:
            played.link.send(played.request, self._timeout_s)
            played.request = None
        if played.framing is None:
            yield from self._compare(played, data, self._received(played.link))
            return
        played.due += data
        while size := first_message(played.due, played.framing):
            expected = bytes(played.due[:size])
            del played.due[:size]
            yield from self._compare(played, expected, self._message(played, size))

    def _message(self, played: _Played, size: int) -> bytes:
        """The next message of a live stream; where nobody knows where it ends, as many bytes as the tape has."""
        assert played.link is not None and played.framing is not None
        until_s = time.monotonic() + self._timeout_s
        while True:
            whole = played.framing is not Framing.NONE
            found = first_message(played.come, played.framing) if whole else size * (len(played.come) >= size)
            if found:
                message = bytes(played.come[:found])
                del played.come[:found]
                return message
            data = played.link.receive(max(until_s - time.monotonic(), 0.0))
            if data is None:
                came = bytes(played.come)
                played.come.clear()
                if came:
                    return came
                raise TimeoutError(f"nothing came within {self._timeout_s:g} s")
            played.come += data

    def _received(self, link: Link) -> Any:
        data = link.receive(self._timeout_s)
        if data is None:
            raise TimeoutError(f"nothing came within {self._timeout_s:g} s")
        return data

    def _compare(self, played: _Played, expected: Any, came: Any) -> Iterator[str]:
        played.answers += 1
        self.compared += 1
        found = differences(expected, came, self._ignored)
        if found:
            self.different += 1
            yield f"answer {played.answers}: " + "\n".join(found)

    def _end(self, number: int, played: _Played) -> Iterator[str]:
        """The client left: nothing more may have come."""
        assert played.link is not None
        if played.key != number:
            del self._open[number]
            return
        try:
            more = played.come or played.link.receive(0.0)
        except OSError:
            more = None
        if more:
            self.different += 1
            yield f"after answer {played.answers}: the live server says more than the tape"
        self._close(number, played)

    def _give_up(self, number: int, played: _Played) -> None:
        self.different += 1
        self._close(number, played)

    def _close(self, number: int, played: _Played) -> None:
        del self._open[number]
        link = self._links.pop(played.key, None)
        if link is not None:
            link.close()


def _without_own(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are the client's."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in OWN_HEADERS and not name.lower().startswith(OWN_STARTS)
    }
