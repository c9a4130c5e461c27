"""Many worlds of the simulated arm at once, under a policy that answers a fixed number of control steps late.

Time is simulated and counted in control steps, so a run depends on its seeds and on nothing else.  Each world has
the package's own scheduler; the worlds share only the policy's calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.chunking import Answer, Decision, Scheduler, SourceKind, Strategy, Tick
from chunkwise.contract import ActionChunk, ChunkRequest, robot_layout
from chunkwise.robots.openarm_sim.physics import ArmPhysics
from chunkwise.tasks.two_belts import CONTROL_S, EPISODE_S, Belts, Score

STEPS = round(EPISODE_S / CONTROL_S)
SAMPLE_S = 0.01
"""Time between two samples of the rods' places [s]."""

Array = NDArray[np.float64]
Batch = Callable[..., Array]
"""`Demo.infer_batch`, or what takes and gives the same."""


class World:
    """W arms before their belts.

    Args:
        seeds: of the belts.
        arms: reset and used where given, for building them takes time.
    """

    def __init__(self, seeds: Sequence[int], arms: ArmPhysics | None = None) -> None:
        self.arms = arms or ArmPhysics(len(seeds))
        self.arms.reset(np.zeros((len(seeds), 2)))
        self.belts = Belts(seeds)
        self.score = Score(self.belts)
        self.step = 0

    @property
    def posts(self) -> Array:
        """x, y (W, 2, 2, 2) of the next two posts of each lane now."""
        return self.belts.next_posts(self.step * CONTROL_S)

    def advance(self, targets: Array) -> None:
        """One control period towards joint targets (W, 16), scored."""
        self.arms.step(targets)
        for sample in range(self.arms.rods.shape[1]):
            t_s = self.step * CONTROL_S + (sample + 1) * SAMPLE_S
            self.score.update(t_s, self.arms.rods[:, sample, :, :2])
        self.step += 1


@dataclass(frozen=True)
class Played:
    """An episode in W worlds.

    Attributes:
        score: of the task.
        commands: joint targets as sent (W, STEPS, 16).
        chunks: number of the request behind each of them (W, STEPS); -1 for a hold.
        starved: steps (W,) that held because the plan had run dry.
    """

    score: Score
    commands: Array
    chunks: NDArray[np.int64]
    starved: NDArray[np.int64]


def play(world: World, policy: Batch, strategy: Strategy, delay: int, rng: np.random.Generator) -> Played:
    """One episode in every world; each answer is usable `delay` control steps after its request.

    Args:
        world: fresh.
        policy: chunks of rows in the robot's order, 50 a second.
        strategy: how the chunks are executed.
        delay: in control steps; 0 for an answer within the same step.
        rng: for the policy.
    """
    layout = robot_layout(plugins.load("robots", "openarm_sim")().spec)
    schedulers = [Scheduler(layout, strategy, hold=row) for row in world.arms.joints]
    commands = np.empty((len(schedulers), STEPS, layout.width))
    chunks = np.empty((len(schedulers), STEPS), dtype=np.int64)
    starved = np.zeros(len(schedulers), dtype=np.int64)
    due: dict[int, list[Answer | None]] = {}
    for step in range(STEPS):
        decisions = _tick(schedulers, step, due.pop(step, [None] * len(schedulers)))
        answers = _answer(world, policy, decisions, rng)
        if any(answers) and delay:
            due[step + delay] = answers
        elif any(answers):
            decisions = _tick(schedulers, step, answers)
        commands[:, step] = [decision.row for decision in decisions]
        chunks[:, step] = [decision.source.chunk for decision in decisions]
        starved += [decision.source.kind is SourceKind.STARVED for decision in decisions]
        world.advance(commands[:, step])
    return Played(world.score, commands, chunks, starved)


def _tick(schedulers: list[Scheduler], step: int, answers: Sequence[Answer | None]) -> list[Decision]:
    pairs = zip(schedulers, answers, strict=True)
    return [scheduler.tick(Tick(step, [answer] if answer else [])) for scheduler, answer in pairs]


def _answer(
    world: World, policy: Batch, decisions: list[Decision], rng: np.random.Generator
) -> list[Answer | None]:
    """One call of the policy for all worlds that ask with a prefix of one length, or with none."""
    answers: list[Answer | None] = [None] * len(decisions)
    asking: dict[int, list[tuple[int, ChunkRequest]]] = {}
    for place, decision in enumerate(decisions):
        if decision.request is not None:
            prefix = decision.request.prefix
            asking.setdefault(0 if prefix is None else len(prefix), []).append((place, decision.request))
    for length, requests in asking.items():
        places = [place for place, _ in requests]
        guide: dict[str, Any] = {}
        if length:
            guide["prefix"] = np.stack([request.prefix for _, request in requests if request.prefix is not None])
            guide["weights"] = np.stack(
                [request.prefix_weights for _, request in requests if request.prefix_weights is not None]
            )
        rows = policy(world.arms.joints[places], world.posts[places], rng=rng, **guide)
        for chunk, (place, request) in zip(rows, requests, strict=True):
            answers[place] = Answer(request.id, ActionChunk(chunk))
    return answers
