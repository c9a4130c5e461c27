"""`chunkwise serve`: what it refuses in one line, where it listens, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.cli import main, serve
from chunkwise.contract import ChunkRequest, Frame, PolicyFailed

PATIENCE_S = 20.0
Remote: Any = plugins.load("policies", "remote")
WAVE = ["--policy", "wave", "--policy.components", "arm:2"]
HELD = """
import sys, time
import numpy as np
from chunkwise.contract import PolicyOutputSpec, PolicySpec

class Held:
    outputs = [PolicyOutputSpec("arm", "joint_position", 2)]
    spec = PolicySpec("held", [], ["arm"], outputs=outputs, action_horizon=2)

    def __init__(self, *, pipe: str):
        self.pipe = pipe

    def session(self):
        return self

    def infer(self, frame, request):
        if request.request_step:
            with open(self.pipe) as held:  # until the test opens the other end
                held.read()
        return np.full((2, 2), float(request.request_step))
"""


def test_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    assert "examples:" in out and "chunkwise serve --policy demo" in out
    for word in ("--listen", "--connect", "--token-file", "--tls-cert", "native", "/healthz"):
        assert word in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "which policy? --policy NAME; there are: "),
        (["--policy", "wvae"], "did you mean 'wave'"),
        ([*WAVE, "--listen", "nativ=tcp://127.0.0.1:0"], "no wires adapter 'nativ' (did you mean 'native'?)"),
        ([*WAVE, "--listen", "native=tpc://127.0.0.1:0"], "no transport 'tpc'; there are: "),
        ([*WAVE, "--listen", "native=http://127.0.0.1:0"], "native is carried by tcp, unix"),
        ([*WAVE, "--listen", "tcp://127.0.0.1:0"], "write WIRE=ADDRESS, as in native=tcp://127.0.0.1:7777"),
        ([*WAVE, "--listen", "native=127.0.0.1:7777"], "is no address"),
        ([*WAVE, "--listen", "native=tcp:7777"], "names no host, as in tcp://"),
        ([*WAVE, "--listen", "native=tcp://127.0.0.1:0?imagse=raw"], "wire native has no option 'imagse'"),
        ([*WAVE, "--listen", "native=tcp://127.0.0.1:0?images=png"], "images must be auto, raw or jpeg"),
        ([*WAVE, "--listen", "native=tcp://0.0.0.0:0"], "can be reached from other machines: give a token"),
        ([*WAVE, "--connect", "native=tcp://127.0.0.1:1"], "tcp can only listen"),
        ([*WAVE, "--token-file", "/no/such/file"], "cannot read /no/such/file"),
        ([*WAVE, "--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        ([*WAVE, "--tls-cert", "/no/such/cert.pem"], "cannot use /no/such/cert.pem"),
        ([*WAVE, "--max-sessions", "0"], "max-sessions must be above zero"),
        ([*WAVE, "--inference-timeout-s", "nan"], "inference-timeout-s must be above zero"),
        ([*WAVE, "--strategy", "rct"], "did you mean 'rtc'"),
    ],
)
def test_what_was_asked_wrongly_is_said_in_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHUNKWISE_TOKEN", raising=False)
    monkeypatch.delenv("SOCKET", raising=False)
    assert main(["serve", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("chunkwise: ") and words in error
    assert error.count("\n") == 1 and "Traceback" not in error


def test_an_empty_token_file_is_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("\n")
    assert main(["serve", *WAVE, "--token-file", str(token)]) == 2
    assert "holds no token" in capsys.readouterr().err


def test_by_default_it_listens_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKET", "/dev/shm/policy-server.socket")
    listen = serve._from_environment()
    assert (listen.name, str(listen.address)) == ("openarm", "unix:/dev/shm/policy-server.socket")
    monkeypatch.delenv("SOCKET")
    listen = serve._from_environment()
    assert (listen.name, str(listen.address)) == ("native", "tcp://127.0.0.1:7777")


def test_an_address_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        there = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["serve", *WAVE, "--listen", f"native={there}"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if " failed " in line]
    assert len(lines) == 1 and f"cannot listen on {there}: Address already in use" in lines[0]


def test_events_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log = serve.Log("text", "info")
    log("problem", request="a b/1/2", error="two\nlines", count=3)
    log("answered", level="debug")
    log.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r' problem request="a b/1/2" error="two\nlines" count=3')
    log = serve.Log("json", "debug")
    log("answered", level="debug", request="x")
    log.close()
    made = json.loads(capsys.readouterr().err)
    assert (made["event"], made["level"], made["request"]) == ("answered", "debug", "x")


# In a process of its own --------------------------------------------------------------------------------------


@contextmanager
def serving(*argv: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command, running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chunkwise", "serve", "--log", "json", *argv],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(PATIENCE_S, process.kill)  # no line that never comes is waited for longer
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def told(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The next line of that event."""
    assert process.stderr is not None
    for line in process.stderr:
        made: dict[str, Any] = json.loads(line)
        if made["event"] == event:
            return made
    raise AssertionError(f"{event} was never told")


@pytest.mark.slow
def test_sigterm_answers_what_is_under_way_and_ends_well(tmp_path: Path) -> None:
    pipe, path = tmp_path / "pipe", tmp_path / "policy.sock"
    os.mkfifo(pipe)
    (tmp_path / "held_policy.py").write_text(HELD)
    policy = ["--policy", f"{tmp_path}/held_policy.py:Held", "--policy.pipe", str(pipe)]
    with serving(*policy, "--listen", f"native=unix:{path}", "--verbose") as process:
        assert told(process, "listening")["address"] == f"unix:{path}"
        there = Remote(url=f"native+unix://{path}")
        frame = Frame(state={"arm": np.zeros(2)})
        there.infer(frame, ChunkRequest(0))
        half, link = there._half, there._link
        link.send(half.ask(77, frame, ChunkRequest(5, id=77), None).data, PATIENCE_S)
        # the other end of the pipe opens once the policy reads from it
        with open(pipe, "w"):
            process.send_signal(signal.SIGTERM)
            told(process, "draining")
        answer = there._await(77, PATIENCE_S)
        assert answer.chunk.rows[0].tolist() == [5.0, 5.0]
        told(process, "stopped")
        assert process.wait(PATIENCE_S) == 0
        assert not path.exists()
        with pytest.raises(PolicyFailed):
            there.infer(frame, ChunkRequest(1))
        there.close()


@pytest.mark.slow
def test_a_policy_that_does_not_load_ends_the_command(tmp_path: Path) -> None:
    with serving(
        "--policy",
        "wave",
        "--policy.components",
        "arm:seven",
        "--listen",
        f"native=unix:{tmp_path / 's'}",
    ) as process:
        assert "invalid literal" in told(process, "policy_failed_to_load")["error"]
        assert process.wait(PATIENCE_S) == 1
