"""Train the demo policy: episodes of the expert, flow matching in numpy, ONNX, scores on fresh belts.

    export OMP_NUM_THREADS=1                              # more threads do not help, the network is small
    python training/train_demo.py                         # the shipped policy, about 4 CPU-minutes
    python training/train_demo.py --seed 1 --out benchmarks/policies/seed1
    python training/train_demo.py --smoke --out /tmp/demo # seconds; the result is useless

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
from lockstep import STEPS, World, play
from numpy.typing import NDArray
from onnx_trace import Graph
from velocity_net import DEPTH, FEATURES, WIDTH, Weights, backward, forward, initial_weights

from chunkwise import plugins
from chunkwise.policies.demo import KNOT_STEPS, KNOTS, LANE_SCALE, ROWS, Demo
from chunkwise.robots.openarm_sim.physics import ArmPhysics
from chunkwise.tasks.lanes import joints_to_lanes, lanes_to_joints
from chunkwise.tasks.two_belts import features
from chunkwise.tasks.two_belts_expert import Expert

SHIPPED = Path("src/chunkwise/policies/demo_assets")
WORLDS = 250
"""Episodes that are simulated side by side."""
BATCH = 512
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
DECAYS = (0.9, 0.99)
AVERAGING = 0.999
"""Of the weights over the training steps; the average ships."""

SCORE_SEED = 1_000_000
"""Scores use the belts SCORE_SEED, SCORE_SEED + 1, ...; training's belts have seeds above 2**32."""
SCORE_DELAYS = (0, 2, 4, 6, 10)

Float32 = NDArray[np.float32]


def demonstrations(episodes: int, rng: np.random.Generator) -> tuple[Float32, Float32, float]:
    """What the expert did, in the full simulation.

    Returns:
        Chunks (N, KNOTS) of one hand each and what was known at their first step (N, FEATURES), normalised,
        from the episodes without a contact, and the share of those.
    """
    arms = ArmPhysics(min(WORLDS, episodes))
    chunks, known, unhurt = [], [], 0
    batches = math.ceil(episodes / arms.worlds)
    for _ in range(batches):
        world = World(rng.integers(2**32, 2**62, arms.worlds).tolist(), arms)
        expert = Expert(arms.worlds, rng)
        commands, seen = [], []
        for _ in range(STEPS + ROWS - 1):
            hands, posts = joints_to_lanes(arms.joints), world.posts
            commands.append(expert.command(hands, arms.lane_velocities, posts))
            seen.append(features(hands, posts))
            world.advance(lanes_to_joints(commands[-1]))
        kept = ~world.score.failed
        unhurt += int(kept.sum())
        targets = np.array(commands)[:, kept] / LANE_SCALE
        for step in range(STEPS):
            rows = targets[step : step + ROWS : KNOT_STEPS]
            chunks.append(np.moveaxis(rows, 0, -1).reshape(-1, KNOTS).astype(np.float32))
            known.append(seen[step][kept].reshape(-1, FEATURES).astype(np.float32))
    return np.concatenate(chunks), np.concatenate(known), unhurt / (batches * arms.worlds)


def loss_and_gradients(
    weights: Weights, chunks: NDArray[Any], known: NDArray[Any], noise: NDArray[Any], tau: NDArray[Any]
) -> tuple[float, Weights]:
    """Flow matching: mean of ``|v(tau a + (1 - tau) e, tau) - (a - e)|^2`` over a batch, and its gradients.

    Args:
        weights: the network's.
        chunks: a, (N, KNOTS).
        known: features (N, FEATURES).
        noise: e, (N, KNOTS).
        tau: flow times (N, 1).
    """
    velocity, tape = forward(weights, tau * chunks + (1.0 - tau) * noise, tau, known)
    error = velocity - (chunks - noise)
    gradients: Weights = {}
    backward(weights, tape, error * (2.0 / error.size), gradients)
    return float((error * error).mean()), gradients


class Adam:
    """Adam with its gradients bounded in norm (Kingma and Ba 2015), and a running average of the weights."""

    def __init__(self, weights: Weights) -> None:
        self.average = {name: value.copy() for name, value in weights.items()}
        self._weights = weights
        self._mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self._square = {name: np.zeros_like(value) for name, value in weights.items()}
        self._step = 0

    def update(self, gradients: Weights, rate: float) -> None:
        """One step in place."""
        self._step += 1
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
        bound = min(1.0, 1.0 / max(norm, 1e-12))
        mean_share, square_share = (1.0 - decay**self._step for decay in DECAYS)
        keep = min(AVERAGING, (1 + self._step) / (10 + self._step))
        for name, value in self._weights.items():
            gradient = bound * gradients[name]
            mean, square, average = self._mean[name], self._square[name], self.average[name]
            mean += (1.0 - DECAYS[0]) * (gradient - mean)
            square += (1.0 - DECAYS[1]) * (gradient * gradient - square)
            value -= rate / mean_share * mean / (np.sqrt(square / square_share) + 1e-8)
            average += (1.0 - keep) * (value - average)


