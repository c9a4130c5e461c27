"""`serve --tape`, `record-wire`, `replay-wire`: what was said is said again, and what is answered is compared."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.cli import main
from chunkwise.cli.record_wire import relay
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec
from chunkwise.recording.tape import Kind, TapeReader, TapeWriter
from chunkwise.server import Listen, Server
from chunkwise.transports import Address
from chunkwise.wires import HttpRequest

PATIENCE_S = 10.0
Remote: Any = plugins.load("policies", "remote")
IGNORED = "server_s,session,server_timing,policy_timing"


class Offset:
    """Answers the state that it sees plus an offset, in three rows."""

    spec = PolicySpec(
        "offset",
        ["head"],
        ["arm"],
        outputs=[PolicyOutputSpec("arm", "joint_position", 2, names=["a", "b"])],
        state_names={"arm": ["a", "b"]},
        action_horizon=3,
    )

    def __init__(self, offset: float = 0.0) -> None:
        self._offset = offset

    def session(self) -> Offset:
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        return ActionChunk(np.tile(frame.state["arm"] + self._offset, (3, 1)))


def seen(value: float) -> Frame:
    """Both joints at a value, and a picture."""
    return Frame({"head": np.full((4, 4, 3), 7, np.uint8)}, {"arm": np.array([value, value])}, {"prompt": "go"})


def listen(wire: str, address: Address) -> Listen:
    """That wire there."""
    maker = plugins.load("wires", wire)
    return Listen(wire, maker(**({"names": ()} if wire == "ark" else {})), address)


def beside(
    story: Callable[[list[Address]], Any],
    listens: list[Listen],
    *,
    offset: float = 0.0,
    tape: TapeWriter | None = None,
) -> Any:
    """What a story in a thread gives, beside a server that is ready."""

    async def whole() -> Any:
        server = Server(lambda: Offset(offset), listens, tap=None if tape is None else tape.tap)
        await server.start()
        try:
            await server.service.loaded
            return await asyncio.to_thread(story, server.addresses)
        finally:
            await server.stop(drain_s=0.0)
            if tape is not None:
                tape.close()

    return asyncio.run(whole())


def url(wire: str, address: Address, **options: str) -> str:
    """Of a policy behind that address."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    where = (
        f"unix://{address.path}"
        if address.transport == "unix"
        else f"{address.transport}://{address.host}:{address.port}"
    )
    return f"{wire}+{where}?{query}"


def drive(where: str, values: tuple[float, ...] = (0.5, -1.25)) -> None:
    """A client that asks twice, with a reset between."""
    policy = Remote(url=where, timeout_s=PATIENCE_S)
    try:
        for value in values:
            assert policy.infer(seen(value), ChunkRequest(0)).rows[0].tolist() == [value, value]
            policy.reset()
    finally:
        policy.close()


def against(tape: Path, address: Address, *more: str) -> list[str]:
    """The command's words."""
    return ["replay-wire", str(tape), "--against", str(address), *more]


OUTPUTS = {"outputs": "arm:joint_position:2"}
CARRIED = [
    ("native", "unix", {}),
    ("native", "tcp", {}),
    ("gr00t", "zmq", OUTPUTS),
    ("openpi", "websocket", OUTPUTS | {"cameras": "head", "states": "arm:2"}),
]


