"""Two belts carry posts towards the robot; each hand steers an upright rod past every post of its lane.

A post may be passed on its left or on its right, and nothing in the observation says which: a plan that changes
its mind too late, or that averages the two ways, runs into the post.  Seen from above, one lane::

        x
        ^      o            posts come down the lane at BELT_SPEED, one every PITCH,
        |           o       each up to OFFSET off its middle
        |     o
      HAND_X -------|------ the rod moves along this line only: its y is all there is to steer
        |
        y <---   lane centre

Everything here is geometry: no clock, no simulator.  Lanes are in the order right, left.  Places x, y are in the
robot's base frame, lane coordinates count from a lane's centre [m]; times are seconds since the belts started.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import PolicyOutputSpec, PolicySpec
from chunkwise.tasks.lanes import GRIP_X as HAND_X
from chunkwise.tasks.lanes import JOINT_NAMES, LANE_CENTRES, LANE_LIMIT

Float = NDArray[np.float64]

RAIL_LIMIT = 0.03
"""A rod further than this from HAND_X was pulled off its line [m]."""

BELT_SPEED = 0.18
PITCH = 0.20
FIRST_POST = (0.20, 0.30)
"""The first post of a lane starts uniformly this far from the hand [m]."""
OFFSET = 0.056
"""Posts stand uniformly within this of their lane's middle [m]."""

ROD_RADIUS = 0.008
POST_RADIUS = 0.040
CONTACT = ROD_RADIUS + POST_RADIUS
"""Distance of the two axes at which rod and post touch [m]."""
BEHIND = CONTACT
"""A post this far behind the hand has been passed: the next one counts [m]."""

LOOP_POSTS = 64
"""Posts on a belt, which is a loop: post i and post i + LOOP_POSTS are the same one coming round again."""
VISIBLE_POSTS = 8
"""Posts of a lane on the visible stretch of its belt."""
VISIBLE_BEHIND = 0.30
"""A post further behind the hand than this has gone round the belt's end [m]."""

EPISODE_S = 6.5
"""A scored episode: five posts in each lane [s]."""
CONTROL_S = 0.02
"""The control period [s]."""
ARMS = ("right_arm", "right_gripper", "left_arm", "left_gripper")
"""The robot's components, in the order of the 16 joints."""
FEATURE_SCALE = np.array([0.2, 0.1, 0.1, 0.1])
"""Features of this size are 1 to a policy [m]."""


class Belts:
    """The posts of B independent worlds; a world's posts depend on its own seed and on nothing else.

    Args:
        seeds: one per world.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.worlds = len(seeds)
        self._first = np.empty((self.worlds, 2))
        self._offsets = np.empty((self.worlds, 2, LOOP_POSTS))
        for world, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            self._first[world] = rng.uniform(*FIRST_POST, size=2)
            self._offsets[world] = rng.uniform(-OFFSET, OFFSET, size=(2, LOOP_POSTS))

    def index(self, t_s: float, behind: float = BEHIND) -> NDArray[np.int64]:
        """Number (B, 2), from 0, of each lane's foremost post not yet ``behind`` metres past the hand."""
        travelled = BELT_SPEED * t_s - self._first - behind
        return np.maximum(np.floor(travelled / PITCH).astype(np.int64) + 1, 0)

    def posts(self, t_s: float, numbers: NDArray[np.int64]) -> Float:
        """x, y (B, 2, N, 2) in the base frame [m] at ``t_s`` of the posts with these numbers (B, 2, N)."""
        x = HAND_X + self._first[..., None] + PITCH * numbers - BELT_SPEED * t_s
        y = np.reshape(LANE_CENTRES, (2, 1)) + np.take_along_axis(self._offsets, numbers % LOOP_POSTS, axis=-1)
        return np.stack([x, y], axis=-1)

    def next_posts(self, t_s: float) -> Float:
        """x, y (B, 2, 2, 2) in the base frame [m] of the next and the after-next post of each lane."""
        return self.posts(t_s, self.index(t_s)[..., None] + np.arange(2))

    def visible(self, t_s: float) -> Float:
        """x, y (B, 2, VISIBLE_POSTS, 2) in the base frame [m] of the posts to draw.

        A post keeps its place in the array while it is in view, so that a drawn body stays one post.
        """
        foremost = self.index(t_s, VISIBLE_BEHIND)[..., None]
        place = np.arange(VISIBLE_POSTS)
        return self.posts(t_s, foremost + (place - foremost) % VISIBLE_POSTS)


