"""The sampler of networks that were trained to continue a plan, on fields whose answers are known."""

import numpy as np
import pytest

from chunkwise.sampling.prefix import PrefixSampler


class Rows:
    """v = what each row's flow time is; remembers what it was given."""

    def __init__(self):
        self.seen = []

    def velocity(self, x, tau):
        self.seen.append((x.copy(), tau.copy()))
        return np.broadcast_to(tau[..., None], x.shape).copy()


def test_given_rows_are_clean_and_their_flow_time_is_one():
    rng = np.random.default_rng(0)
    noise, plan = rng.standard_normal((2, 2, 6, 3), dtype=np.float32)
    field = Rows()
    chunk = PrefixSampler(steps=4).sample(field, noise, plan, np.array([2, 0]))
    assert len(field.seen) == 4
    for step, (x, tau) in enumerate(field.seen):
        np.testing.assert_array_equal(x[0, :2], plan[0, :2])
        np.testing.assert_array_equal(tau[0], np.float32([1, 1] + [step / 4] * 4))
        np.testing.assert_array_equal(tau[1], np.full(6, step / 4, np.float32))
        assert tau.dtype == x.dtype == np.float32
    np.testing.assert_array_equal(chunk[0, :2], plan[0, :2])
    np.testing.assert_allclose(chunk[0, 2:], noise[0, 2:] + 0.375, atol=1e-6)
    np.testing.assert_allclose(chunk[1], noise[1] + 0.375, atol=1e-6)


def test_what_follows_the_given_rows_is_not_read():
    rng = np.random.default_rng(0)
    noise, plan, other = rng.standard_normal((3, 1, 6, 2))
    other[:, :3] = plan[:, :3]
    made = [PrefixSampler().sample(Rows(), noise, one, np.array([3])) for one in (plan, other)]
    np.testing.assert_array_equal(*made)


def test_no_prefix_is_longer_than_in_training():
    field = Rows()
    PrefixSampler(steps=1, longest=2).sample(field, np.zeros((1, 5, 1)), np.ones((1, 5, 1)), np.array([4]))
    assert field.seen[0][1].tolist() == [[1, 1, 0, 0, 0]]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"longest": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PrefixSampler(**wrong)