def train(chunks: Float32, known: Float32, steps: int, rng: np.random.Generator) -> tuple[Weights, list[float]]:
    """Weights averaged over the run, and the loss of each twentieth of it."""
    weights = initial_weights(KNOTS, rng)
    adam = Adam(weights)
    losses: list[float] = []
    report = max(steps // 20, 1)
    total, started = 0.0, time.process_time()
    for step in range(1, steps + 1):
        picked = rng.integers(len(chunks), size=BATCH)
        # The task is its own mirror image: half of the batch sees it in the looking glass.
        mirror = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), (BATCH, 1))
        seen = known[picked]
        seen[:, 1:] *= mirror
        noise = rng.standard_normal((BATCH, KNOTS), dtype=np.float32)
        tau = rng.random((BATCH, 1), dtype=np.float32)
        loss, gradients = loss_and_gradients(weights, chunks[picked] * mirror, seen, noise, tau)
        ramp = min(1.0, step / WARMUP_STEPS) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        adam.update(gradients, LEARNING_RATE * ramp)
        total += loss
        if step % report == 0:
            losses.append(round(total / report, 4))
            total = 0.0
            print(
                f"step {step:5d}/{steps}  loss {losses[-1]:.4f}  {time.process_time() - started:5.1f} CPU-s",
                flush=True,
            )
    return adam.average, losses


def export(weights: Weights, folder: Path) -> None:
    """Write ``velocity.onnx`` and ``pull.onnx``, the two halves of a `chunkwise.sampling.flow.Field`.

    Inputs, float32: x (batch, KNOTS, 2), tau (1), features (batch, 2, FEATURES), and for the pull also target
    (batch, KNOTS, 2) and weights (batch, KNOTS).
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunk = ("batch", KNOTS, 2)
    for name in ("velocity", "pull"):
        graph = Graph()
        x, tau = graph.input("x", chunk), graph.input("tau", (1,))
        known: Any = graph.input("features", ("batch", 2, FEATURES))
        constants: Any = {key: graph.constant(value) for key, value in weights.items()}
        lanes: Any = x.transpose(0, 2, 1)
        velocity: Any
        velocity, tape = forward(constants, lanes, tau, known)  # type: ignore[arg-type]
        graph.output("velocity", velocity.transpose(0, 2, 1), chunk)
        if name == "pull":
            target = graph.input("target", chunk).transpose(0, 2, 1)
            agree = graph.unsqueeze(graph.input("weights", ("batch", KNOTS)), 1)
            error: Any = agree * (target - (lanes + (1.0 - tau) * velocity))
            pulled: Any = backward(constants, tape, error)
            graph.output("error", error.transpose(0, 2, 1), chunk)
            graph.output("pulled", pulled.transpose(0, 2, 1), chunk)
        onnx.save(graph.model(name), str(folder / f"{name}.onnx"))


def scores(folder: Path, episodes: int, delays: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Share of episodes without a contact, by strategy and delay in control steps, on belts never trained on."""
    policy = Demo(model=str(folder))
    arms = ArmPhysics(episodes)
    seeds = range(SCORE_SEED, SCORE_SEED + episodes)
    table: dict[str, dict[str, float]] = {}
    for name in ("rtc", "switch"):
        strategy = plugins.load("strategies", name)()
        table[name] = {}
        for delay in delays:
            played = play(World(seeds, arms), policy.infer_batch, strategy, delay, np.random.default_rng(delay))
            table[name][str(delay)] = round(1.0 - float(played.score.failed.mean()), 4)
            print(f"{name:8} delay {delay:2d} steps: {table[name][str(delay)]:.3f} of {episodes}", flush=True)
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes, the weights and the batches")
    parser.add_argument("--episodes", type=int, default=1500, help="of the expert, to learn from")
    parser.add_argument("--steps", type=int, default=8000, help="of the optimiser")
    parser.add_argument(
        "--score-episodes", type=int, default=256, help="on fresh belts, for the record; 0 for none"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder for the policy and its record")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, to see that it works")
    options = parser.parse_args()
    delays: tuple[int, ...] = SCORE_DELAYS
    if options.smoke:
        options.episodes, options.steps, options.score_episodes, delays = 8, 100, 4, (0, 4)

    started = time.process_time()
    rng = np.random.default_rng(options.seed)
    chunks, known, unhurt = demonstrations(options.episodes, rng)
    data_s = time.process_time() - started
    print(
        f"{options.episodes} episodes, {unhurt:.1%} unhurt, {len(chunks)} chunks, {data_s:.0f} CPU-s", flush=True
    )
    weights, losses = train(chunks, known, options.steps, rng)
    train_s = time.process_time() - started - data_s
    export(weights, options.out)
    record = {
        "command": f"python training/train_demo.py --seed {options.seed} --episodes {options.episodes}"
        f" --steps {options.steps} --score-episodes {options.score_episodes} --out {options.out}",
        "seed": options.seed,
        "expert": {"episodes": options.episodes, "success": unhurt, "chunks": len(chunks)},
        "network": {"width": WIDTH, "depth": DEPTH, "parameters": sum(value.size for value in weights.values())},
        "training": {"steps": options.steps, "batch": BATCH, "loss_by_twentieth": losses},
        "cpu_seconds": {"episodes": round(data_s, 1), "training": round(train_s, 1)},
    }
    if options.score_episodes:
        record["scores"] = {
            "what": "share of 6.5 s episodes without a contact, by delay in control steps of 20 ms; s = max(d, 1)",
            "belts": [SCORE_SEED, SCORE_SEED + options.score_episodes - 1],
            "success": scores(options.out, options.score_episodes, delays),
        }
    (options.out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.out}, {time.process_time() - started:.0f} CPU-s in all")


if __name__ == "__main__":
    main()
