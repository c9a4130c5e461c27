"""The demo policy and the scripted expert, as policies."""

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame, validate_policy_spec
from chunkwise.policies.demo import ROWS, Demo, _knots, _rows
from chunkwise.policies.scripted import Scripted
from chunkwise.tasks.lanes import joints_to_lanes, lanes_to_joints
from chunkwise.tasks.two_belts import ARMS, CONTROL_S, Belts

COLUMNS = dict(zip(ARMS, (slice(0, 7), slice(7, 8), slice(8, 15), slice(15, 16)), strict=True))


def frame(lanes=(0.0, 0.0), t_s=0.5, **meta):
    joints = lanes_to_joints(lanes)
    state = {arm: joints[columns] for arm, columns in COLUMNS.items()}
    return Frame({}, state | {"belts": Belts([3]).next_posts(t_s)[0]}, meta=meta)


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("onnxruntime")
    policy = Demo()
    policy.warmup()
    yield policy
    policy.close()
    policy.close()


def test_spec(demo):
    validate_policy_spec(demo.spec)
    assert demo.spec.supports_prefix
    assert demo.spec.action_horizon == ROWS == 31


def test_a_chunk_is_rows_of_joint_targets_near_the_hands(demo):
    rows = demo.infer(frame((0.02, -0.03)), ChunkRequest(0)).rows
    assert rows.shape == (ROWS, 16)
    assert rows.dtype == np.float64
    lanes = joints_to_lanes(rows)
    assert np.abs(lanes[0] - (0.02, -0.03)).max() < 0.08
    assert np.abs(lanes).max() <= 0.2 + 1e-6
    np.testing.assert_array_equal(rows[:, [7, 15]], np.broadcast_to(rows[0, [7, 15]], (ROWS, 2)))


def test_the_answer_depends_on_seed_step_and_frame_only(demo):
    first = demo.infer(frame(), ChunkRequest(5)).rows
    demo.infer(frame(), ChunkRequest(6))
    np.testing.assert_array_equal(demo.infer(frame(), ChunkRequest(5)).rows, first)
    assert not np.array_equal(demo.infer(frame(), ChunkRequest(6)).rows, first)
    demo.reset(seed=1)
    assert not np.array_equal(demo.infer(frame(), ChunkRequest(5)).rows, first)
    demo.reset(seed=0)
    np.testing.assert_array_equal(demo.infer(frame(), ChunkRequest(5)).rows, first)


@pytest.mark.parametrize("jacobian", ["vjp", "identity"])
def test_a_chunk_continues_the_plan_that_it_is_given(jacobian):
    pytest.importorskip("onnxruntime")
    policy = Demo(jacobian=jacobian)
    seen = frame()
    chunks = np.stack([policy.infer(seen, ChunkRequest(step)).rows for step in range(24)])
    alone = joints_to_lanes(chunks)
    weights = np.ones(24)
    guided = np.stack(
        [
            joints_to_lanes(policy.infer(seen, ChunkRequest(100 + i, prefix=c[:24], prefix_weights=weights)).rows)
            for i, c in enumerate(chunks)
        ]
    )
    apart = np.abs(guided - alone)[:, :24].mean()
    assert apart < 0.3 * np.abs(np.roll(alone, 1, axis=0) - alone)[:, :24].mean()


def test_weights_of_zero_and_no_prefix_are_the_same(demo):
    plan = lanes_to_joints(np.full((10, 2), 0.1))
    free = demo.infer(frame(), ChunkRequest(5)).rows
    ignored = demo.infer(frame(), ChunkRequest(5, prefix=plan, prefix_weights=np.zeros(10))).rows
    np.testing.assert_allclose(ignored, free, atol=1e-6)


def test_a_prefix_of_any_length_is_taken(demo):
    for length in (1, 2, 30, 31, 60):
        request = ChunkRequest(5, prefix=np.zeros((length, 16)), prefix_weights=np.ones(length))
        assert np.isfinite(demo.infer(frame(), request).rows).all()


