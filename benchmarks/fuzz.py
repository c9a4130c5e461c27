"""Garbage for every decoder: coverage-guided bytes (atheris) over the golden requests of every wire, both halves.

    python benchmarks/fuzz.py                      # a million inputs, prints, and writes docs/benchmarks/fuzz.md
    python benchmarks/fuzz.py --runs 20000 --only native-server

Every decoder may answer, wait for more, or refuse with a `WireError` (files: a `RecordingError`).  Anything else that it
raises, more than a second for one input, or more memory than the limit ends the target and is shown.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "wires" / "golden"
PAGE = ROOT / "docs" / "benchmarks" / "fuzz.md"
RSS_LIMIT_MB, INPUT_S = 1024, 1
Target = Callable[[bytes], None]


def served(wire: Any, spec: Any) -> Target:
    """The server half of a stream or message wire: opened, fed, its calls done and answered."""
    from chunkwise.wires import Offer, Readiness, WireError

    offer = Offer(Readiness.READY, policy=spec)

    def target(data: bytes) -> None:
        half = wire.server()
        half.opened(offer, 0.0)
        with suppress(WireError):
            work(half, half.receive(data, 0.0), offer)

    return target


def work(half: Any, calls: Any, offer: Any) -> None:
    """Do what calls say, as far as a decoder is concerned, and answer them."""
    from chunkwise.wires import (
        Fetch,
        Hello,
        Infer,
        Observe,
        Park,
        Poke,
        Problem,
        Reply,
        Status,
        Trouble,
        WireError,
    )

    for call in calls:
        if isinstance(call, (Reply, Fetch, Park, Poke)):
            continue
        if isinstance(call, (Hello, Status)):
            half.answer(call, offer, 0.0)
            continue
        if isinstance(call, (Infer, Observe)) and call.complete is not None:
            with suppress(WireError):
                call.complete()
        if hasattr(call, "id"):
            half.answer(call, Problem(Trouble.POLICY_FAILED, "no"), 0.0)


def heard(wire: Any) -> Target:
    """The client half of a stream or message wire, after its greeting."""
    from chunkwise.wires import WireError

    def target(data: bytes) -> None:
        half = wire.client()
        half.opening()
        with suppress(WireError):
            half.receive(data, 0.0)

    return target


def framed_call(wire: Any, spec: Any) -> Target:
    """The server half of the lerobot wire: the first byte says which method, and whether the frames around are whole."""
    from chunkwise.wires import HttpRequest, Offer, Readiness, WireError
    from chunkwise.wires._grpc import request
    from chunkwise.wires.lerobot import SERVICE
    from chunkwise.wires.lerobot.protobuf import payload, sliced

    offer = Offer(Readiness.READY, policy=spec)
    methods = ("SendObservations", "SendPolicyInstructions", "GetActions", "Ready")

    def target(data: bytes) -> None:
        first, rest = (data[0], data[1:]) if data else (0, b"")
        method = methods[first % 4]
        messages = sliced(rest) if method == "SendObservations" else [payload(rest)]
        made = request(SERVICE + method, messages)
        body = made.body if first & 4 else rest
        half = wire.server()
        half.opened(offer, 0.0)
        with suppress(WireError):
            work(half, half.receive(HttpRequest("POST", made.path, {}, {}, body, "ipv4:1.2.3.4:5"), 0.0), offer)

    return target


def framed_answer(wire: Any) -> Target:
    """The client half of the lerobot wire: the answer to each of its calls."""
    import numpy as np

    from chunkwise.contract import ChunkRequest, Frame
    from chunkwise.wires import HttpResponse, WireError
    from chunkwise.wires._grpc import framed
    from chunkwise.wires.lerobot.protobuf import payload

    def target(data: bytes) -> None:
        half = wire.client()
        half.opening()
        with suppress(WireError):
            half.receive(HttpResponse(200, data), 0.0)
        half = wire.client()
        half.ask(1, Frame({}, {"arm": np.zeros(3)}), ChunkRequest(0), None)
        for body in (framed([b""]), framed([b""]), framed([payload(data)])):
            with suppress(WireError):
                half.receive(HttpResponse(200, body), 0.0)

    return target


def upgraded(wire: Any, spec: Any) -> Target:
    """The server half of the openpi wire, after the request that begins it."""
    from chunkwise.wires import HttpRequest, Offer, Readiness, WireError

    offer = Offer(Readiness.READY, policy=spec)
    headers = {"upgrade": "websocket", "connection": "upgrade"}

    def target(data: bytes) -> None:
        half = wire.server()
        half.opened(offer, 0.0)
        work(half, half.receive(HttpRequest("GET", "/", headers=headers), 0.0), offer)
        with suppress(WireError):
            work(half, half.receive(data, 0.0), offer)

    return target


def acted(wire: Any) -> Target:
    """The client half of the openpi wire: what the server has, and what it answers."""
    import numpy as np

    from chunkwise.contract import ChunkRequest, Frame
    from chunkwise.wires import WireError

    def target(data: bytes) -> None:
        half = wire.client()
        half.opening()
        with suppress(WireError):
            half.receive(data, 0.0)
        half = wire.client()
        half.opening()
        half.receive(b"\x80", 0.0)  # nothing is said of the policy
        half.ask(1, Frame({}, {"state": np.zeros(3)}), ChunkRequest(0), None)
        with suppress(WireError):
            half.receive(data, 0.0)

    return target


def policy_spec() -> Any:
    """Names that the golden requests use, and others."""
    from chunkwise.contract import PolicyOutputSpec, PolicySpec

    return PolicySpec("fuzzed", [], [], outputs=[PolicyOutputSpec("arm", "joint_position", 7)], action_horizon=10)


def requested(wire: Any) -> Target:
    """The server half of the ark wire: a body behind the head of its golden request."""
    from chunkwise.wires import HttpRequest, Offer, Readiness

    head = (GOLDEN / "ark" / "three.http").read_bytes().partition(b"\r\n\r\n")[0].decode()
    kind = re.search(r"(?i)content-type: (.*)", head)
    headers = {"content-type": kind[1].strip() if kind else ""}

    def target(data: bytes) -> None:
        half = wire.server()
        sent = headers | {"content-length": str(len(data))}
        work(
            half,
            half.receive(HttpRequest("POST", "/predict", {}, sent, data, "1.2.3.4"), 0.0),
            Offer(Readiness.READY),
        )

    return target


def responded(wire: Any) -> Target:
    """The client half of the ark wire."""
    import numpy as np

    from chunkwise.contract import ChunkRequest, Frame
    from chunkwise.wires import HttpResponse, WireError

    names = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    images = {name: np.zeros((8, 8, 3), np.uint8) for name in names}
    state = {
        "left_arm": np.zeros(6),
        "left_gripper": np.zeros(1),
        "right_arm": np.zeros(6),
        "right_gripper": np.zeros(1),
    }

    def target(data: bytes) -> None:
        half = wire.client()
        half.ask(1, Frame(images, state, {"prompt": "x"}), ChunkRequest(0), None)
        with suppress(WireError):
            half.receive(HttpResponse(200, data), 0.0)

    return target


def file_named(wire: Any) -> Target:
    """The Arrow file of an OpenArm request."""
    import json

    from chunkwise.wires import Fetch, Offer, Readiness, WireError

    asked = json.loads((GOLDEN / "openarm" / "bimanual_first.json").read_text())
    line = json.dumps(asked).encode() + b"\n"

    def target(data: bytes) -> None:
        half = wire.server()
        offer = Offer(Readiness.READY)
        half.opened(offer, 0.0)
        for call in half.receive(line, 0.0):
            if isinstance(call, Fetch) and data:
                with suppress(WireError):
                    work(half, half.fetched(call, memoryview(data), 0.0), offer)

    return target


def recorded() -> Target:
    """The recording's reader."""
    from chunkwise.recording import EpisodeReader, RecordingError

    path = Path(tempfile.mkdtemp(dir="/dev/shm")) / "fuzzed.mcap"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(RecordingError):
            list(EpisodeReader(path))

    return target


