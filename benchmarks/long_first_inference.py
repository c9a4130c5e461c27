"""Whether the stock openpi client survives a first inference of 50 s, and what everybody else gets meanwhile.

    make openpi-env
    python benchmarks/long_first_inference.py            # asleep, as one that waits for a GPU or a compiler
    python benchmarks/long_first_inference.py --spin     # computing in pure Python all the while

One server, one policy, three wires.  While the first inference runs, the stock client (its keepalive pings every 20 s
and gives up 20 s later) waits for it; `/healthz` on its port is asked ten times a second, an ARK robot calls
`/predict` 50 times a second, and a native and an openpi client connect anew every second.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv-openpi" / "bin" / "python"
PARTS = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
JOINTS = [f"joint{number}" for number in range(1, 7)]


class SlowFirst:
    """Fourteen joints stay where they are; the first answer takes long."""

    def __init__(self, *, seconds: float = 50.0, spin: bool = False) -> None:
        names = {part: JOINTS if size > 1 else ["gripper"] for part, size in PARTS.items()}
        outputs = [
            PolicyOutputSpec(
                part, "joint_position" if size > 1 else "gripper_position", size, names=list(names[part])
            )
            for part, size in PARTS.items()
        ]
        self.spec = PolicySpec(
            "slow_first",
            [],
            list(PARTS),
            outputs=outputs,
            state_names={part: list(found) for part, found in names.items()},
            action_horizon=50,
            control_hz=50.0,
        )
        self._seconds, self._spin = seconds, spin

    def session(self) -> SlowFirst:
        """Itself: it remembers nothing of a client."""
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        seconds, self._seconds = self._seconds, 0.0
        until_s = time.monotonic() + seconds
        while self._spin and time.monotonic() < until_s:
            pass
        time.sleep(max(until_s - time.monotonic(), 0.0))
        return ActionChunk(np.tile(np.concatenate([frame.state[part] for part in PARTS]), (50, 1)))


def stock_client(port: int) -> None:
    """In the environment of the genuine client: one long call, then a hundred more; prints JSON."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy("127.0.0.1", port)
    seen = {"state": np.arange(14) / 10, "prompt": "wait"}
    print("ready", flush=True)
    spent = []
    for _ in range(101):
        began_s = time.perf_counter()
        answer = policy.infer(seen)
        spent.append(time.perf_counter() - began_s)
        assert np.allclose(answer["actions"], seen["state"]), answer
    print(json.dumps({"first_s": spent[0], "later_ms": 1e3 * statistics.median(spent[1:])}), flush=True)