def test_a_batch_is_what_its_members_are_alone(demo):
    joints = lanes_to_joints([[0.0, 0.05], [0.1, -0.1]])
    posts = Belts([1, 2]).next_posts(0.3)
    prefix = lanes_to_joints(np.random.default_rng(0).uniform(-0.1, 0.1, (2, 9, 2)))
    weights = np.linspace(1, 0, 18).reshape(2, 9)
    together = demo.infer_batch(joints, posts, prefix=prefix, weights=weights, rng=np.random.default_rng(4))
    rng = np.random.default_rng(4)
    for one in (slice(0, 1), slice(1, 2)):
        alone = demo.infer_batch(joints[one], posts[one], prefix=prefix[one], weights=weights[one], rng=rng)
        np.testing.assert_allclose(together[one], alone, atol=1e-5)


def test_rows_pass_through_the_knots():
    knots = np.random.default_rng(0).standard_normal((2, 16, 2))
    rows = _rows(knots)
    assert rows.shape == (2, 31, 2)
    np.testing.assert_allclose(_knots(rows), knots, atol=1e-6)
    np.testing.assert_allclose(rows[:, 1], (knots[:, 0] + knots[:, 1]) / 2)


def test_a_folder_without_a_model_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match=r"velocity\.onnx"):
        Demo(model=str(tmp_path))


def test_the_expert_plans_on_from_where_the_hands_are():
    policy = Scripted(seed=1)
    validate_policy_spec(policy.spec)
    seen = frame((0.01, 0.02), privileged={"lane_velocity": np.zeros(2)})
    rows = policy.infer(seen, ChunkRequest(0)).rows
    assert rows.shape == (policy.spec.action_horizon, 16)
    assert np.abs(joints_to_lanes(rows)[0] - (0.01, 0.02)).max() < 0.012
    np.testing.assert_array_equal(policy.infer(seen, ChunkRequest(0)).rows, rows)


def test_the_expert_tosses_the_same_coins_again_after_a_reset():
    policy = Scripted(seed=1)
    seen = [frame(t_s=t_s, privileged={"lane_velocity": np.zeros(2)}) for t_s in (0.0, 2.0, 4.0, 6.0)]
    rows = [policy.infer(one, ChunkRequest(step)).rows for step, one in enumerate(seen)]
    policy.reset()
    np.testing.assert_array_equal(
        [policy.infer(one, ChunkRequest(step)).rows for step, one in enumerate(seen)], rows
    )


def test_the_expert_finds_velocities_itself_where_it_is_not_told():
    told, untold = Scripted(seed=1), Scripted(seed=1)
    velocity = np.array([0.1, -0.2])
    untold.infer(frame((0.0, 0.0)), ChunkRequest(3))
    told.infer(frame((0.0, 0.0), privileged={"lane_velocity": velocity}), ChunkRequest(3))
    moved = tuple(velocity * CONTROL_S)
    np.testing.assert_allclose(
        untold.infer(frame(moved), ChunkRequest(4)).rows,
        told.infer(frame(moved, privileged={"lane_velocity": velocity}), ChunkRequest(4)).rows,
        atol=2e-3,
    )


def test_many_requests_at_once_are_answered_as_if_each_were_alone(demo):
    plan = demo.infer(frame((0.03, 0.0)), ChunkRequest(9)).rows
    calls = [
        (frame((0.0, 0.01)), ChunkRequest(4)),
        (frame((0.02, -0.01)), ChunkRequest(5, prefix=plan[:20], prefix_weights=np.linspace(1, 0, 20))),
        (frame((0.01, 0.04), t_s=1.5), ChunkRequest(6, prefix=plan, prefix_weights=np.ones(ROWS))),
        (frame((-0.03, 0.02), t_s=2.5), ChunkRequest(7)),
    ]
    together = demo.infer_many(calls)
    for (seen, request), chunk in zip(calls, together, strict=True):
        np.testing.assert_allclose(chunk.rows, demo.infer(seen, request).rows, atol=1e-6)
