"""LeRobot's flow families continue a running plan, through a policy that is called as LeRobot 0.4.4 calls its own.

pi0, pi05 and smolvla need transformers and gigabytes; the stand-in has their call: the same arguments, loop,
padding and flow time, and hands each step to LeRobot's own RTCProcessor or to what takes its place.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking.weights import prefix_weights
from chunkwise.contract import ChunkRequest, Frame, InterfaceValidationError
from chunkwise.engines import _lerobot_guidance as guidance
from chunkwise.engines._lerobot import import_lerobot

torch = pytest.importorskip("torch")
types = import_lerobot("lerobot.configs.types")
rtc = import_lerobot("lerobot.policies.rtc.modeling_rtc")

H, A, WIDE, STEPS = 8, 3, 5, 4
SCHEDULES = ("exp", "linear", "ones", "zeros")
STATE = "observation.state"


class Model(torch.nn.Module):
    """What `PI0Pytorch` and `VLAFlowMatching` are to a policy."""

    def __init__(self, config):
        super().__init__()
        torch.manual_seed(1)
        self.config, self.rtc_processor = config, None
        self.first, self.second = torch.nn.Linear(H * WIDE + 4, 16), torch.nn.Linear(16, H * WIDE)

    def _rtc_enabled(self):
        return self.config.rtc_config is not None and self.config.rtc_config.enabled

    def velocity(self, x_t, time, state):
        known = torch.cat([x_t.flatten(1), time[:, None], state], 1)
        return self.second(torch.tanh(self.first(known))).view(x_t.shape)

    def sample_actions(self, state, noise, **kwargs):
        x_t, dt = noise, -1.0 / STEPS
        for step in range(STEPS):
            time = 1.0 + step * dt
            current = torch.tensor(time, dtype=torch.float32).expand(len(state))

            def partial(input_x_t, current=current):
                return self.velocity(input_x_t, current, state)

            if self._rtc_enabled():
                v_t = self.rtc_processor.denoise_step(
                    x_t=x_t,
                    prev_chunk_left_over=kwargs.get("prev_chunk_left_over"),
                    inference_delay=kwargs.get("inference_delay"),
                    time=time,
                    original_denoise_step_partial=partial,
                    execution_horizon=kwargs.get("execution_horizon"),
                )
            else:
                v_t = partial(x_t)
            x_t = x_t + dt * v_t
            if self.rtc_processor is not None and self.rtc_processor.is_debug_enabled():
                raise AssertionError("nobody asked for a trace")
        return x_t


class Policy(torch.nn.Module):
    """What `PI0Policy` and `SmolVLAPolicy` are to the engine."""

    def __init__(self):
        super().__init__()
        feature = types.PolicyFeature
        self.config = SimpleNamespace(
            rtc_config=None,
            num_steps=STEPS,
            chunk_size=H,
            max_action_dim=WIDE,
            n_obs_steps=1,
            tokenizer_max_length=2,
            adapt_to_pi_aloha=False,
            input_features={STATE: feature(types.FeatureType.STATE, (A,))},
            image_features={},
            action_feature=feature(types.FeatureType.ACTION, (A,)),
        )
        self.model = Model(self.config)
        self.init_rtc_processor()

    def init_rtc_processor(self):
        self.rtc_processor = None
        if self.config.rtc_config is not None:
            self.rtc_processor = rtc.RTCProcessor(self.config.rtc_config)
            if getattr(self, "model", None) is not None:
                self.model.rtc_processor = self.rtc_processor

    @torch.no_grad()
    def predict_action_chunk(self, batch, noise=None, **kwargs):
        self.eval()
        if noise is None:
            noise = torch.randn(len(batch[STATE]), H, WIDE)
        return self.model.sample_actions(batch[STATE], noise, **kwargs)[:, :, :A]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """An engine that loads the stand-in where LeRobot's smolvla would be."""
    (tmp_path / "config.json").write_text(json.dumps({"type": "smolvla"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    module = plugins.load("engines", "lerobot").__module__
    monkeypatch.setattr(f"{module}._need_transformers", lambda kind: None)
    monkeypatch.setattr(f"{module}._load_weights", lambda policy, path, device: None)
    monkeypatch.setattr(f"{module}.Lerobot._make", lambda self, *given: Policy())

    def make(**options):
        engine = plugins.load("engines", "lerobot")(**options)
        engine.load(str(tmp_path))
        return engine

    return make


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    return {
        STATE: rng.standard_normal((1, A), dtype=np.float32),
        "observation.language.tokens": np.zeros((1, 2), np.int64),
        "observation.language.attention_mask": np.ones((1, 2), bool),
        "noise": rng.standard_normal((1, H, WIDE), dtype=np.float32),
    }


def plan(d, end, schedule="exp", rows=None, batch=1):
    rng = np.random.default_rng(1)
    length = end if rows is None else rows
    weights = np.zeros(length)
    weights[:end] = prefix_weights(d, end, schedule)
    return {
        "prefix": np.tile(rng.standard_normal((1, length, A), dtype=np.float32), (batch, 1, 1)),
        "prefix_weights": np.tile(weights.astype(np.float32), (batch, 1)),
        "inference_delay": np.full(batch, d, np.int64),
    }


def reference(given, told, mask, jacobian):
    """The published formulas in LeRobot's direction of time, in float64."""
    model = Policy().model.double()
    state, x = (torch.tensor(given[name]).double() for name in (STATE, "noise"))
    y = torch.zeros(1, H, WIDE, dtype=torch.float64)
    y[:, : told["prefix"].shape[1], :A] = torch.tensor(told["prefix"]).double()
    w = torch.tensor(mask, dtype=torch.float64)[None, :, None].repeat(1, 1, WIDE)
    if jacobian == "vjp":
        w[:, :, A:] = 0.0
    for step in range(STEPS):
        time = 1.0 - step / STEPS
        tau = 1.0 - time
        at = x.clone().requires_grad_(True)
        v = model.velocity(at, torch.full((1,), time, dtype=torch.float64), state)
        e = ((y - (at - time * v)) * w).detach()
        g = torch.autograd.grad(((at - time * v) * e).sum(), at)[0] if jacobian == "vjp" else e
        gw = STEPS if tau == 0 else min(STEPS, (tau**2 + (1 - tau) ** 2) / (tau * (1 - tau)))
        x = (x - (v - gw * g) / STEPS).detach()
    return x[:, :, :A].numpy()


@pytest.mark.parametrize("jacobian", ["vjp", "identity"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_chunk_is_guided_as_published(load, given, jacobian, schedule):
    engine = load(guidance=jacobian)
    for d, end in ((0, 5), (1, 7), (2, 6), (3, 3), (5, 3), (4, 8)):
        told = plan(d, end, schedule)
        mask = np.zeros(H)
        mask[:end] = prefix_weights(d, end, schedule)
        ours = engine.run({**given, **told})["action"]
        np.testing.assert_allclose(ours, reference(given, told, mask, jacobian), atol=2e-6, rtol=0)


def test_identity_is_lerobots_own(load, given):
    engine = load(guidance="identity")
    policy = Policy()
    policy.config.rtc_config = rtc.RTCConfig(
        enabled=True, max_guidance_weight=STEPS, prefix_attention_schedule=types.RTCAttentionSchedule.EXP
    )
    policy.init_rtc_processor()
    told = plan(2, 6)
    theirs = policy.predict_action_chunk(
        {STATE: torch.tensor(given[STATE])},
        noise=torch.tensor(given["noise"]),
        inference_delay=2,
        prev_chunk_left_over=torch.tensor(told["prefix"]),
        execution_horizon=6,
    )
    np.testing.assert_array_equal(engine.run({**given, **told})["action"], theirs.numpy())


@pytest.mark.parametrize("jacobian", ["vjp", "identity"])
def test_without_a_plan_nothing_is_changed(load, given, jacobian):
    alone = Policy().predict_action_chunk({STATE: torch.tensor(given[STATE])}, noise=torch.tensor(given["noise"]))
    engine = load(guidance=jacobian)
    np.testing.assert_array_equal(engine.run(given)["action"], alone.numpy())
    engine.run({**given, **plan(2, 6)})
    np.testing.assert_array_equal(engine.run(given)["action"], alone.numpy())


def test_a_plan_that_has_ended_binds_nothing(load, given):
    engine = load()
    told = plan(0, 0, rows=4)
    np.testing.assert_allclose(engine.run({**given, **told})["action"], engine.run(given)["action"], atol=1e-6)


def test_the_scalar_model_is_guided_as_published():
    """v = 0.5 x at time 0.5, towards 0.1, beta 10: 1.475, and 1.8 without the Jacobian."""
    exact = guidance.ExactGuidance(10.0)
    exact.schedule = "ones"
    lerobots = rtc.RTCProcessor(rtc.RTCConfig(enabled=True, max_guidance_weight=10.0, execution_horizon=1))
    step = {
        "x_t": torch.ones(1, 1, 1),
        "prev_chunk_left_over": torch.full((1, 1, 1), 0.1),
        "inference_delay": 1,
        "time": 0.5,
        "original_denoise_step_partial": lambda x: 0.5 * x,
        "execution_horizon": 1,
    }
    assert exact.denoise_step(**step).item() == pytest.approx(1.475)
    assert lerobots.denoise_step(**step).item() == pytest.approx(1.8)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prefix_weights": None}, "a running plan is prefix, prefix_weights and inference_delay"),
        ({"prefix_weights": np.float32([[1, 1, 0.5, 0.5, 0.4, 0.1]])}, "none of LeRobot's schedules"),
        ({"prefix_weights": np.ones((1, 5), np.float32)}, "prefix_weights has 5 rows, prefix has 6"),
        ({"inference_delay": np.ones(1, np.int32)}, "inference_delay' must be int64"),
    ],
)
def test_what_lerobot_cannot_be_told_is_refused(load, given, change, message):
    told = {name: value for name, value in {**plan(2, 6), **change}.items() if value is not None}
    with pytest.raises(InterfaceValidationError, match=message):
        load().run({**given, **told})


def test_a_batch_is_guided_alike_or_not_at_all(load, given):
    pair = {name: np.concatenate([value] * 2) for name, value in given.items()}
    told = plan(2, 6, batch=2)
    engine = load()
    both, one = engine.run({**pair, **told})["action"], engine.run({**given, **plan(2, 6)})["action"]
    np.testing.assert_allclose(both, np.concatenate([one, one]), atol=1e-6)
    told["inference_delay"][1] = 3
    with pytest.raises(InterfaceValidationError, match="a whole batch alike"):
        engine.run({**pair, **told})


def test_what_changes_actions_inside_takes_no_plan(load, monkeypatch):
    made = Policy.__init__

    def adapted(self):
        made(self)
        self.config.adapt_to_pi_aloha = True

    assert "prefix" in load().inputs
    assert "prefix" not in load(compile=True).inputs
    monkeypatch.setattr(Policy, "__init__", adapted)
    assert "prefix" not in load().inputs


def test_parameters_have_no_gradient(load):
    engine = load()
    assert not any(parameter.requires_grad for parameter in engine._policy.parameters())


def test_the_policy_brings_the_plan_to_lerobots_units(load, given, tmp_path):
    """Through `policies.lerobot`: what the request carries is in the robot's units."""
    tiny = Path(__file__).parents[1] / "policies" / "tiny_checkpoint.py"
    written = plugins.load("policies", f"{tiny}:write")(
        tmp_path / "made", {STATE: (A,)}, A, rows=H, kind="smolvla"
    )
    folder = written.folder
    (folder / "chunkwise.json").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    policy = plugins.load("policies", "lerobot")(
        path=str(folder), state=("arm",), actions=("arm:3",), device="cpu", seed=0
    )
    assert policy.spec.supports_prefix
    seen = {}
    engine = policy.coordinator.engine.engine
    run = engine.run
    engine.run = lambda tensors: (
        seen.update(tensors) or run({**tensors, **{name: given[name] for name in given if name not in tensors}})
    )
    prefix = np.random.default_rng(0).normal(0.4, 0.3, (5, A))
    weights = prefix_weights(2, 5)
    asked = ChunkRequest(0, inference_delay=2, prefix=prefix, prefix_weights=weights)
    policy.infer(Frame({}, {"arm": np.full(A, 0.4)}, {"prompt": "go"}), asked)
    mean, std = (written.statistics["action"][name] for name in ("mean", "std"))
    np.testing.assert_allclose(seen["prefix"][0], (prefix - mean) / (std + 1e-8), atol=1e-5)
    np.testing.assert_allclose(seen["prefix_weights"][0], weights, atol=1e-7)
    assert seen["inference_delay"].tolist() == [2]


@pytest.mark.parametrize("jacobian", ["vjp", "identity"])
def test_warming_up_guides_a_chunk_too(load, jacobian):
    """The first backward pass is slow, and must not be the first of an episode."""
    engine = load(guidance=jacobian)
    told = []
    predict = engine._policy.predict_action_chunk
    engine._policy.predict_action_chunk = lambda *batch, **given: told.append(given) or predict(*batch, **given)
    engine.warmup()
    assert any("prev_chunk_left_over" in given for given in told)
    assert any("prev_chunk_left_over" not in given for given in told)
