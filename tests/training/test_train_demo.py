"""The training script: its gradients, its export, and a run of seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("mujoco")

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import train_demo
import velocity_net

from chunkwise import plugins
from chunkwise.policies.demo import ASSETS, KNOTS, Demo


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_weights(rng, dtype, width=velocity_net.WIDTH):
    """Weights without a zero, so that every path carries something."""
    weights = velocity_net.initial_weights(KNOTS, rng, width)
    return {
        name: (value + 0.1 * rng.standard_normal(value.shape)).astype(dtype) for name, value in weights.items()
    }


def test_gradients_of_the_loss_are_those_of_finite_differences(rng):
    weights = random_weights(rng, np.float64, width=12)
    batch = [
        rng.standard_normal((7, KNOTS)),
        rng.standard_normal((7, 4)),
        rng.standard_normal((7, KNOTS)),
        rng.random((7, 1)),
    ]
    _, gradients = train_demo.loss_and_gradients(weights, *batch)
    assert gradients.keys() == weights.keys()
    for name, value in weights.items():
        direction = rng.standard_normal(value.shape)
        losses = []
        for sign in (1, -1):
            moved = weights | {name: value + sign * 1e-5 * direction}
            losses.append(train_demo.loss_and_gradients(moved, *batch)[0])
        slope = (losses[0] - losses[1]) / 2e-5
        assert np.vdot(gradients[name], direction) == pytest.approx(slope, rel=1e-5, abs=1e-9), name


def test_the_way_back_to_the_chunk_is_that_of_finite_differences(rng):
    weights = random_weights(rng, np.float64, width=12)
    x, cotangent, direction = rng.standard_normal((3, 5, KNOTS))
    known, tau = rng.standard_normal((5, 4)), rng.random((5, 1))
    _, tape = velocity_net.forward(weights, x, tau, known)
    pulled = velocity_net.backward(weights, tape, cotangent)
    ahead, behind = (velocity_net.forward(weights, x + d * direction, tau, known)[0] for d in (1e-6, -1e-6))
    assert np.vdot(pulled, direction) == pytest.approx(np.vdot(cotangent, ahead - behind) / 2e-6, rel=1e-6)


def test_onnx_computes_what_numpy_does(rng, tmp_path):
    weights = random_weights(rng, np.float32)
    train_demo.export(weights, tmp_path)
    x, target = rng.standard_normal((2, 3, KNOTS, 2), dtype=np.float32)
    known, agree = rng.standard_normal((3, 2, 4), dtype=np.float32), rng.random((3, KNOTS), dtype=np.float32)
    tau = np.float32(0.4)
    engine = plugins.load("engines", "onnx")()
    engine.load(str(tmp_path / "pull.onnx"))
    given = {"x": x, "tau": tau.reshape(1), "features": known}
    out = engine.run({**given, "target": target, "weights": agree})

    lanes, goal = x.transpose(0, 2, 1).astype(float), target.transpose(0, 2, 1)
    exact = {name: value.astype(float) for name, value in weights.items()}
    velocity, tape = velocity_net.forward(exact, lanes, np.full(1, tau), known.astype(float))
    error = agree[:, None] * (goal - (lanes + (1 - tau) * velocity))
    pulled = velocity_net.backward(exact, tape, error)
    scale = np.abs(pulled).max()
    np.testing.assert_allclose(out["velocity"], velocity.transpose(0, 2, 1), atol=1e-5 * np.abs(velocity).max())
    np.testing.assert_allclose(out["error"], error.transpose(0, 2, 1), atol=1e-5 * np.abs(error).max())
    np.testing.assert_allclose(out["pulled"], pulled.transpose(0, 2, 1), atol=1e-5 * scale)
    engine.load(str(tmp_path / "velocity.onnx"))
    np.testing.assert_allclose(engine.run(given)["velocity"], out["velocity"], atol=1e-5)
    engine.close()
    with pytest.raises(RuntimeError, match="no model"):
        engine.run(given)


def test_the_script_runs_from_episodes_to_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(train_demo, "STEPS", 20)
    monkeypatch.setattr("lockstep.STEPS", 20)
    monkeypatch.setattr(sys, "argv", ["train_demo.py", "--smoke", "--out", str(tmp_path)])
    train_demo.main()
    record = json.loads((tmp_path / "record.json").read_text())
    losses = record["training"]["loss_by_twentieth"]
    assert losses[-1] < losses[0]
    assert set(record["scores"]["success"]) == {"rtc", "switch"}
    Demo(model=str(tmp_path)).warmup()


def test_the_shipped_policy_is_small_and_says_how_it_was_made():
    files = list(ASSETS.iterdir())
    assert {file.name for file in files} == {"velocity.onnx", "pull.onnx", "record.json"}
    assert sum(file.stat().st_size for file in files) < 2e6
    record = json.loads((ASSETS / "record.json").read_text())
    assert record["seed"] == 0
    assert record["scores"]["success"]["rtc"]["0"] >= 0.9
