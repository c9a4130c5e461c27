"""Many worlds of the simulated arm at once, under a policy that answers a fixed number of control steps late.

Time is simulated and counted in control steps, so a run depends on its seeds and on nothing else.  Each world has
the package's own scheduler; the worlds share only the policy's calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.chunking import Answer, Decision, DelayEstimate, Scheduler, Strategy, Tick
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


def play(world: World, policy: Batch, strategy: Strategy, delay: int, rng: np.random.Generator) -> Score:
    """One episode in every world; each answer is usable `delay` control steps after its request.

    Args:
        world: fresh.
        policy: chunks of rows in the robot's order, 50 a second.
        strategy: how the chunks are executed.
        delay: in control steps; 0 for an answer within the same step.
        rng: for the policy.
    """
    layout = robot_layout(plugins.load("robots", "openarm_sim")().spec)
    schedulers = [
        Scheduler(layout, strategy, delay=DelayEstimate(fixed=delay), hold=row) for row in world.arms.joints
    ]
    due: list[tuple[int, list[Answer | None]]] = []
    for step in range(STEPS):
        arrived = due.pop(0)[1] if due and due[0][0] == step else [None] * len(schedulers)
        decisions = _tick(schedulers, step, arrived)
        answers = _answer(world, policy, decisions, rng)
        if any(answers) and delay:
            due.append((step + delay, answers))
        elif any(answers):
            decisions = _tick(schedulers, step, answers)
        world.advance(np.stack([decision.row for decision in decisions if decision.row is not None]))
    return world.score


def _tick(schedulers: list[Scheduler], step: int, answers: Sequence[Answer | None]) -> list[Decision]:
    pairs = zip(schedulers, answers, strict=True)
    return [scheduler.tick(Tick(step, [answer] if answer else [])) for scheduler, answer in pairs]


def _answer(
    world: World, policy: Batch, decisions: list[Decision], rng: np.random.Generator
) -> list[Answer | None]:
    """One call of the policy for the worlds that ask for the same thing: alone, or under a prefix of one length."""
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
