"""``chunkwise serve``: one loaded policy for robots elsewhere, over any number of wires at once."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chunkwise import plugins
from chunkwise.cli.assembly import make_strategy, make_worker, recipe_of
from chunkwise.cli.parser import Parser, dotted
from chunkwise.cli.settings import DEVICE_HELP, Choice, is_hosted, on_device, resolved
from chunkwise.cli.statuses import EVERY_S, Words
from chunkwise.heap import keep_freed_memory
from chunkwise.options import UsageError, chosen, convert
from chunkwise.recording.tape import TapeWriter
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address, Limits
from chunkwise.wires import Readiness
from chunkwise.workers import Worker, place

EXAMPLES = """\
  chunkwise serve --policy demo --listen native=unix:/run/user/1000/chunkwise.sock
  chunkwise serve --policy demo --listen native=tcp://127.0.0.1:7777 --listen health=http://127.0.0.1:9090
  chunkwise serve --policy my_policy.py:MyPolicy \\
      --listen 'openarm=unix:/dev/shm/policy-server.socket?rows=16' --listen ark=http://127.0.0.1:8000
  chunkwise serve --policy demo --connect openarm=unix:/openeval/connection.sock
  CHUNKWISE_TOKEN=... chunkwise serve --policy demo --listen native=tcp://0.0.0.0:7777 \\
      --tls-cert cert.pem --tls-key key.pem

and on the robot's side:
  chunkwise run --robot my_robot.py:MyRobot --policy native://gpu-box:7777
