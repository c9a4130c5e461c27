"""Whether a server leaks when its clients die: 200 of them on every wire, half of them killed mid-request, again and again.

    python benchmarks/clients.py --minutes 10      # prints, and writes docs/benchmarks/clients.md

Clients run in processes of ten; every few seconds half of the processes get a SIGKILL while their requests are under
way, and others take their place.  Beside it the server's memory, threads and descriptors are read, and what lies in
/dev/shm.  At the end everybody leaves, and what is left over is read once more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from wires import ARK_CAMERAS, SERVED, ark_body, ark_call, jpegs, picture, port, serve, until_open

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, ComponentSpec, Frame, InterfaceValidationError, RobotSpec

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "clients.md"
PER_PROCESS = 10
EVERY_S = 5.0


def robot() -> RobotSpec:
    """One arm and three cameras."""
    return RobotSpec("one", list(ARK_CAMERAS), [ComponentSpec("one_arm", "arm", 6, ["joint_position"])])


def native(url: str) -> None:
    """Asks for ever; whatever the server says is taken as it comes."""
    remote = plugins.load("policies", "remote")(url=url)
    remote.meet(robot())
    frame = Frame({name: picture(index) for index, name in enumerate(ARK_CAMERAS)}, {"one_arm": np.zeros(6)})
    while True:
        try:
            remote.infer(frame, ChunkRequest(0))
        except InterfaceValidationError:
            time.sleep(0.01)


def ark(listening_port: int, name: str) -> None:
    """Calls `/predict` for ever, ten times a second."""
    body, headers = ark_body(jpegs(), "task")

    def bodies() -> Any:
        while True:
            yield body, headers | {"X-Session": name}

    call = ark_call(listening_port, bodies(), fresh=True)
    while True:
        try:
            call()
        except (OSError, RuntimeError):
            time.sleep(0.01)
        time.sleep(0.1)


def clients(unix: str, tcp: int, http: int) -> None:
    """Ten of them, in threads."""
    kinds = [lambda: native(f"native+unix://{unix}")] * 4 + [lambda: native(f"native://127.0.0.1:{tcp}")] * 3
    kinds += [lambda: ark(http, f"{os.getpid()}-{threading.get_ident()}")] * 3
    for kind in kinds:
        threading.Thread(target=kind, daemon=True).start()
    threading.Event().wait()


def reading(pid: int, health: int) -> dict[str, Any]:
    """What the server uses now."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{health}/metrics", timeout=30).read().decode()

    def total(name: str) -> float:
        rows = [row for row in metrics.splitlines() if row.startswith(name) and "_created" not in row]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows)

    return {
        "MiB": int(fields["VmRSS"].split()[0]) / 1024,
        "threads": int(fields["Threads"]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "sessions": total("chunkwise_sessions"),
        "connections": total("chunkwise_connections"),
        "answers": total("chunkwise_answers_total"),
        "/dev/shm": len([path for path in Path("/dev/shm").iterdir() if "chunkwise" in path.name]),
    }


def start(unix: str, tcp: int, http: int) -> subprocess.Popen[bytes]:
    """A process of clients."""
    words = [sys.executable, __file__, "--clients", json.dumps([unix, tcp, http])]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=200, help="clients at once")
    parser.add_argument("--clients", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.clients:
        clients(*json.loads(asked.clients))
    rows: list[tuple[str, dict[str, Any]]] = []
    killed = 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        unix, tcp, http, health = f"{folder}/c.sock", port(), port(), port()
        listens = (f"native=unix:{unix}", f"native=tcp://127.0.0.1:{tcp}", f"ark=http://127.0.0.1:{http}")
        words = [
            word for listen in (*listens, f"health=http://127.0.0.1:{health}") for word in ("--listen", listen)
        ]
        server = stack.enter_context(serve("--policy", f"{SERVED}:Anything", *words))
        until_open(("127.0.0.1", health))
        urllib.request.urlopen(f"http://127.0.0.1:{health}/readyz").read()
        rows.append(("before anybody came", reading(server.pid, health)))
        running = [start(unix, tcp, http) for _ in range(asked.count // PER_PROCESS)]
        begun, noted = time.monotonic(), 0.0
        try:
            while (passed := time.monotonic() - begun) < 60 * asked.minutes:
                time.sleep(EVERY_S)
                for index in random.sample(range(len(running)), len(running) // 2):
                    running[index].send_signal(signal.SIGKILL)
                    running[index].wait()
                    running[index] = start(unix, tcp, http)
                    killed += PER_PROCESS
                if passed >= noted:
                    noted += 60
                    rows.append((f"after {passed / 60:.1f} min, {killed} killed", reading(server.pid, health)))
                    print(rows[-1], flush=True)
        finally:
            for client in running:
                client.kill()
                client.wait()
        time.sleep(75)  # sessions that nobody uses are forgotten after 60 s
        rows.append((f"all gone, {killed + asked.count} killed", reading(server.pid, health)))
        print(rows[-1])
        code = server.poll()
    names = list(rows[0][1])
    table = "\n".join(
        f"| {when} | " + " | ".join(f"{values[name]:.0f}" for name in names) + " |" for when, values in rows
    )
    PAGE.write_text(
        f"""# Clients that die

`make bench-clients`. {asked.count} clients on a server with the native wire (UNIX socket with shared memory, and TCP) and
the ARK interface, {asked.minutes:g} minutes; every {EVERY_S:g} s half of them are killed (SIGKILL) mid-request and others
take their place. The policy takes 4 ms. The server {"ran on" if code is None else f"ended with {code}"}. Python
{platform.python_version()}, {platform.machine()}, two cores.

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{table}

MiB is resident memory; /dev/shm counts files of ours there. A session that nobody uses is forgotten after 60 s.
""",
        encoding="utf-8",
    )
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