@pytest.mark.parametrize(("wire", "transport", "options"), CARRIED, ids=[transport for _, transport, _ in CARRIED])
def test_the_same_server_answers_the_same_and_another_does_not(
    wire: str, transport: str, options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if transport in ("zmq", "websocket"):
        pytest.importorskip({"zmq": "zmq", "websocket": "websockets"}[transport])
    path = tmp_path / "one.tape"

    def address(name: str) -> Address:
        if transport == "unix":
            return Address("unix", str(tmp_path / name))
        return Address(transport, host="127.0.0.1")

    beside(
        lambda there: drive(url(wire, there[0], **options)), [listen(wire, address("a"))], tape=TapeWriter(path)
    )
    again = [listen(wire, address("b"))]
    assert beside(lambda there: main(against(path, there[0], "--ignore", IGNORED)), again) == 0
    out = capsys.readouterr().out
    assert "all the same" in out and "1 connections" in out
    assert beside(lambda there: main(against(path, there[0], "--ignore", IGNORED)), again, offset=0.25) == 1
    out = capsys.readouterr().out
    assert "first differing byte" in out and "2 not the same" in out
    if wire == "native":
        assert "rows[0, 0]: np.float64(0.5) | np.float64(0.75)" in out and "(6 of 6 differ)" in out


def test_requests_over_http_are_played_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn")
    path = tmp_path / "one.tape"
    health = [Listen("health", None, Address("http", host="127.0.0.1"), anonymous=True)]
    transport = plugins.load("transports", "http")()

    def story(there: list[Address]) -> None:
        link = transport.connect(there[0], timeout_s=PATIENCE_S)
        try:
            for asked in ("/healthz", "/readyz", "/nowhere"):
                link.send(HttpRequest("GET", asked), PATIENCE_S)
                assert link.receive(PATIENCE_S) is not None
        finally:
            link.close()

    beside(story, health, tape=TapeWriter(path))
    assert beside(lambda there: main(against(path, there[0])), health) == 0
    assert "3 connections, 3 answers compared: all the same" in capsys.readouterr().out


def test_a_client_and_a_server_elsewhere_are_recorded_between_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, middle = tmp_path / "one.tape", Address("unix", str(tmp_path / "middle"))

    async def whole() -> None:
        server = Server(Offset, [listen("native", Address("tcp", host="127.0.0.1"))])
        await server.start()
        await server.service.loaded
        tape = TapeWriter(path)
        listener = await relay("native", middle, server.addresses[0], tape)
        try:
            await asyncio.to_thread(drive, url("native", middle, shared_memory="false"))
            code = await asyncio.to_thread(main, against(path, server.addresses[0], "--ignore", IGNORED))
            assert code == 0
        finally:
            await listener.close()
            tape.close()
            await server.stop(drain_s=0.0)

    asyncio.run(whole())
    assert "all the same" in capsys.readouterr().out
    kinds = [record.kind for record in TapeReader(path)]
    assert kinds.count(Kind.OPENED) == 1 and kinds.count(Kind.CAME) >= 5


def test_where_the_server_is_not_there_the_client_is_let_go(tmp_path: Path) -> None:
    async def whole() -> bytes:
        tape = TapeWriter(tmp_path / "one.tape")
        nobody = Address("unix", str(tmp_path / "nobody"))
        listener = await relay("native", Address("unix", str(tmp_path / "middle")), nobody, tape)
        try:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "middle"))
            writer.write(b"hello")
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await reader.read()
            except ConnectionError:  # what it had said was not read
                return b""
            finally:
                writer.close()
        finally:
            await listener.close()
            tape.close()

    assert asyncio.run(whole()) == b""


def taped(path: Path, *went: bytes, wire: str = "openarm", transport: str = "unix") -> Path:
    """A tape of one connection whose client says "ask" before each answer."""
    tape = TapeWriter(path)
    tape.note(Kind.OPENED, 1, {"wire": wire, "transport": transport, "peer": "p"})
    for data in went:
        tape.note(Kind.CAME, 1, b"ask\n")
        tape.note(Kind.WENT, 1, data)
    tape.note(Kind.LOST, 1, {"why": ""})
    tape.close()
    return path