class Every(threading.Thread):
    """Calls something again and again.

    Args:
        seconds: from one call to the next.
        call: what is called; what it raises is counted.
    """

    def __init__(self, seconds: float, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._seconds, self._call = seconds, call
        self.spent_ms: list[float] = []
        self.errors: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        due_s = time.perf_counter()
        while not self.over.is_set():
            began_s = time.perf_counter()
            try:
                self._call()
            except Exception as error:  # noqa: BLE001  counted, and shown
                self.errors.append(repr(error))
            self.spent_ms.append(1e3 * (time.perf_counter() - began_s))
            due_s += self._seconds
            time.sleep(max(due_s - time.perf_counter(), 0.0))

    def line(self) -> str:
        """Count, median, 99th percentile and worst."""
        at = np.quantile(self.spent_ms, [0.5, 0.99, 1.0])
        counts = f"{len(self.spent_ms):5d} calls, {len(self.errors)} errors"
        return f"{counts}, p50 {at[0]:.2f}, p99 {at[1]:.2f}, max {at[2]:.2f} ms"


def health(port: int) -> Callable[[], None]:
    """One health check over a connection of its own."""

    def call() -> None:
        plain = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        plain.request("GET", "/healthz")
        assert plain.getresponse().status == 200
        plain.close()

    return call


def robot(port: int) -> Callable[[], None]:
    """One call of an ARK robot, over a connection of its own."""
    from wires import ark_call

    form = urlencode({"state": json.dumps([0.1] * 14), "task": "wait"}).encode()
    body = form, {"Content-Type": "application/x-www-form-urlencoded"}
    return ark_call(port, iter(lambda: body, None), fresh=True)


def greeting(wire: str) -> Callable[[int], Callable[[], None]]:
    """Connect, learn what the policy is, and go."""

    def at(port: int) -> Callable[[], None]:
        from chunkwise import plugins

        make = plugins.load("policies", "remote")

        def call() -> None:
            remote = make(url=f"{wire}://127.0.0.1:{port}")
            assert remote.spec is not None
            remote.close()

        call()  # what is imported late is imported now
        return call

    return at


OTHERS = {
    "/healthz": (0.1, "openpi", health),
    "/healthz of an idle server": (0.1, "idle", health),
    "ARK /predict": (0.02, "ark", robot),
    "native, connect and HELLO": (1.0, "native", greeting("native")),
    "openpi, connect and metadata": (1.0, "openpi", greeting("openpi")),
}
"""How often, where, and what; each in a process of its own."""


def other(name: str, port: int) -> None:
    """Call until the input ends, and print how it went."""
    seconds, _, make = OTHERS[name]
    thread = Every(seconds, make(port))
    thread.start()
    sys.stdin.read()
    thread.over.set()
    thread.join()
    print(f"  {name:30} {thread.line()}")
    for error in sorted(set(thread.errors))[:3]:
        print(f"    {error}")


def measure(seconds: float, spin: bool) -> None:
    """Run and print."""
    from wires import port, serve, until_open

    ports = {wire: port() for wire in ("openpi", "ark", "native", "idle")}
    with ExitStack() as stack:
        policy = (f"{__file__}:SlowFirst", "--policy.seconds", str(seconds), "--policy.spin", str(spin).lower())
        listens = (
            f"openpi=ws://127.0.0.1:{ports['openpi']}",
            f"native=tcp://127.0.0.1:{ports['native']}",
            f"ark=http://127.0.0.1:{ports['ark']}?start_patience_s=0",
        )
        words = [word for listen in listens for word in ("--listen", listen)]
        stack.enter_context(serve("--policy", *policy, *words, "--inference-timeout-s", "120"))
        idle = f"openpi=ws://127.0.0.1:{ports['idle']}"  # what the machine itself adds to a health check
        stack.enter_context(serve("--policy", f"{__file__}:SlowFirst", "--listen", idle))
        until_open(("127.0.0.1", ports["openpi"]))
        until_open(("127.0.0.1", ports["idle"]))
        client = subprocess.Popen(
            [str(VENV), __file__, "--client", str(ports["openpi"])],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        stack.callback(client.kill)
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
        time.sleep(0.5)  # its first observation is under way
        others = [
            subprocess.Popen(
                [sys.executable, __file__, "--other", name, "--client", str(ports[wire])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, (_, wire, _) in OTHERS.items()
        ]
        told = client.stdout.readline()
        lines = [process.communicate()[0] for process in others]
        print(f"first inference of {seconds:g} s, {'computing in pure Python' if spin else 'asleep'}")
        if not told:
            raise SystemExit("  the stock client did not survive it")
        found = json.loads(told)
        print(f"  stock openpi client: its first answer after {found['first_s']:.2f} s, over the same connection")
        print(
            f"  another hundred with a median of {found['later_ms']:.2f} ms; meanwhile, in the first {seconds:g} s:"
        )
        print("".join(lines), end="")


def main() -> None:
    """Run, or be the client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--spin", action="store_true")
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--other", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.other:
        other(asked.other, asked.client)
    elif asked.client:
        stock_client(asked.client)
    else:
        if not VENV.exists():
            sys.exit(f"no {VENV}; make it with `make openpi-env`")
        measure(asked.seconds, asked.spin)


if __name__ == "__main__":
    main()
