"""The belts, the score and the expert."""

import numpy as np
import pytest

from chunkwise.contract import validate_policy_spec
from chunkwise.tasks.lanes import LANE_CENTRES
from chunkwise.tasks.two_belts import (
    BELT_SPEED,
    CONTACT,
    CONTROL_S,
    EPISODE_S,
    HAND_X,
    LOOP_POSTS,
    OFFSET,
    PITCH,
    VISIBLE_POSTS,
    Belts,
    Score,
    features,
    policy_spec,
)
from chunkwise.tasks.two_belts_expert import DRIVE_RATE, Expert


def rods(lanes):
    """x, y (B, 2, 2) of rods at lane coordinates (B, 2)."""
    return np.stack([np.full(lanes.shape, HAND_X), lanes + LANE_CENTRES], axis=-1)


def test_a_worlds_posts_depend_on_its_own_seed_only():
    together, alone = Belts([3, 4, 5]), Belts([4])
    np.testing.assert_array_equal(together.next_posts(2.0)[1], alone.next_posts(2.0)[0])
    assert not np.array_equal(together.next_posts(2.0)[0], together.next_posts(2.0)[1])


def test_posts_come_down_the_lane_at_belt_speed_one_every_pitch():
    belts = Belts(range(20))
    early, late = belts.next_posts(0.0), belts.next_posts(0.5)
    np.testing.assert_allclose(early[..., 0] - late[..., 0], BELT_SPEED * 0.5)
    np.testing.assert_array_equal(early[..., 1], late[..., 1])
    np.testing.assert_allclose(early[:, :, 1, 0] - early[:, :, 0, 0], PITCH)
    assert (np.abs(early[..., 1] - np.reshape(LANE_CENTRES, (2, 1))) <= OFFSET).all()


def test_the_next_post_is_the_foremost_that_is_not_behind():
    belts = Belts(range(20))
    for t_s in np.arange(0.0, 20.0, 0.37):
        ahead = belts.next_posts(t_s)[:, :, 0, 0] - HAND_X
        assert (ahead >= -CONTACT - 1e-9).all()
        assert (ahead <= PITCH - CONTACT + 1e-9).all() or t_s < 1.2


def test_belts_are_endless_loops():
    belts = Belts([1])
    lap_s = LOOP_POSTS * PITCH / BELT_SPEED
    np.testing.assert_allclose(belts.next_posts(9.0 + lap_s), belts.next_posts(9.0))


def test_a_visible_post_keeps_its_place_in_the_array():
    belts = Belts(range(5))
    before = belts.visible(0.0)
    assert before.shape == (5, 2, VISIBLE_POSTS, 2)
    for t_s in np.arange(0.02, 15.0, 0.02):
        now = belts.visible(t_s)
        moved = before[..., 0] - now[..., 0]
        came_in = moved < 0.0  # left behind the hand, came in again at the far end
        np.testing.assert_allclose(moved[~came_in], BELT_SPEED * 0.02, atol=1e-12)
        np.testing.assert_array_equal(now[..., 1][~came_in], before[..., 1][~came_in])
        before = now


def test_a_rod_in_the_way_is_hit_once_and_a_rod_aside_is_not():
    belts = Belts([7, 8])
    score = Score(belts)
    for sample in range(1, 300):
        t_s = sample * 0.01
        post = belts.posts(t_s, np.zeros((2, 2, 1), dtype=np.int64))[:, :, 0, 1] - LANE_CENTRES
        score.update(t_s, rods(post + np.array([[0.0, 0.049], [-0.049, 0.047]])))
        if (belts.index(t_s) > 0).all():
            break
    np.testing.assert_array_equal(score.hits, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(score.failed, [True, True])


def test_posts_that_went_by_untouched_are_counted():
    belts = Belts([7])
    score = Score(belts)
    for sample in range(1, 400):
        t_s = sample * 0.01
        post = belts.posts(t_s, belts.index(t_s, CONTACT + 0.03)[..., None])[:, :, 0, 1] - LANE_CENTRES
        score.update(t_s, rods(post + 0.06))
    np.testing.assert_array_equal(score.passed, belts.index(3.99, CONTACT + 0.03))
    assert score.passed.min() >= 2
    assert not score.hits.any()
    assert not score.failed.any()


@pytest.mark.parametrize("astray", [(0.04, 0.0), (0.0, 0.21)])
def test_leaving_the_lane_fails(astray):
    score = Score(Belts([0]))
    places = rods(np.zeros((1, 2)))
    places[0, 1] += astray
    score.update(0.0, places)
    assert score.failed.all()
    assert not score.hits.any()


def test_features_are_relative_to_the_hand():
    posts = np.array([[[0.46, -0.21], [0.66, -0.26]], [[0.36, 0.26], [0.56, 0.21]]])
    known = features(np.array([0.1, 0.05]), posts)
    np.testing.assert_allclose(known, [[1.0, -1.0, -1.5, 1.0], [0.5, 0.0, -0.5, 0.5]], atol=1e-12)


def test_the_spec_names_sixteen_joints_right_first():
    spec = policy_spec("any", 31, supports_prefix=True)
    validate_policy_spec(spec)
    assert spec.action_dim == 16
    assert [output.target for output in spec.outputs] == ["right_arm", "right_gripper", "left_arm", "left_gripper"]


class Drives:
    """The drive profile alone: the arm as the expert imagines it."""

    def __init__(self, worlds):
        self.hands, self.velocities = np.zeros((worlds, 2)), np.zeros((worlds, 2))

    def follow(self, target):
        for _ in range(10):
            pull = DRIVE_RATE**2 * (target - self.hands) - 2 * DRIVE_RATE * self.velocities
            self.velocities = self.velocities + CONTROL_S / 10 * pull
            self.hands = self.hands + CONTROL_S / 10 * self.velocities


def drive(worlds, choose):
    """Score of B worlds under ``choose(step, hands, velocities, posts) -> lane targets (B, 2)``."""
    belts, drives = Belts(range(worlds)), Drives(worlds)
    score = Score(belts)
    for step in range(round(EPISODE_S / CONTROL_S)):
        t_s = step * CONTROL_S
        drives.follow(choose(step, drives.hands, drives.velocities, belts.next_posts(t_s)))
        score.update(t_s + CONTROL_S, rods(drives.hands))
    return score


def test_the_exploring_expert_passes_on_either_side():
    expert = Expert(64, np.random.default_rng(0))
    score = drive(64, lambda _, *seen: expert.command(*seen))
    assert score.failed.mean() <= 0.02
    assert score.passed.sum() > 64 * 2 * 4
    assert 0.3 < (expert._sides[..., 0] > 0).mean() < 0.7


@pytest.mark.parametrize("period", [1, 10])
def test_the_expert_can_plan_ahead(period):
    expert = Expert(32, np.random.default_rng(0))
    plans = []

    def choose(step, *seen):
        if step % period == 0:
            plans.append(expert.plan(*seen, 2 * period))
        return plans[-1][:, step % period]

    assert drive(32, choose).failed.mean() <= 0.02


def test_the_expert_keeps_the_side_it_tossed():
    expert = Expert(16, np.random.default_rng(1))
    posts = Belts(range(16)).next_posts(0.0)
    still = np.zeros((16, 2))
    first = expert.plan(still, still, posts, 5)
    np.testing.assert_array_equal(expert.plan(still, still, posts, 5), first)
