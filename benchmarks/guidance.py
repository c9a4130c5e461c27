"""What it costs to continue a plan: a chunk on torch, onnxruntime and OpenVINO, guided in each way and not at all.

    python benchmarks/guidance.py                # prints, and writes docs/benchmarks/guidance.md; about five minutes
    python benchmarks/guidance.py --rounds 5 --no-page

Needs torch, onnx, onnxscript, onnxruntime and openvino.  One thread; every round asks each once, in an order of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from engines import processor
from numpy.typing import NDArray

from chunkwise.chunking.weights import prefix_weights
from chunkwise.cli import main as chunkwise
from chunkwise.engines import Engine
from chunkwise.engines._comparison import Tensors
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._flow_network import FlowNetwork
from chunkwise.policies._flow_sampling import GuidedFlow
from chunkwise.policies._flow_velocity import velocity_of

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "guidance.md"
FIELDS = Path(__file__).with_name("_guided_fields.py")
STATE = "observation.state"
SIZES = (
    ("Small", 16, 4, "A residual MLP over 16 rows of 4 numbers, 0.1 million parameters"),
    ("Expert", 50, 32, "An action expert over 50 rows of 32 numbers, 6 million parameters"),
)
ENGINES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "OpenVINO"}
WAYS = {
    "alone": "nothing",
    "vjp": "exact (vector-Jacobian)",
    "identity": "identity Jacobian",
    "trained_prefix": "trained prefix",
}
"""Ways to make a chunk, the first one without a plan."""
STEPS = 5
Key = tuple[str, str]
"""An engine and a way."""


def write_directory(folder: Path, rows: int, dim: int) -> None:
    """What stands beside a field: LeRobot's files, which do nothing here."""
    folder.mkdir()
    features = {STATE: {"type": "STATE", "shape": [8]}}
    config = {
        "type": "flow",
        "chunk_size": rows,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [dim]}},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("policy_preprocessor", "policy_postprocessor"):
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": []}), encoding="utf-8")


def make_networks(folder: Path, field: str) -> dict[Key, Engine]:
    """The field on every engine, guided in every way."""
    places = {"torch": (folder, f"{FIELDS}:{field}")}
    for to in ("onnx", "openvino"):
        out = folder.with_name(f"{field}-{to}")
        words = [
            "--policy.path",
            str(folder),
            "--policy.field",
            f"{FIELDS}:{field}",
            "--to",
            to,
            "--out",
            str(out),
        ]
        with redirect_stdout(sys.stderr):
            if chunkwise(["export", "--policy", "flow", *words]):
                raise SystemExit(f"{field} cannot be exported to {to}")
        places[to] = (out, "")
    made: dict[Key, Engine] = {}
    for engine, (place, name) in places.items():
        for way in WAYS:
            velocity = velocity_of(open_checkpoint(place), name, device="cpu", threads=1)
            how: Any = "vjp" if way == "alone" else way
            made[engine, way] = FlowNetwork(GuidedFlow(velocity, guidance=how, steps=STEPS))
    return made


def took_ms(asked: Mapping[Key, tuple[Engine, Tensors]], rounds: int) -> dict[Key, NDArray[Any]]:
    """How long a call of each takes [ms], (rounds,); every round asks all of them, in an order of its own."""
    rng = np.random.default_rng(0)
    for network, tensors in asked.values():
        for _ in range(3):
            network.run(tensors)
    took: dict[Key, list[float]] = {key: [] for key in asked}
    keys = list(asked)
    for _ in range(rounds):
        for place in rng.permutation(len(keys)):
            network, tensors = asked[keys[place]]
            began = time.perf_counter()
            network.run(tensors)
            took[keys[place]].append(1e3 * (time.perf_counter() - began))
    return {key: np.array(samples) for key, samples in took.items()}


def median(samples: NDArray[Any]) -> tuple[float, float, float]:
    """Median and its 95 % interval, from the order of the samples alone (a sign test turned round)."""
    ordered = np.sort(samples)
    spread = 1.96 * np.sqrt(len(ordered)) / 2
    low, high = int(len(ordered) / 2 - spread), int(np.ceil(len(ordered) / 2 + spread))
    return float(np.median(ordered)), float(ordered[max(low, 0)]), float(ordered[min(high, len(ordered) - 1)])


def measure(field: str, rows: int, dim: int, about: str, rounds: int) -> list[str]:
    """A section of the page."""
    rng = np.random.default_rng(0)
    drawn = {
        STATE: rng.standard_normal((1, 8), dtype=np.float32),
        "noise": rng.standard_normal((1, rows, dim), dtype=np.float32),
    }
    length = rows - rows // 4
    plan = {
        "prefix": rng.standard_normal((1, length, dim), dtype=np.float32),
        "prefix_weights": prefix_weights(rows // 4, length)[None].astype(np.float32),
        "inference_delay": np.array([rows // 4], np.int64),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / field
        write_directory(folder, rows, dim)
        networks = make_networks(folder, field)
        asked: dict[Key, tuple[Engine, Tensors]] = {
            key: (network, drawn if key[1] == "alone" else {**drawn, **plan}) for key, network in networks.items()
        }
        print(f"measuring {field}, {rounds} rounds", file=sys.stderr)
        took = took_ms(asked, rounds)
        answers = {key: network.run(tensors)["action"] for key, (network, tensors) in asked.items()}
        for network in networks.values():
            network.close()
    lines = [
        f"## {about}",
        "",
        "| engine | plan | ms a chunk | 95 % interval | x alone | 95 % interval | apart from torch |",
        "|---|---|---|---|---|---|---|",
    ]
    for (engine, way), samples in took.items():
        middle, low, high = median(samples)
        ratio, least, most = median(samples / took[engine, "alone"])
        apart = float(np.abs(answers[engine, way] - answers["torch", way]).max())
        lines.append(
            f"| {ENGINES[engine]} | {WAYS[way]} | {middle:.2f} | {low:.2f} to {high:.2f} | {ratio:.2f} | "
            f"{least:.2f} to {most:.2f} | {apart:.0e} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--no-page", action="store_true", help="print only")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino"))
    lines = [
        "# What it costs to continue a plan",
        "",
        f"`python benchmarks/guidance.py`. One thread, {options.rounds} rounds, {STEPS} Euler steps, float32, random weights; every round asks",
        "each engine in each way once, in an order of its own, so what else the machine does meets all of them alike. *x alone* is",
        "the median, over the rounds, of the time to that of a chunk without a plan on the same engine in the same round;",
        "intervals are of medians, from the order of the samples. *Apart from torch* is the largest difference of any number.",
        f"{versions}; Python {platform.python_version()}, {processor()}.",
        "",
    ]
    for field, rows, dim, about in SIZES:
        lines += measure(field, rows, dim, about, options.rounds)
    lines += [
        "Exact guidance is one backward pass more in every Euler step; on onnxruntime and OpenVINO it is part of the exported",
        "network, and needs no torch. The identity Jacobian and a trained prefix cost what a chunk alone costs, but for some",
        "arithmetic on the rows. What each is worth is in [chunking.md](chunking.md), and how to choose in",
        "[guidance.md](../guidance.md). Whatever encodes the observation, which for a vision-language model is most of the time,",
        "is run once for a chunk and never differentiated.",
    ]
    page = "\n".join(lines) + "\n"
    print(page)
    if not options.no_page:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
