"""Train the demo policy to continue a plan that it is given: the same network, with a flow time for each row.

    export OMP_NUM_THREADS=1
    for seed in 0 1 2; do python training/train_prefix.py --seed $seed --out benchmarks/policies/prefix$seed; done
    python training/train_prefix.py --smoke --out /tmp/prefix   # seconds; the result is useless

About 2 CPU-minutes each.  As `train_demo` with the same seed: the same episodes, as many steps of the optimiser,
and nothing else changed but this: the first D knots of a chunk are the clean ones of the data, their flow time is
1, and the loss is of the others.  The network sees the flow times of its rows as further features.

Source:
    K. Black et al. 2025, "Training-Time Action Conditioning for Efficient Real-Time Chunking",
    https://arxiv.org/abs/2512.05964.

Needs `chunkwise[train]`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_trace import Graph
from train_demo import BATCH, LEARNING_RATE, WARMUP_STEPS, Adam, demonstrations
from velocity_net import DEPTH, FEATURES, WIDTH, Weights, backward, forward, initial_weights

from chunkwise.policies.demo import KNOTS

LONGEST = 6
"""Knots of the longest prefix that is trained, 240 ms; each length from none on is as likely as the others."""

Float32 = NDArray[np.float32]


def untrained(rng: np.random.Generator) -> Weights:
    """Weights that pay no heed to the rows' flow times yet."""
    weights = initial_weights(KNOTS, rng)
    weights["features"] = np.concatenate([weights["features"], np.zeros((KNOTS, WIDTH), np.float32)])
    return weights


def loss_and_gradients(
    weights: Weights,
    chunks: NDArray[Any],
    known: NDArray[Any],
    noise: NDArray[Any],
    tau: NDArray[Any],
    prefix: NDArray[np.bool_],
) -> tuple[float, Weights]:
    """Flow matching of the rows that are not given: their mean of ``|v - (a - e)|^2``, and its gradients.

    Args:
        weights: the network's.
        chunks: a, (N, KNOTS).
        known: features (N, FEATURES).
        noise: e, (N, KNOTS).
        tau: flow times (N, 1) of the rows that are not given.
        prefix: the rows that are given (N, KNOTS).
    """
    times = np.where(prefix, np.float32(1.0), tau)
    velocity, tape = forward(
        weights, times * chunks + (1.0 - times) * noise, tau, np.concatenate([known, times], axis=1)
    )
    error = np.where(prefix, np.float32(0.0), velocity - (chunks - noise))
    count = prefix.size - np.count_nonzero(prefix)
    gradients: Weights = {}
    backward(weights, tape, error * np.float32(2.0 / count), gradients)
    return float((error * error).sum() / count), gradients


def train(chunks: Float32, known: Float32, steps: int, rng: np.random.Generator) -> tuple[Weights, list[float]]:
    """Weights averaged over the run, and the loss of each twentieth of it."""
    weights = untrained(rng)
    adam = Adam(weights)
    losses: list[float] = []
    report, total = max(steps // 20, 1), 0.0
    for step in range(1, steps + 1):
        picked = rng.integers(len(chunks), size=BATCH)
        mirror = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), (BATCH, 1))  # as in train_demo
        seen = known[picked]
        seen[:, 1:] *= mirror
        noise = rng.standard_normal((BATCH, KNOTS), dtype=np.float32)
        tau = rng.random((BATCH, 1), dtype=np.float32)
        prefix = np.arange(KNOTS) < rng.integers(LONGEST + 1, size=(BATCH, 1))
        loss, gradients = loss_and_gradients(weights, chunks[picked] * mirror, seen, noise, tau, prefix)
        ramp = min(1.0, step / WARMUP_STEPS) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        adam.update(gradients, LEARNING_RATE * ramp)
        total += loss
        if step % report == 0:
            losses.append(round(total / report, 4))
            total = 0.0
            print(f"step {step:5d}/{steps}  loss {losses[-1]:.4f}", flush=True)
    return adam.average, losses


def export(weights: Weights, folder: Path) -> None:
    """Write ``velocity.onnx``.

    Inputs, float32: x (batch, KNOTS, 2), tau (batch, KNOTS) with the flow time of each row, of which the last is
    that of all rows that are not given, and features (batch, 2, FEATURES).
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = Graph()
    chunk = ("batch", KNOTS, 2)
    x, known = graph.input("x", chunk), graph.input("features", ("batch", 2, FEATURES))
    times: Any = graph.unsqueeze(graph.input("tau", ("batch", KNOTS)), 1)
    last = np.eye(KNOTS, dtype=np.float32)[:, -1:]
    both_hands = graph.node("Concat", known, times + np.zeros((1, 2, 1), np.float32), axis=2)
    constants: Any = {key: graph.constant(value) for key, value in weights.items()}
    velocity: Any
    velocity, _ = forward(constants, x.transpose(0, 2, 1), times @ last, both_hands)  # type: ignore[arg-type]
    graph.output("velocity", velocity.transpose(0, 2, 1), chunk)
    onnx.save(graph.model("velocity"), str(folder / "velocity.onnx"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes, the weights and the batches")
    parser.add_argument("--episodes", type=int, default=1500, help="of the expert, to learn from")
    parser.add_argument("--steps", type=int, default=8000, help="of the optimiser")
    parser.add_argument("--out", type=Path, required=True, help="folder for the network and its record")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, to see that it works")
    options = parser.parse_args()
    if options.smoke:
        options.episodes, options.steps = 8, 100

    started = time.process_time()
    rng = np.random.default_rng(options.seed)
    chunks, known, unhurt = demonstrations(options.episodes, rng)
    weights, losses = train(chunks, known, options.steps, rng)
    export(weights, options.out)
    record = {
        "command": f"python training/train_prefix.py --seed {options.seed} --episodes {options.episodes}"
        f" --steps {options.steps} --out {options.out}",
        "seed": options.seed,
        "expert": {"episodes": options.episodes, "success": unhurt, "chunks": len(chunks)},
        "network": {"width": WIDTH, "depth": DEPTH, "parameters": sum(value.size for value in weights.values())},
        "training": {"steps": options.steps, "batch": BATCH, "prefix": LONGEST, "loss_by_twentieth": losses},
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    (options.out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.out}, {time.process_time() - started:.0f} CPU-s in all")


if __name__ == "__main__":
    main()