async def _says(answers: list[bytes], where: Path, words: list[str]) -> int:
    """The exit code of a replay against somebody who answers so."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() and left:
            answer = left.pop(0)
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
            if not answer:
                break
        writer.close()

    server = await asyncio.start_unix_server(serve, where)
    try:
        return await asyncio.to_thread(main, words)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ([b'{"a": 1}\n', b'{"a": 2}\n'], 0, "2 answers compared: all the same"),
        ([b'{"a": 1}\n', b'{"a": 3}\n'], 1, "a: 2 | 3"),
        ([b'{"a": 1, "t": 0.25}\n', b'{"a": 2, "t": 123456.5}\n'], 0, "all the same"),
        ([b'{"a": 1}\n', b""], 1, "connection 1: answer 2: "),
        ([b'{"a": 1}\n', b'{"a": 2'], 1, "answer 2"),
        ([b'{"a": 1}\n{"b": 1}\n', b'{"a": 2}\n'], 1, "b: nothing | there"),
    ],
)
def test_a_stream_is_compared_message_by_message(
    answers: list[bytes], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = taped(tmp_path / "one.tape", b'{"a": 1}\n', b'{"a":', b" 2}\n")
    said = against(tape, Address("unix", str(tmp_path / "s")), "--ignore", "t", "--timeout-s", "0.2")
    assert asyncio.run(_says([*answers, b""], tmp_path / "s", said)) == code
    assert words in capsys.readouterr().out


def test_nothing_to_compare_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = taped(tmp_path / "one.tape", b"x", transport="zmq")
    assert main(against(tape, Address("unix", str(tmp_path / "s")))) == 1
    assert "nothing was compared" in capsys.readouterr().out
    tape = taped(tmp_path / "two.tape", b"x")
    assert main(against(tape, Address("unix", str(tmp_path / "s")))) == 1
    assert "no connection" in capsys.readouterr().out
    assert main(against(tape, Address("unix", str(tmp_path / "s")), "--wire", "native")) == 1


def test_a_tape_that_is_cut_off_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = taped(tmp_path / "one.tape", b'{"a": 1}\n')
    tape.write_bytes(tape.read_bytes()[:-1])
    said = against(tape, Address("unix", str(tmp_path / "s")), "--timeout-s", "5")
    assert asyncio.run(_says([b'{"a": 1}\n'], tmp_path / "s", said)) == 0
    assert "cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["replay-wire"], "TAPE --against ADDRESS"),
        (["replay-wire", "no.tape", "--against", "unix:/x"], "cannot read no.tape"),
        (["replay-wire", "{tape}", "--against", "carrier://x:1"], "no transport 'carrier'"),
        (["replay-wire", "{tape}", "--against", "unix:/x", "--timeout-s", "0"], "above zero"),
        (["replay-wire", "{tape}", "--against", "unix:/x", "--ignroe", "x"], "did you mean '--ignore'"),
        (["record-wire", "--to", "tcp://h:1", "--tape", "x"], "--listen is missing"),
        (["record-wire", "--listen", "natve=tcp://h:1", "--to", "tcp://h:1", "--tape", "x"], "write WIRE=ADDRESS"),
        (["record-wire", "--listen", "ark=http://h:1", "--to", "http://h:1", "--tape", "x"], "serve --tape"),
        (["record-wire", "--listen", "native=unix:/x/y", "--to", "unix:/z", "--tape", "{tape}"], "exists"),
        (["replay-wires"], "did you mean 'replay-wire'"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_line(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = taped(tmp_path / "one.tape", b"x")
    assert main([word.format(tape=tape) for word in words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_a_server_tapes_itself_and_record_wire_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chunkwise"]
    socket, middle = tmp_path / "s", tmp_path / "m"
    policy = tmp_path / "offset.py"
    policy.write_text(
        "import numpy as np\nfrom chunkwise.contract import PolicyOutputSpec, PolicySpec\n"
        "class Still:\n"
        "    spec = PolicySpec('s', [], ['arm'], outputs=[PolicyOutputSpec('arm', 'joint_position', 2)])\n"
        "    def session(self): return self\n"
        "    def infer(self, frame, request): return np.tile(frame.state['arm'], (3, 1))\n"
    )
    serve = [
        *command,
        "serve",
        "--policy",
        f"{policy}:Still",
        "--listen",
        f"native=unix:{socket}",
        "--log",
        "json",
    ]
    record = [*command, "record-wire", "--listen", f"native=unix:{middle}", "--to", f"unix:{socket}"]
    tapes = tmp_path / "tapes"
    with subprocess.Popen([*serve, "--tape", str(tapes)], stderr=subprocess.PIPE, text=True) as server:
        _until(server, "ready")
        with subprocess.Popen(
            [*record, "--tape", str(tmp_path / "r.tape")], stderr=subprocess.PIPE, text=True
        ) as proxy:
            _until(proxy, "recording")
            drive(url("native", Address("unix", str(middle))))
            proxy.send_signal(signal.SIGTERM)
            assert proxy.wait(PATIENCE_S) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0
    (own,) = tapes.iterdir()

    def came(path: Path) -> bytes:
        return b"".join(record.data for record in TapeReader(path) if record.kind is Kind.CAME)

    assert came(own) == came(tmp_path / "r.tape") != b""
    assert re.fullmatch(r"[0-9]{8}-[0-9]{6}-[0-9]{6}\.tape", own.name)


def _until(process: subprocess.Popen[str], word: str) -> None:
    """Read what a process says until it says this."""
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return
    raise AssertionError(f"it ended without {word}")
