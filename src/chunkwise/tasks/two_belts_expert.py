"""The scripted expert of the task "two belts", which the demo policy learns from.

Arrays are (B worlds, 2 lanes, ...), lanes in the order right, left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chunkwise.tasks.lanes import GRIP_X, LANE_CENTRES
from chunkwise.tasks.two_belts import BEHIND, BELT_SPEED, CONTROL_S

Float = NDArray[np.float64]

DRIVE_RATE = 15.0
"""Corner of the arms' drive profile, critically damped [rad/s]."""
CLEARANCE = 0.075
"""The expert aims this far beside a post's axis [m]."""
COIN_WIDTH = 0.019
"""How far beside a post the hand must be for the expert's coin to be loaded 73 : 27 [m]."""
STIFFNESS, DAMPING = 36.0, 10.0
"""The expert's gains [1/s^2, 1/s]."""
MAX_ACCELERATION = 2.5
"""The expert's limit [m/s^2]."""
NOISE = 0.25 * MAX_ACCELERATION
"""Standard deviation of the acceleration with which the expert explores [m/s^2]."""
NOISE_STEPS = 2
"""Control periods for which it keeps one draw."""


class Expert:
    """Steers B worlds past their posts, left or right by the toss of a coin, and tells nobody which.

    The coin is tossed once a post becomes the next one, loaded towards the side on which the hand already is.
    From then on the hand is drawn to a place beside the post by a spring and a damper, and the command that
    gives it this acceleration follows by inverting the drive profile ``y'' = w^2 (u - y) - 2 w y'``.

    Args:
        worlds: B.
        rng: tosses the coins and draws the noise.
        noise: standard deviation of the exploring acceleration [m/s^2].  A policy can only continue a plan that
            is like one it has seen, so demonstrations must visit the neighbourhood of the ideal path.
    """

    def __init__(self, worlds: int, rng: np.random.Generator, noise: float = NOISE) -> None:
        self._rng = rng
        self._noise = noise
        self._exploring = np.zeros((worlds, 2))
        self._step = 0
        # Sides +1 (left), -1 (right) or 0 (not tossed) of the posts last seen, known again by where they stand.
        self._seen = np.full((worlds, 2, 2), np.nan)
        self._sides = np.zeros((worlds, 2, 2))

    def command(self, hands: Float, velocities: Float, posts: Float) -> Float:
        """Lane targets (B, 2) [m] for this control period.

        Args:
            hands: lane coordinates (B, 2) [m].
            velocities: of the hands (B, 2) [m/s].
            posts: x, y (B, 2 lanes, 2 posts, 2) in the base frame [m], as from `Belts.next_posts`.
        """
        if self._step % NOISE_STEPS == 0:
            self._exploring = self._rng.normal(0.0, self._noise, hands.shape)
        self._step += 1
        self._recognise(posts)
        acceleration = self._steer(hands, velocities, posts, np.zeros(hands.shape, dtype=np.int64))
        return _undo_drive(hands, velocities, acceleration + self._exploring)

    def plan(self, hands: Float, velocities: Float, posts: Float, rows: int) -> Float:
        """Lane targets (B, rows, 2) [m] for this and the coming control periods, without exploring noise.

        The law is played forward against the drive profile and the moving belt; the sides it tosses for posts
        that come up meanwhile are kept.  Arguments as in `command`.
        """
        self._recognise(posts)
        ahead = posts[..., 0] - GRIP_X
        plan = np.empty((len(hands), rows, 2))
        for row in range(rows):
            passed = ahead[..., 0] - BELT_SPEED * CONTROL_S * row < -BEHIND
            acceleration = self._steer(hands, velocities, posts, passed.astype(np.int64))
            plan[:, row] = _undo_drive(hands, velocities, acceleration)
            hands = hands + velocities * CONTROL_S + 0.5 * acceleration * CONTROL_S**2
            velocities = velocities + acceleration * CONTROL_S
        return plan

    def _recognise(self, posts: Float) -> None:
        """Carries the tossed sides over to these posts."""
        seen = posts[..., 1].copy()
        same = seen[..., :, None] == self._seen[..., None, :]
        self._sides = (same * self._sides[..., None, :]).sum(axis=-1)
        self._seen = seen

    def _steer(self, hands: Float, velocities: Float, posts: Float, place: NDArray[np.int64]) -> Float:
        """Acceleration (B, 2) [m/s^2] past the post at this place (B, 2): 0 the next, 1 the after-next."""
        post = np.take_along_axis(posts[..., 1], place[..., None], axis=-1)[..., 0] - LANE_CENTRES
        side = np.take_along_axis(self._sides, place[..., None], axis=-1)[..., 0]
        left = self._rng.random(side.shape) < 1.0 / (1.0 + np.exp((post - hands) / COIN_WIDTH))
        side = np.where(side == 0.0, np.where(left, 1.0, -1.0), side)
        np.put_along_axis(self._sides, place[..., None], side[..., None], axis=-1)
        wish = STIFFNESS * (post + side * CLEARANCE - hands) - DAMPING * velocities
        return np.clip(wish, -MAX_ACCELERATION, MAX_ACCELERATION)


def _undo_drive(hands: Float, velocities: Float, acceleration: Float) -> Float:
    """The lane targets [m] under which the drive profile gives this acceleration [m/s^2]."""
    return hands + (acceleration + 2.0 * DRIVE_RATE * velocities) / DRIVE_RATE**2
