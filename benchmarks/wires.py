"""What each wire costs, beside a bare socket and beside what the pictures cost to decode.

    python benchmarks/wires.py           # prints, and writes docs/benchmarks/wires.md

Servers run in processes of their own with a policy that costs nothing, so a round trip is the wire, both ends, and the
server's way to the policy and back.  Every figure is the median of several rounds, and the rounds of all contenders
take turns, so that what disturbs the machine disturbs them all.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from _stock_wires import measure_stock
from _stock_wires import rows as stock_rows

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "wires.md"
SERVED = ROOT / "benchmarks" / "served.py"
RECIPE = ROOT / "benchmarks" / "ark_fastapi_server.py"
IMAGES = ("high", "left", "right")
ANSWER_BYTES = 50 * 14 * 8
REQUEST_BYTES = 3 * 224 * 224 * 3 + 14 * 8
OPENARM_CAMERAS = (
    "camera_wrist_right",
    "camera_wrist_left",
    "camera_head_left",
    "camera_head_right",
    "camera_ceiling",
)
ARK_CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def picture(seed: int, height: int = 224, width: int = 224) -> np.ndarray:
    """Something that compresses like a photograph: smooth noise and an edge."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (height // 16 + 2, width // 16 + 2, 3))
    rows = np.linspace(0, coarse.shape[0] - 1.001, height)
    columns = np.linspace(0, coarse.shape[1] - 1.001, width)
    i, j = rows.astype(int), columns.astype(int)
    u, v = (rows - i)[:, None, None], (columns - j)[None, :, None]
    smooth = (coarse[i][:, j] * (1 - v) + coarse[i][:, j + 1] * v) * (1 - u) + (
        coarse[i + 1][:, j] * (1 - v) + coarse[i + 1][:, j + 1] * v
    ) * u
    smooth[:, width // 2 :] *= 0.6
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


class Rounds:
    """Durations in us of every contender, by round."""

    def __init__(self) -> None:
        self.medians: dict[str, list[float]] = {}
        self.worst: dict[str, list[float]] = {}

    def add(self, name: str, spent_s: list[float]) -> None:
        """One round."""
        self.medians.setdefault(name, []).append(1e6 * statistics.median(spent_s))
        self.worst.setdefault(name, []).append(1e6 * float(np.quantile(spent_s, 0.99)))

    def median(self, name: str) -> float:
        """Of the rounds' medians."""
        return statistics.median(self.medians[name])

    def p99(self, name: str) -> float:
        """The median of the rounds' 99th percentiles."""
        return statistics.median(self.worst[name])

    def ratio(self, name: str, floor: str) -> float:
        """The median of the ratios within each round."""
        return statistics.median(a / b for a, b in zip(self.medians[name], self.medians[floor], strict=True))


def timed(call: Callable[[], Any], count: int, pause_s: float = 0.0, warm: int = 20) -> list[float]:
    """Seconds of each call."""
    spent = []
    due = time.perf_counter()
    for index in range(count + warm):
        if pause_s:
            due = max(due + pause_s, time.perf_counter() - pause_s)
            time.sleep(max(due - time.perf_counter(), 0.0))
        start = time.perf_counter()
        call()
        if index >= warm:
            spent.append(time.perf_counter() - start)
    return spent


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs while the context lasts."""
    made = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield made
    finally:
        made.send_signal(signal.SIGTERM)
        try:
            made.wait(15)
        except subprocess.TimeoutExpired:
            made.kill()


def port() -> int:
    """One that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_open(address: Any, seconds: float = 30.0) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + seconds
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    while time.monotonic() < until:
        with socket.socket(family) as probe, suppress(OSError):
            probe.connect(address)
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on {address}")


def serve(*words: str) -> Any:
    """A server of ours."""
    return process(sys.executable, "-m", "chunkwise", "serve", *words)


def echo(listening_port: int) -> None:
    """The floor's server: a length, so many bytes, and an answer of fixed length."""
    with socket.create_server(("127.0.0.1", listening_port)) as listening:
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = memoryview(bytearray(REQUEST_BYTES))
            answer = struct.pack("<I", ANSWER_BYTES) + bytes(ANSWER_BYTES)
            while head := connection.recv(4, socket.MSG_WAITALL):
                read_into(connection, buffer[: struct.unpack("<I", head)[0]])
                connection.sendall(answer)


def read_into(connection: socket.socket, view: memoryview) -> None:
    """Fill the view."""
    while view:
        got = connection.recv_into(view)
        if not got:
            raise ConnectionError("closed")
        view = view[got:]


def floor_call(listening_port: int) -> Callable[[], None]:
    """One round trip of the floor: the same bytes of pictures and state, and the same answer."""
    connection = socket.create_connection(("127.0.0.1", listening_port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = struct.pack("<I", REQUEST_BYTES) + bytes(np.random.default_rng(0).bytes(REQUEST_BYTES))
    answer = memoryview(bytearray(4 + ANSWER_BYTES))

    def call() -> None:
        connection.sendall(request)
        read_into(connection, answer)

    return call


def native_call(url: str) -> Callable[[], None]:
    """One inference over the native wire."""
    remote = plugins.load("policies", "remote")(url=url)
    frame = Frame({name: picture(index) for index, name in enumerate(IMAGES)}, {"arms": np.zeros(14)})

    def call() -> None:
        remote.infer(frame, ChunkRequest(0))

    return call


def measure_native(rounds: int, count: int, results: Rounds) -> None:
    """The floor and the native wire over its three ways."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path, tcp, bare = f"{folder}/n.sock", port(), port()
        stack.enter_context(process(sys.executable, __file__, "--echo", str(bare)))
        listens = ("--listen", f"native=unix:{path}", "--listen", f"native=tcp://127.0.0.1:{tcp}")
        stack.enter_context(serve("--policy", f"{SERVED}:Fourteen", *listens))
        until_open(path)
        until_open(("127.0.0.1", bare))
        contenders = {
            "floor": floor_call(bare),
            "native, shared memory": native_call(f"native+unix://{path}"),
            "native, UNIX socket": native_call(f"native+unix://{path}?shared_memory=false"),
            "native, TCP": native_call(f"native://127.0.0.1:{tcp}?shared_memory=false"),
        }
        for _ in range(rounds):
            for name, call in contenders.items():
                results.add(name, timed(call, count))


def openarm_request(folder: Path) -> bytes:
    """A request as the bridge writes it, and its file of 8.6 MB."""
    import pyarrow as pa

    height, width = 600, 960
    columns = {"position": pa.array([[0.0] * 16], pa.list_(pa.float32()))}
    metadata: dict[str, Any] = {"timestamp": 0, "episode_number": 0}
    for index, name in enumerate(OPENARM_CAMERAS):
        flat = picture(index, height, width).reshape(-1)
        columns[name] = pa.ListArray.from_arrays(pa.array([0, flat.size], pa.int32()), pa.array(flat))
        metadata |= {f"{name}.encoding": "rgb8", f"{name}.height": height, f"{name}.width": width}
    columns["id"] = pa.array([1], pa.int64())
    batch = pa.record_batch(columns)
    path = folder / "observation.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return json.dumps({"name": "inference", "data_path": str(path), "reset": False, "metadata": metadata}).encode()


def bare_openarm(path: str) -> None:
    """The same requests answered by the shortest program that does: read the line, map the file, answer rows."""
    import pyarrow as pa

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        while True:
            connection, _ = listening.accept()
            lines = connection.makefile("rw", encoding="utf-8")
            while line := lines.readline():
                with pa.memory_map(json.loads(line)["data_path"]) as source:
                    batch = pa.ipc.open_file(source).get_batch(0)
                    position = batch.column("position")[-1].values.to_numpy()
                    seen = [batch.column(name)[-1].values.to_numpy() for name in OPENARM_CAMERAS]
                assert len(seen) == len(OPENARM_CAMERAS)
                rows = np.tile(position.astype(float), (16, 1)).tolist()
                lines.write(json.dumps({"interval": 20_000_000, "cutoff_hz": 15.0, "positions": rows}) + "\n")
                lines.flush()


def measure_openarm(rounds: int, count: int, results: Rounds) -> None:
    """Requests at 30 Hz, each answered with a chunk of its own; the policy itself costs nothing."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="chunkwise-bench-", dir="/dev/shm"))
        stack.callback(shutil.rmtree, folder)
        path = folder / "o.sock"
        cameras = ",".join(OPENARM_CAMERAS)
        words = ("--policy", f"{SERVED}:Arms", "--policy.cameras", cameras, "--policy.control-hz", "50")
        stack.enter_context(
            serve(*words, "--strategy", "switch", "--listen", f"openarm=unix:{path}?stale_ms=0&patience_ms=200")
        )
        bare = str(folder / "bare.sock")
        stack.enter_context(process(sys.executable, __file__, "--openarm", bare))
        request = openarm_request(folder).decode()
        chunks = empty = 0

        def caller(path: str) -> Callable[[], None]:
            until_open(path)
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(path)
            lines = connection.makefile("rw", encoding="utf-8")

            def call() -> None:
                nonlocal chunks, empty
                lines.write(request + "\n")
                lines.flush()
                if json.loads(lines.readline())["positions"]:
                    chunks += 1
                else:
                    empty += 1

            return call

        calls = {"openarm, bare": caller(bare), "openarm, 8.6 MB": caller(str(path))}
        for _ in range(rounds):
            for name, call in calls.items():
                results.add(name, timed(call, count, pause_s=1 / 30))
        if empty > chunks // 10 + 20:
            raise RuntimeError(f"{empty} of {chunks + empty} requests got no chunk: nothing was measured")


def jpegs() -> dict[str, bytes]:
    """Three pictures as the ARK client sends them."""
    import simplejpeg

    return {
        name: simplejpeg.encode_jpeg(picture(index), quality=100, colorsubsampling="420")
        for index, name in enumerate(ARK_CAMERAS)
    }


def ark_body(pictures: dict[str, bytes], task: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body as the requests library writes it."""
    import requests

    files = {name: (f"{name}.jpg", data, "image/jpeg") for name, data in pictures.items()}
    state = json.dumps([0.1] * 14)
    made = requests.Request("POST", "http://x/predict", data={"state": state, "task": task}, files=files).prepare()
    assert isinstance(made.body, bytes)
    return made.body, {"Content-Type": made.headers["Content-Type"]}


def ark_call(
    listening_port: int, bodies: Iterator[tuple[bytes, dict[str, str]]], *, fresh: bool
) -> Callable[[], None]:
    """One call; with `fresh`, over a TCP connection of its own, as the sample client does."""
    connection = http.client.HTTPConnection("127.0.0.1", listening_port)

    def call() -> None:
        nonlocal connection
        if fresh:
            connection.close()
            connection = http.client.HTTPConnection("127.0.0.1", listening_port)
        if connection.sock is None:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body, headers = next(bodies)
        try:
            connection.request("POST", "/predict", body, headers)
            response = connection.getresponse()
        except (ConnectionError, http.client.HTTPException):  # it was idle for too long, in the others' rounds
            connection.close()
            connection.request("POST", "/predict", body, headers)
            response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200 or len(answer["action"]) != 14:
            raise RuntimeError(f"{response.status}: {answer}")

    return call


def measure_ark(rounds: int, count: int, results: Rounds) -> bool:
    """Ours and the published recipe; whether the recipe's server could be run."""
    import simplejpeg

    pictures = jpegs()
    ours, recipe, bare = port(), port(), port()

    def same() -> Iterator[tuple[bytes, dict[str, str]]]:
        made = ark_body(pictures, "task")
        while True:
            yield made

    def other() -> Iterator[tuple[bytes, dict[str, str]]]:
        made = [ark_body(pictures, f"task{number}") for number in range(2)]
        while True:
            yield from made

    with ExitStack() as stack:
        words = ("--policy", f"{SERVED}:Arms", "--policy.arm", "6", "--policy.cameras", ",".join(ARK_CAMERAS))
        strategy = ("--strategy", "switch", "--strategy.execution-horizon", "40")
        stack.enter_context(serve(*words, *strategy, "--listen", f"ark=http://127.0.0.1:{ours}"))
        stack.enter_context(process(sys.executable, str(RECIPE), "--port", str(recipe)))
        stack.enter_context(process(sys.executable, str(RECIPE), "--port", str(bare), "--bare"))
        until_open(("127.0.0.1", ours))
        until_open(("127.0.0.1", bare))
        there = True
        try:
            until_open(("127.0.0.1", recipe), 15)
        except TimeoutError:
            there = False
        contenders: dict[str, tuple[Callable[[], Any], float]] = {
            "decode floor": (lambda: [simplejpeg.decode_jpeg(data) for data in pictures.values()], 0.0),
            "bare uvicorn": (ark_call(bare, same(), fresh=False), 0.0),
            "ark, planning": (ark_call(ours, other(), fresh=False), 0.0),
            "ark, not planning": (ark_call(ours, same(), fresh=False), 0.0),
            "ark, 50 Hz": (ark_call(ours, same(), fresh=True), 0.02),
        }
        if there:
            contenders["recipe"] = (ark_call(recipe, same(), fresh=False), 0.0)
            contenders["recipe, 50 Hz"] = (ark_call(recipe, same(), fresh=True), 0.02)
        urllib.request.urlopen(f"http://127.0.0.1:{ours}/readyz").read()
        for _ in range(rounds):
            for name, (call, pause_s) in contenders.items():
                results.add(name, timed(call, count, pause_s))
    return there


def measure_busy(rounds: int, results: Rounds) -> None:
    """Handshakes and health while an inference of 2 s runs; in ms they would be, here in us like the rest."""
    for kind, spin in (("asleep", "false"), ("pure Python", "true")):
        with ExitStack() as stack:
            path, health = f"{stack.enter_context(tempfile.TemporaryDirectory())}/b.sock", port()
            words = ("--policy", f"{SERVED}:Busy", "--policy.spin", spin)
            stack.enter_context(
                serve(*words, "--listen", f"native=unix:{path}", "--listen", f"health=http://127.0.0.1:{health}")
            )
            until_open(path)
            until_open(("127.0.0.1", health))
            asking = plugins.load("policies", "remote")(url=f"native+unix://{path}", timeout_s=30.0)
            frame = Frame({name: picture(0) for name in IMAGES}, {"arms": np.zeros(14)})

            def shake(path: str = path) -> None:
                plugins.load("policies", "remote")(url=f"native+unix://{path}").close()

            def healthy(health: int = health) -> None:
                urllib.request.urlopen(f"http://127.0.0.1:{health}/healthz").read()

            for _ in range(rounds):
                running = threading.Thread(target=asking.infer, args=(frame, ChunkRequest(0)))
                running.start()
                time.sleep(0.2)
                results.add(f"handshake, {kind}", timed(shake, 15, warm=0))
                results.add(f"healthz, {kind}", timed(healthy, 15, warm=0))
                if not running.is_alive():
                    raise RuntimeError("the inference was over before the measurement")
                running.join()


def page(results: Rounds, rounds: int, count: int, recipe: bool) -> str:
    """The page."""

    def line(name: str, floor: str | None, goal: str, what: str = "") -> str:
        ratio = "" if floor is None else f"{results.ratio(name, floor):.2f}"
        spread = results.medians[name]
        return (
            f"| {what or name} | {results.median(name):.0f} ({min(spread):.0f} to {max(spread):.0f}) "
            f"| {results.p99(name):.0f} | {ratio} | {goal} |"
        )

    rows = [
        line("floor", None, "", "bare length-prefixed TCP, no codec"),
        line("native, shared memory", "floor", "ratio <= 3"),
        line("native, UNIX socket", "floor", "ratio <= 5"),
        line("native, TCP", "floor", ""),
    ]
    arks = [
        line("decode floor", None, "", "decoding the three JPEGs, nothing else"),
        line(
            "ark, planning",
            "decode floor",
            "ratio <= 1.5",
            "planning call: decoded, asked, answered from its chunk",
        ),
        line("bare uvicorn", "decode floor", "", "uvicorn alone, which reads the body and answers 14 zeros"),
        line("ark, not planning", "decode floor", "<= 300 us", "call that needs no plan, kept connection"),
        line("ark, 50 Hz", "decode floor", "", "at 50 Hz, a new TCP connection each"),
    ]
    if recipe:
        arks += [
            line("recipe", "decode floor", "", "FastAPI to the published recipe, kept connection"),
            line("recipe, 50 Hz", "decode floor", "", "FastAPI, at 50 Hz, a new TCP connection each"),
        ]
    head = "| what | p50, us | p99, us | to the floor | goal |\n|---|---|---|---|---|\n"
    busy = [
        line(
            "handshake, asleep",
            None,
            "worst < 50 ms",
            "a second client's handshake; the policy waits, as for a GPU",
        ),
        line("healthz, asleep", None, "worst < 20 ms", "`/healthz`; the same"),
        line("handshake, pure Python", None, "", "handshake; the policy computes in pure Python"),
        line("healthz, pure Python", None, "", "`/healthz`; the same"),
    ]
    openarms = [
        line("openarm, bare", None, "", "twenty lines that map the file and answer constant rows; no checks"),
        line("openarm, 8.6 MB", "openarm, bare", "<= 1000 us", "ours: checked, scheduled, gated"),
    ]
    native, openarm, ark, during = ("\n".join(part) for part in (rows, openarms, arks, busy))
    return f"""# What the wires cost

`make bench-wires`. Round trips on loopback between two processes, with a policy that costs nothing: client's encoding,
transport, decoding, the server's queue and its thread, and the way back. Medians of {rounds} rounds of {count} calls
(lowest and highest round), the rounds of all contenders in turn; p99 is the median of the rounds'. Two cores, shared
with whatever else runs: the spread of the floor is the machine's noise. Python {platform.python_version()}, numpy
{np.__version__}, {platform.machine()}.

## Native: 3 x 224x224x3 and 14 numbers in, 50 x 14 out

{head}{native}

## OpenArm: 5 cameras of 600x960 in a file of 8.6 MB, 30 requests per second, each answered with a chunk

{head}{openarm}

Beyond the policy, which costs nothing. Between two requests the machine sleeps for 33 ms, and wakes slowly: reading the
same file takes ours 64 us back to back and 550 us after 20 ms of sleep. The file stands in `/dev/shm` already; it is mapped, and its images are not copied.

## ARK: three JPEGs of 224x224 (quality 100, 4:2:0), {sum(map(len, jpegs().values())) // 1000} kB, one action back

{head}{ark}

A call that plans is made so by another task in each call: it waits for a chunk of its own. In service a call that plans
is answered at once too, from the plan that runs, and its images are decoded beside it.

## The stock clients' wires: 3 x 224x224x3 and 14 numbers in, 50 x 14 out

{stock_rows(results)}
The stock pairs are the genuine openpi client and a server to openpi's recipe; pyzmq and msgpack at both ends, as Isaac-GR00T
publishes it; LeRobot's own classes and stubs, without its server's sleep. Their servers check, limit and queue nothing, and
infer where they read: what ours costs beyond the GR00T pair is checking, the queue before the policy's thread and the way
there and back.

## While an inference of 2 s runs

{head}{during}
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", choices=("native", "openarm", "ark", "busy", "stock"))
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--openarm", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.echo:
        echo(asked.echo)
    if asked.openarm:
        bare_openarm(asked.openarm)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results, recipe = Rounds(), False
    if asked.only in (None, "native"):
        measure_native(asked.rounds, asked.count, results)
    if asked.only in (None, "openarm"):
        measure_openarm(asked.rounds, asked.count // 3, results)
    if asked.only in (None, "ark"):
        recipe = measure_ark(asked.rounds, asked.count, results)
    if asked.only in (None, "busy"):
        measure_busy(asked.rounds, results)
    if asked.only in (None, "stock"):
        measure_stock(asked.rounds, asked.count // 2, results)
    for name in results.medians:
        print(f"{name:32} p50 {results.median(name):8.0f} us   p99 {results.p99(name):8.0f} us")
    if asked.only is None:
        PAGE.write_text(page(results, asked.rounds, asked.count, recipe), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
