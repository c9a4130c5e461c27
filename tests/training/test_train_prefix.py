"""Training to continue a plan: its gradients, its export, and a run of seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("mujoco")

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import train_prefix
import velocity_net

from chunkwise import plugins
from chunkwise.policies.demo import KNOTS


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_weights(rng, dtype):
    """Weights without a zero, so that every path carries something."""
    return {
        name: (value + 0.1 * rng.standard_normal(value.shape)).astype(dtype)
        for name, value in train_prefix.untrained(rng).items()
    }


def test_gradients_are_those_of_finite_differences(rng):
    weights = random_weights(rng, np.float64)
    given = np.arange(KNOTS) < np.array([[0], [2], [6]])
    batch = (*rng.standard_normal((1, 3, KNOTS)), rng.standard_normal((3, 4)), rng.standard_normal((3, KNOTS)))
    tau = rng.random((3, 1))
    _, gradients = train_prefix.loss_and_gradients(weights, *batch, tau, given)
    assert gradients.keys() == weights.keys()
    for name, value in weights.items():
        direction = rng.standard_normal(value.shape)
        losses = [
            train_prefix.loss_and_gradients({**weights, name: value + h * direction}, *batch, tau, given)[0]
            for h in (1e-5, -1e-5)
        ]
        slope = (losses[0] - losses[1]) / 2e-5
        assert np.vdot(gradients[name], direction) == pytest.approx(slope, rel=1e-4, abs=1e-7), name


def test_the_loss_is_of_the_rows_that_are_not_given(rng):
    weights = random_weights(rng, np.float64)
    chunks, noise = rng.standard_normal((2, 1, KNOTS))
    known, tau = rng.standard_normal((1, 4)), rng.random((1, 1))
    given = np.arange(KNOTS)[None] < 3
    loss, _ = train_prefix.loss_and_gradients(weights, chunks, known, noise, tau, given)
    times = np.where(given, 1.0, tau)
    x = times * chunks + (1 - times) * noise
    np.testing.assert_array_equal(x[:, :3], chunks[:, :3])
    velocity, _ = velocity_net.forward(weights, x, tau, np.concatenate([known, times], axis=1))
    assert loss == pytest.approx(np.mean((velocity - (chunks - noise))[:, 3:] ** 2))
    other = noise.copy()
    other[:, :3] += 1.0
    assert train_prefix.loss_and_gradients(weights, chunks, known, other, tau, given)[0] == pytest.approx(loss)


def test_onnx_computes_what_numpy_does(rng, tmp_path):
    weights = random_weights(rng, np.float32)
    train_prefix.export(weights, tmp_path)
    x = rng.standard_normal((3, KNOTS, 2), dtype=np.float32)
    known = rng.standard_normal((3, 2, 4), dtype=np.float32)
    times = np.where(np.arange(KNOTS) < np.array([[0], [2], [6]]), 1.0, 0.4).astype(np.float32)
    engine = plugins.load("engines", "onnx")()
    engine.load(str(tmp_path / "velocity.onnx"))
    made = engine.run({"x": x, "tau": times, "features": known})["velocity"]
    for hand in range(2):
        features = np.concatenate([known[:, hand], times], axis=1)
        wanted, _ = velocity_net.forward(weights, x[:, :, hand], times[:, -1:], features)
        np.testing.assert_allclose(made[:, :, hand], wanted, atol=1e-5)


def test_the_script_runs_from_episodes_to_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr("train_demo.STEPS", 20)
    monkeypatch.setattr(sys, "argv", ["train_prefix.py", "--smoke", "--out", str(tmp_path)])
    train_prefix.main()
    losses = json.loads((tmp_path / "record.json").read_text())["training"]["loss_by_twentieth"]
    assert losses[-1] < losses[0]
    assert (tmp_path / "velocity.onnx").stat().st_size < 1e6