def unpacked() -> Target:
    """Packed trees."""
    from chunkwise.contract.packing import PackingError, Unpacker

    def target(data: bytes) -> None:
        with suppress(PackingError):
            Unpacker()(memoryview(data))

    return target


def processed(name: str) -> Target:
    """What stands beside a checkpoint's weights: tensors, statistics, processors."""
    from chunkwise.processing import lerobot, safetensors, statistics
    from chunkwise.processing.errors import ProcessingError

    readers: dict[str, Callable[[bytes], Any]] = {
        "safetensors": safetensors.read,
        "statistics-pickle": statistics.read_igris,
        "statistics-json": lambda data: statistics.read_openpi(data.decode("utf-8", "replace")),
        "processors": lambda data: lerobot.read(data.decode("utf-8", "replace"), "{}", {}),
    }
    read = readers[name]

    def target(data: bytes) -> None:
        with suppress(ProcessingError):
            read(data)

    return target


def begun(name: str) -> Path:
    """A folder with one file that the reader takes."""
    import json
    import pickle

    import numpy as np

    from chunkwise.processing import safetensors

    three = np.arange(3, dtype=np.float32)
    numbers = {"mean": three, "std": three + 1}
    step = {"registry_name": "rename_observations_processor", "config": {"rename_map": {"a": "b"}}}
    content = {
        "safetensors": safetensors.write({"action.mean": three, "action.std": three + 1}),
        "statistics-pickle": pickle.dumps(dict.fromkeys(("state", "action", "observation.state"), numbers)),
        "statistics-json": json.dumps({"norm_stats": {"state": {"mean": [0.0], "std": [1.0]}}}).encode(),
        "processors": json.dumps({"name": "policy_preprocessor", "steps": [step]}).encode(),
    }
    folder = Path(tempfile.mkdtemp(prefix="chunkwise-fuzz-"))
    (folder / "seed").write_bytes(content[name])
    return folder