"""
LEVELS = ("debug", "info")
MAX_LOG_LINES = 4096
"""Lines that wait to be written; further ones are lost and counted."""
SWITCH_INTERVAL_S = 0.0005
"""A policy that holds the interpreter lets the event loop in after this; Python's own default is 5 ms."""


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; what is under way is answered first."""
    parser = Parser("serve", "Let robots elsewhere ask a policy, over any number of wires at once.", EXAMPLES)
    _add_flags(parser)
    words, dots = dotted(argv, ["policy", "strategy", "worker"])
    parsed = parser.parse(words)
    if parsed.policy is None:
        raise UsageError(f"which policy? --policy NAME; there are: {', '.join(plugins.names('policies'))}")
    named = Choice(parsed.policy, dict(dots["policy"]))
    policy = on_device(named, parsed.device, dots["policy"])
    worker = _worker(parsed.worker, dots["worker"], parsed.inference_timeout_s)
    if worker is None:
        policy = resolved("policy", policy)
    strategy = resolved("strategy", Choice(parsed.strategy, dict(dots["strategy"])))
    listens = [_listen(text) for text in parsed.listen] + [_listen(text, dial=True) for text in parsed.connect]
    if not listens:
        listens = [_from_environment()]
    settings = Settings(
        strategy=make_strategy(strategy),
        max_sessions=_number(parsed.max_sessions, int, "max-sessions"),
        inference_timeout_s=_number(parsed.inference_timeout_s, float, "inference-timeout-s"),
        token=_token(parsed.token_file),
    )
    limits = Limits(connections=_number(parsed.max_connections, int, "max-connections"))
    log = Log(parsed.log, LEVELS[0] if parsed.verbose else LEVELS[1])
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    tape = _tape(parsed.tape, log)
    server = Server(
        lambda: place(recipe_of(policy), worker or "thread", lambda text: log("inference_process", text=text)),
        listens,
        settings,
        limits=limits,
        tls=_tls(parsed.tls_cert, parsed.tls_key),
        version=f"chunkwise {version('chunkwise')}",
        on_event=log,
        tap=None if tape is None else tape.tap,
    )
    statuses = None if parsed.status_fd is None else Words(convert(parsed.status_fd, int, "status-fd"))
    try:
        return asyncio.run(_serve(server, parsed.drain_s, statuses))
    except OSError as error:  # an address that cannot be had
        log("failed", error=error.strerror or str(error))
        return 1
    finally:
        if tape is not None:
            tape.close()
        log.close()


def _add_flags(parser: Parser) -> None:
    parser.add_argument(
        "--policy", metavar="NAME", help="as for `chunkwise run`; options as --policy.OPTION VALUE"
    )
    parser.add_argument("--device", metavar="X", help=DEVICE_HELP)
    parser.add_argument(
        "--worker",
        metavar="NAME",
        default="thread",
        help="where inference runs: thread (default), or process, which is started anew when it ends or hangs; "
        "options as --worker.OPTION VALUE",
    )
    parser.add_argument(
        "--listen",
        metavar="WIRE=ADDRESS",
        action="append",
        default=[],
        help="unix:/path, tcp://host:port or http://host:port; options of the wire as ?OPTION=VALUE. Once per "
        f"wire; there are: {', '.join(plugins.names('wires'))}, and health (/healthz, /readyz, /metrics alone). "
        "By default openarm=unix:$SOCKET where SOCKET is set, else native=tcp://127.0.0.1:7777",
    )
    parser.add_argument(
        "--connect",
        metavar="WIRE=ADDRESS",
        action="append",
        default=[],
        help="the same, but connect to a UNIX socket that the other side listens on (a container's way)",
    )
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        default="rtc",
        help="how chunks are run for robots that do not schedule themselves (default rtc)",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="the secret that clients must show; or CHUNKWISE_TOKEN"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM) for tcp and http addresses")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument(
        "--tape", metavar="DIR", help="keep every byte of every connection in a new file there, for replay-wire"
    )
    parser.add_argument("--max-sessions", metavar="N", default="256", help="clients at once (default 256)")
    parser.add_argument("--max-connections", metavar="N", default="256", help="of each address (default 256)")
    parser.add_argument(
        "--inference-timeout-s", metavar="X", default="60", help="an answer that takes longer is given up"
    )
    parser.add_argument(
        "--drain-s", metavar="X", type=float, default=10.0, help="how long SIGTERM waits for answers"
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="form of the log on stderr")
    parser.add_argument("--verbose", action="store_true", help="log every request")
    parser.add_argument("--status-fd", metavar="N", help="write how it goes to this descriptor, as lines of JSON")


async def _serve(server: Server, drain_s: float, statuses: Words | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked_to_stop() -> None:
        if stop.is_set():  # asked twice: at once
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop)
    await server.start()
    saying = None if statuses is None else asyncio.create_task(_say_status(server, statuses))
    stopping = asyncio.create_task(stop.wait())
    waited: list[asyncio.Future[Any]] = [stopping, server.service.loaded]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    failed = server.service.loaded.done() and server.service.loaded.result() is Readiness.FAILED
    if failed:
        stop.set()
    await stopping
    await server.stop(0.0 if failed else drain_s)
    if saying is not None:
        saying.cancel()
    return 1 if failed else 0


async def _say_status(server: Server, statuses: Words) -> None:
    """Say how it goes, twice a second and at once when the policy is loaded."""
    while True:
        service = server.service
        status: dict[str, Any] = {
            "readiness": str(service.readiness),
            "addresses": [str(item) for item in server.addresses],
        }
        status |= {"sessions": len(service.sessions), "waiting": service.inference.waiting}
        statuses.say(status | {"at_once": service.calls_at_once, "requests": server.metrics.answered})
        if service.loaded.done():
            await asyncio.sleep(EVERY_S)
        else:
            await asyncio.wait([service.loaded], timeout=EVERY_S)


class Log:
    """Events as lines on stderr, written by a thread of its own: a reader that does not read stops no robot.

    Args:
        form: ``text`` or ``json``.
        least: the least level that is written.
    """

    def __init__(self, form: str, least: str) -> None:
        self._json, self._least = form == "json", LEVELS.index(least)
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LOG_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="chunkwise-log", daemon=True)
        self._thread.start()

    def __call__(self, name: str, level: str = "info", **details: Any) -> None:
        """One line."""
        if LEVELS.index(level) < self._least:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._lost:
            details["lines_lost_before"] = self._lost
        if self._json:
            line = json.dumps({"time": time, "level": level, "event": name, **details}, default=str)
        else:
            line = " ".join([time, name, *(f"{key}={_plain(value)}" for key, value in details.items())])
        try:
            self._lines.put_nowait(line)
            self._lost = 0
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what waits, as far as somebody reads it."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(1.0)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)


def _plain(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)


def _listen(text: str, *, dial: bool = False) -> Listen:
    name, equals, where = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"{text!r}: write WIRE=ADDRESS, as in native=tcp://127.0.0.1:7777")
    address = Address.parse(where)
    if address.transport not in plugins.names("transports"):
        there = ", ".join(plugins.names("transports"))
        raise UsageError(f"{text!r}: no transport {address.transport!r}; there are: {there}")
    given = dict(address.options)
    anonymous = convert(given.pop("anonymous", "false"), bool, f"{text}: anonymous")
    if name == "health":
        return Listen(name, None, address, anonymous=True)
    maker: Callable[..., Any] = plugins.load("wires", name)
    try:
        wire = maker(**chosen(maker, given, f"wire {name}"))
    except ValueError as error:
        raise UsageError(f"wire {name}: {error}") from error
    return Listen(name, wire, address, dial, anonymous)


def _from_environment() -> Listen:
    path = os.environ.get("SOCKET")
    return _listen(f"openarm=unix:{path}") if path else _listen("native=tcp://127.0.0.1:7777")


def _worker(name: str, options: Mapping[str, str], timeout_s: str) -> Callable[..., Worker] | None:
    """What makes the policy in another process; None where it runs in a thread of the server."""
    if name == "thread":
        for option in options:
            raise UsageError(f"--worker.{option}: the server's own thread has no options")
        return None
    if not is_hosted(Choice(name)):
        raise UsageError(f"--worker {name}: a server runs its policy in a thread of its own, or in a process")
    return make_worker(resolved("worker", Choice(name, {"timeout_s": timeout_s, **options})))


def _token(path: str | None) -> str:
    if path is None:
        return os.environ.get("CHUNKWISE_TOKEN", "")
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not token:
        raise UsageError(f"{path} holds no token")
    return token


def _tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None:
        raise UsageError("--tls-key needs --tls-cert")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use {cert}: {error}") from error
    return context


def _tape(folder: str | None, log: Log) -> TapeWriter | None:
    if folder is None:
        return None
    path = Path(folder) / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.tape"
    log("taping", file=str(path))
    return TapeWriter(path, on_full=lambda why: log("tape_full", error=why))


def _number(text: str, kind: type, name: str) -> Any:
    value = convert(text, kind, name)
    if not value > 0:
        raise UsageError(f"{name} must be above zero, got {text}")
    return value