class Score:
    """Counts posts passed and posts hit, by geometry alone.

    Attributes:
        passed: posts (B, 2) that went by untouched.
        hits: posts (B, 2) that were touched, each counted once.
        failed: worlds (B,) in which a post was touched or a rod left its lane.
    """

    def __init__(self, belts: Belts) -> None:
        self._belts = belts
        self._number = np.zeros((belts.worlds, 2), dtype=np.int64)
        self._touched = np.zeros((belts.worlds, 2), dtype=np.bool_)
        self.passed = np.zeros((belts.worlds, 2), dtype=np.int64)
        self.hits = np.zeros((belts.worlds, 2), dtype=np.int64)
        self.failed = np.zeros(belts.worlds, dtype=np.bool_)

    @property
    def touching(self) -> NDArray[np.bool_]:
        """Whether the foremost post (B, 2), number ``index(t, CONTACT + RAIL_LIMIT)``, has been touched."""
        return self._touched

    def update(self, t_s: float, rods_xy: Float) -> None:
        """Judges the rods' places (B, 2 lanes, 2) in the base frame [m], at the posts' height, at ``t_s``.

        Call it at least every 10 ms with rising times: a rod at arm's speed moves a few millimetres meanwhile.
        """
        # A rod on its rail can touch no post that is this far behind, and none but the foremost of the others.
        number = self._belts.index(t_s, CONTACT + RAIL_LIMIT)
        gone = number > self._number
        self.passed += gone & ~self._touched
        self._touched &= ~gone
        self._number = number

        post = self._belts.posts(t_s, number[..., None])[:, :, 0]
        touching = np.linalg.norm(rods_xy - post, axis=-1) < CONTACT
        self.hits += touching & ~self._touched
        self._touched |= touching

        astray = np.abs(rods_xy - np.stack([np.full(2, HAND_X), LANE_CENTRES], axis=-1))
        left_lane = (astray > (RAIL_LIMIT, LANE_LIMIT)).any(axis=(1, 2))
        self.failed |= touching.any(axis=1) | left_lane


def policy_spec(name: str, action_horizon: int, *, supports_prefix: bool) -> PolicySpec:
    """The spec of a policy for this task: the 16 joints and the posts in, 16 joint targets out."""
    names = [list(JOINT_NAMES[slots]) for slots in (slice(0, 7), slice(7, 8), slice(8, 15), slice(15, 16))]
    outputs = [
        PolicyOutputSpec(
            arm, f"{'joint' if len(joints) > 1 else 'gripper'}_position", len(joints), names=joints, unit="rad"
        )
        for arm, joints in zip(ARMS, names, strict=True)
    ]
    return PolicySpec(
        name,
        required_image_keys=[],
        required_state_keys=[*ARMS, "belts"],
        outputs=outputs,
        state_names=dict(zip(ARMS, names, strict=True)),
        action_horizon=action_horizon,
        control_hz=1.0 / CONTROL_S,
        supports_prefix=supports_prefix,
    )


def features(hands: Float, posts: Float) -> Float:
    """What a learned policy may know of each lane: no velocity, no last command, no choice of side.

    Args:
        hands: lane coordinates (..., 2) of the hands [m].
        posts: x, y (..., 2 lanes, 2 posts, 2) of the next and after-next posts in the base frame [m].

    Returns:
        (..., 2 lanes, 4): how far ahead the next post is, how far to the left of the hand the next and the
        after-next posts are, and the hand's lane coordinate, in units of `FEATURE_SCALE`.
    """
    ahead = posts[..., 0, 0] - HAND_X
    beside = posts[..., 1] - np.reshape(LANE_CENTRES, (2, 1)) - hands[..., None]
    known: Float = np.stack([ahead, beside[..., 0], beside[..., 1], hands], axis=-1) / FEATURE_SCALE
    return known