def make(name: str) -> tuple[Target, list[Path]]:
    """A target, and the folders with what it begins from."""
    from chunkwise import plugins

    wire, _, side = name.partition("-")
    if name == "recording":
        return recorded(), []
    if name == "packing":
        return unpacked(), []
    if name in PROCESSED:
        return processed(name), [begun(name)]
    options = {"lerobot": {}, "openpi": {}, "gr00t": {}}.get(wire, {})
    made = plugins.load("wires", wire)(**options)
    if name == "openarm-file":
        return file_named(made), [GOLDEN / wire]
    if wire == "ark":
        return (requested(made) if side == "server" else responded(made)), [GOLDEN / wire]
    if wire == "lerobot":
        folder = Path(tempfile.mkdtemp(prefix="chunkwise-fuzz-"))
        for path in (GOLDEN / wire).glob("*.bin"):
            for first in (b"\4", b"\5", b""):
                (folder / f"{path.stem}{len(first)}{first.hex()}").write_bytes(first + path.read_bytes())
        return (framed_call(made, policy_spec()) if side == "server" else framed_answer(made)), [folder]
    if wire == "openpi":
        return (upgraded(made, policy_spec()) if side == "server" else acted(made)), [GOLDEN / wire]
    return (served(made, policy_spec()) if side == "server" else heard(made)), [GOLDEN / wire]


PROCESSED = ("safetensors", "statistics-pickle", "statistics-json", "processors")
TARGETS = {
    "native-server": 150_000,
    "native-client": 100_000,
    "openarm-server": 100_000,
    "openarm-client": 60_000,
    "openarm-file": 60_000,
    "ark-server": 100_000,
    "ark-client": 40_000,
    "openpi-server": 100_000,
    "openpi-client": 60_000,
    "lerobot-server": 60_000,
    "lerobot-client": 60_000,
    "gr00t-server": 100_000,
    "gr00t-client": 60_000,
    "packing": 50_000,
    "recording": 20_000,
    "safetensors": 50_000,
    "statistics-pickle": 50_000,
    "statistics-json": 20_000,
    "processors": 20_000,
}


def fuzz(name: str, runs: int) -> None:
    """Run one target in this process; atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["chunkwise"]):
        target, corpus = make(name)
    folders = [str(folder) for folder in corpus]
    found = tempfile.mkdtemp(prefix="chunkwise-fuzz-")
    flags = [
        f"-runs={runs}",
        "-seed=1",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-timeout={INPUT_S * 20}",
        "-max_len=65536",
    ]
    atheris.Setup([sys.argv[0], found, *folders, f"-artifact_prefix={found}/", *flags], target)
    atheris.Fuzz()


def main() -> None:
    """Run every target in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="inputs of each target; by default its share of a million")
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.target:
        fuzz(asked.target, asked.runs)
    rows, failed, total = [], [], 0
    for name, share in TARGETS.items():
        if asked.only not in (None, name):
            continue
        runs = asked.runs or share
        began = time.monotonic()
        words = [sys.executable, __file__, "--target", name, "--runs", str(runs)]
        made = subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=tempfile.gettempdir())
        took = time.monotonic() - began
        done = re.search(r"Done (\d+) runs", made.stderr)
        peaks = [int(text) for text in re.findall(r"rss: (\d+)Mb", made.stderr)]
        count = int(done[1]) if done else 0
        total += count
        ok = made.returncode == 0 and done is not None
        rows.append((name, count, took, peaks[0] if peaks else 0, max(peaks, default=0), ok))
        print(
            f"{name:16} {count:8d} inputs in {took:6.1f} s, peak {max(peaks, default=0)} MB, {'ok' if ok else 'FAILED'}"
        )
        if not ok:
            failed.append(name)
            print(made.stderr[-3000:])
    if asked.only is None and asked.runs is None:
        table = "\n".join(
            f"| {name} | {count} | {took:.0f} | {first} | {peak} | {'none' if ok else 'YES'} |"
            for name, count, took, first, peak, ok in rows
        )
        PAGE.write_text(
            f"""# Garbage

`make fuzz`. {total} inputs, coverage-guided (atheris) from the golden requests of every wire, over every decoder: both halves
of each wire, OpenArm's Arrow file, recordings, packed trees, and what stands beside a checkpoint's weights. A decoder may answer, wait for more or refuse with a typed
error. A failure is any other exception, a crash, one input that takes 20 s, or {RSS_LIMIT_MB} MB. Python
{platform.python_version()}.

| decoder | inputs | s | MB at first | MB at most | failures |
|---|---|---|---|---|---|
{table}
""",
            encoding="utf-8",
        )
        print(f"wrote {PAGE.relative_to(ROOT)}: {total} inputs")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
