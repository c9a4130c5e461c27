"""The flow sampler, on fields whose answers are known."""

import numpy as np
import pytest

from chunkwise.sampling.flow import FlowSampler, guidance_weight


class Linear:
    """v = gain * x: the Jacobian is the gain."""

    def __init__(self, gain):
        self.gain = gain

    def velocity(self, x, tau):
        return self.gain * x

    def pull(self, x, tau, target, weights):
        v = self.velocity(x, tau)
        error = weights[..., None] * (target - (x + (1 - tau) * v))
        return v, error, self.gain * error


class Gaussian:
    """The exact field of chunks ~ N(0, covariance), without an observation."""

    def __init__(self, covariance):
        self.covariance = covariance

    def matrix(self, tau):
        identity = np.eye(len(self.covariance))
        mixed = tau**2 * self.covariance + (1 - tau) ** 2 * identity
        return (tau * self.covariance - (1 - tau) * identity) @ np.linalg.inv(mixed)

    def velocity(self, x, tau):
        return np.einsum("ij,bja->bia", self.matrix(tau), x)

    def pull(self, x, tau, target, weights):
        v = self.velocity(x, tau)
        error = weights[..., None] * (target - (x + (1 - tau) * v))
        return v, error, np.einsum("ij,bia->bja", self.matrix(tau), error)


@pytest.mark.parametrize(
    "steps, expected",
    [
        (5, [5.0, 4.25, 2.1667, 2.1667, 4.25]),
        (10, [10.0, 9.1111, 4.25, 2.7619, 2.1667, 2.0, 2.1667, 2.7619, 4.25, 9.1111]),
    ],
)
def test_guidance_weights(steps, expected):
    weights = [guidance_weight(step / steps, float(steps)) for step in range(steps)]
    np.testing.assert_allclose(weights, expected, atol=5e-5)


@pytest.mark.parametrize("jacobian, expected", [("vjp", -1.475), ("identity", -1.8)])
def test_the_scalar_model_is_guided_as_published(jacobian, expected):
    # Elsewhere time runs from data to noise: v = 0.5 x there is -0.5 x here, and 1.475 is -1.475.
    sampler = FlowSampler(beta=10.0, jacobian=jacobian)
    guided = sampler.guided_velocity(
        Linear(-0.5), np.ones((1, 1, 1)), 0.5, np.full((1, 1, 1), 0.1), np.ones((1, 1))
    )
    assert guided.item() == pytest.approx(expected)


@pytest.mark.parametrize("jacobian", ["vjp", "identity"])
def test_weights_of_zero_change_no_bit(jacobian):
    rng = np.random.default_rng(0)
    noise, target = rng.standard_normal((2, 3, 8, 2), dtype=np.float32)
    sampler = FlowSampler(jacobian=jacobian)
    free = sampler.sample(Linear(0.3), noise)
    np.testing.assert_array_equal(sampler.sample(Linear(0.3), noise, target, np.zeros((3, 8))), free)
    np.testing.assert_array_equal(sampler.sample(Linear(0.3), noise, target), free)


def test_each_batch_element_has_its_own_weights_and_noise():
    rng = np.random.default_rng(0)
    noise, target = rng.standard_normal((2, 4, 8, 2))
    weights = rng.random((4, 8))
    together = FlowSampler().sample(Gaussian(np.eye(8) * 0.5), noise, target, weights)
    for element in range(4):
        one = slice(element, element + 1)
        alone = FlowSampler().sample(Gaussian(np.eye(8) * 0.5), noise[one], target[one], weights[one])
        np.testing.assert_allclose(together[one], alone, atol=1e-12)


def test_a_gaussian_policy_agrees_with_the_prefix_and_carries_it_on():
    rows = np.arange(8)
    covariance = 0.9 ** np.abs(rows[:, None] - rows)
    rng = np.random.default_rng(0)
    prefix = np.linalg.cholesky(covariance) @ rng.standard_normal((4000, 8, 1))
    weights = np.broadcast_to(rows < 3, (4000, 8)).astype(float)
    noise = rng.standard_normal((4000, 8, 1))
    chunk = FlowSampler().sample(Gaussian(covariance), noise, prefix, weights)
    miss = np.sqrt(np.mean((chunk - prefix)[:, :3] ** 2))
    assert miss == pytest.approx(0.10, abs=0.02)
    carried = np.mean(chunk[:, 3, 0] * np.sign(prefix[:, 2, 0]))
    assert carried > 0.5


def test_the_largest_allowed_beta_stays_finite():
    rng = np.random.default_rng(0)
    noise, target = rng.standard_normal((2, 50, 8, 2))
    chunk = FlowSampler(beta=10.0).sample(Gaussian(np.eye(8) * 0.5), noise, target, np.ones((50, 8)))
    assert np.abs(chunk).max() < 20.0


@pytest.mark.parametrize(
    "wrong", [{"beta": 10.1}, {"beta": -1.0}, {"beta": np.nan}, {"steps": 0}, {"jacobian": "none"}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlowSampler(**wrong)
