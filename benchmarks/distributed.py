"""What it costs to run a policy's network elsewhere: one process against two, side by side.

    python benchmarks/distributed.py            # a minute; prints, and writes docs/benchmarks/distributed.md

The policy reads two cameras of 640x480 and a state of 6 numbers, and answers 100 rows. Its network takes next to no time
(means of its inputs), so that what is seen is the rest. Each figure is the median of several rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, ComponentSpec, Frame, PolicyFailed, RobotSpec
from chunkwise.engines import TensorSpec
from chunkwise.engines._exported import Exported
from chunkwise.heap import keep_freed_memory

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "distributed.md"
TINY = ROOT / "tests" / "policies" / "tiny_checkpoint.py"
CAMERAS, HEIGHT, WIDTH, DIM, ROWS = ("front", "wrist"), 480, 640, 6, 100
ROBOT = RobotSpec("robot", list(CAMERAS), [ComponentSpec("arm", "arm", DIM, ["joint_position"])])
FAR = 1e6
PICTURES = {f"observation.images.{camera}": (3, HEIGHT, WIDTH) for camera in CAMERAS}


def write(folder: Path) -> None:
    """A policy's directory; its network gives means of its inputs, and fails where the state is far off."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    small = {f"observation.images.{camera}": (3, 8, 8) for camera in CAMERAS}
    plugins.load("policies", f"{TINY}:write")(folder, {"observation.state": (DIM,), **small}, DIM, rows=ROWS)
    for name in ("config.json", "policy_preprocessor.json"):  # the same with large pictures
        path = folder / name
        path.write_text(path.read_text(encoding="utf-8").replace("8,\n", "HEIGHT,\n"), encoding="utf-8")
        tree = json.loads(path.read_text(encoding="utf-8").replace("HEIGHT", str(HEIGHT)))
        path.write_text(json.dumps(_large(tree)), encoding="utf-8")
    sizes = {"observation.state": (1, DIM), **{name: (1, *shape) for name, shape in PICTURES.items()}}
    nodes = [
        helper.make_node("ReduceMean", [name], [f"mean{i}"], axes=[2, 3], keepdims=0)
        for i, name in enumerate(PICTURES)
    ]
    nodes += [
        helper.make_node("Concat", [f"mean{i}" for i in range(len(PICTURES))], ["means"], axis=1),
        helper.make_node("ReduceMax", ["observation.state"], ["most"], keepdims=0),
        helper.make_node("Div", ["most", "far"], ["how_far"]),
        helper.make_node("Cast", ["how_far"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zero", "whole"], ["nothing"]),  # there is one, at 0
        helper.make_node("Add", ["observation.state", "nothing"], ["state"]),
        helper.make_node("Add", ["means", "state"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "one"], ["first"]),
        helper.make_node("Expand", ["first", "shape"], ["action"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, (1, ROWS, DIM))],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
            numpy_helper.from_array(np.array(FAR, np.float32), "far"),
            numpy_helper.from_array(np.array([1, ROWS, DIM], np.int64), "shape"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    Exported(
        folder,
        "onnx",
        "model.onnx",
        "act",
        {name: TensorSpec(size, "float32") for name, size in sizes.items()},
        {"action": TensorSpec((1, ROWS, DIM), "float32")},
    ).write()


def _large(tree: Any) -> Any:
    """The same JSON with pictures of the cameras' size."""
    if isinstance(tree, dict):
        if tree.get("type") == "VISUAL":
            return {**tree, "shape": [3, HEIGHT, WIDTH]}
        return {key: _large(value) for key, value in tree.items()}
    return [_large(item) for item in tree] if isinstance(tree, list) else tree


def unread(stream: Any) -> None:
    """Take what is still said, so that who says it never waits."""
    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()


@contextmanager
def engine(folder: Path, listen: str) -> Iterator[str]:
    """``chunkwise engine`` in a process of its own; where it listens."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "chunkwise",
            "engine",
            "--policy",
            str(folder),
            "--log",
            "json",
            "--listen",
            listen,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        where = ""
        assert process.stderr is not None
        for line in process.stderr:
            told = json.loads(line)
            if told["event"] == "listening":
                where = told["address"]
            if told["event"] == "ready":
                break
        unread(process.stderr)
        if listen.startswith("native=unix:"):
            yield f"native+unix://{listen.partition('unix:')[2]}"
        else:
            yield f"native://127.0.0.1:{where.rpartition(':')[2].partition('?')[0]}"
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def topics(folder: Path) -> Iterator[str]:
    """``chunkwise engine --ros2`` in a process of its own; the address of its topics."""
    url = f"ros2://?domain={1 + os.getpid() % 200}&loopback=true"
    process = subprocess.Popen(
        [sys.executable, "-m", "chunkwise", "engine", "--policy", str(folder), "--log", "json", f"--ros2={url}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["event"].startswith("Waiting for preprocessed batches"):
                break
        unread(process.stderr)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def frame(seed: int) -> Frame:
    """Pictures that do not compress."""
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for camera in CAMERAS}
    return Frame(images, {"arm": rng.normal(size=DIM)})


def timed(call: Callable[[int], Any], calls: int) -> float:
    """Milliseconds of a call, median."""
    taken = []
    for index in range(calls):
        began = time.perf_counter()
        call(index)
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


def failed(policy: Any, calls: int) -> list[float]:
    """Milliseconds from a request to the typed error that answers it, of each call."""
    logging.getLogger("chunkwise").setLevel(logging.ERROR)  # that the state is far off is what is wanted
    asked, taken = frame(0), []
    asked.state["arm"] = np.full(DIM, 1e9)
    for index in range(calls):
        began = time.perf_counter()
        try:
            policy.infer(asked, ChunkRequest(index))
        except PolicyFailed as error:
            taken.append(1e3 * (time.perf_counter() - began))
            assert "InvalidArgument" in str(error), error
    assert len(taken) == calls, "it did not fail"
    return taken


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=60, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=PAGE)
    parsed = parser.parse_args()
    keep_freed_memory()  # as `chunkwise run` does
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy"
        write(path)
        with (
            engine(path, "native=tcp://127.0.0.1:0") as tcp,
            engine(path, f"native=unix:{folder}/engine.sock") as unix,
            topics(path) as ros2,
        ):
            distributed = plugins.load("policies", "distributed")
            ways = {
                "one process": plugins.load("policies", "lerobot")(path=str(path), device="cpu"),
                "two processes, UNIX socket and shared memory": distributed(path=str(path), network=unix),
                "two processes, TCP": distributed(path=str(path), network=f"{tcp}?images=raw"),
                "two processes, ROS 2 topics over DDS": distributed(path=str(path), network=ros2),
                "the same, float32 as an original engine wants it": distributed(
                    path=str(path), network=f"{ros2}&engine=original&node_name=original"
                ),
            }
            for policy in ways.values():
                policy.meet(ROBOT)
            frames = [frame(seed) for seed in range(4)]
            answers = [[policy.infer(one, ChunkRequest(0)).rows for one in frames] for policy in ways.values()]
            same = all(
                np.array_equal(one, other) for way in answers for one, other in zip(way, answers[0], strict=True)
            )
            figures: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(parsed.rounds):
                for name, policy in ways.items():
                    figures[name].append(
                        timed(
                            lambda index, policy=policy: policy.infer(frames[index % 4], ChunkRequest(index)),
                            parsed.calls,
                        )
                    )
                print(
                    f"round {number + 1}: "
                    + ", ".join(f"{name} {made[-1]:.2f} ms" for name, made in figures.items())
                )
            errors = {
                name: failed(policy, parsed.rounds * parsed.calls)
                for name, policy in ways.items()
                if name != "one process"
            }
            for name, made in errors.items():
                print(f"to the typed error: {name} {statistics.median(made):.2f} ms, at most {max(made):.2f} ms")
            for policy in ways.values():
                policy.close()
    parsed.out.write_text(page(figures, errors, same, parsed.rounds, parsed.calls), encoding="utf-8")
    print(f"chunks are the same to the last bit: {same}; wrote {parsed.out}")


def page(
    figures: dict[str, list[float]], errors: dict[str, list[float]], same: bool, rounds: int, calls: int
) -> str:
    """The page."""
    raw = len(CAMERAS) * HEIGHT * WIDTH * 3
    base = statistics.median(figures["one process"])
    lines = [
        "# A policy's network elsewhere",
        "",
        "`python benchmarks/distributed.py` (`make bench-distributed`). Two cameras of 640x480, a state of 6 numbers, 100 "
        "rows; the network takes next to no time, so that what is seen is everything else: scaling and normalising two "
        f"pictures, and the way there and back. Median of {rounds} rounds of {calls} calls, in brackets least and most.",
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, all on one machine.",
        "",
        "| | ms | over one process, ms |",
        "|---|---|---|",
    ]
    for name, made in figures.items():
        median = statistics.median(made)
        over = "" if name == "one process" else f"{median - base:.2f}"
        lines.append(f"| {name} | {median:.2f} ({min(made):.2f} to {max(made):.2f}) | {over} |")
    lines += [
        "",
        f"Chunks are the same to the last bit in all of them: {'yes' if same else 'NO'}. What crosses over is uint8, "
        f"{raw / 1e6:.2f} MB a request; as the network takes them, float32, the pictures have {4 * raw / 1e6:.2f} MB.",
        "",
        f"The network raises: from the request, with both pictures, to the typed error at the robot, of {rounds * calls} "
        "calls:",
        "",
        "| | median, ms | most, ms |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {statistics.median(made):.2f} | {max(made):.2f} |" for name, made in errors.items()]
    lines += [
        "",
        "IB-Robot's inference service, measured with a policy that takes no time: 862 ms in two processes against 16 in "
        "one, and 7.37 MB a request; an exception in the network reached the robot as a time-out, after 5200 ms.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
