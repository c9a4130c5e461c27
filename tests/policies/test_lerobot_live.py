"""Policies that LeRobot itself made and saved: our actions beside its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.policies.pipeline import InferenceCoordinator, TensorPostprocessor, TensorPreprocessor

pytestmark = pytest.mark.slow
STATE, FRONT = "observation.state", "observation.images.front"
TINY_ACT = {
    "dim_model": 32,
    "n_heads": 2,
    "dim_feedforward": 64,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "chunk_size": 10,
    "n_action_steps": 10,
    "pretrained_backbone_weights": None,
}
TINY_DIFFUSION = {
    "down_dims": (16, 32),
    "n_groups": 4,
    "horizon": 8,
    "n_action_steps": 4,
    "num_train_timesteps": 5,
    "diffusion_step_embed_dim": 16,
    "spatial_softmax_num_keypoints": 4,
}
SEED = 7


class Original:
    """A randomly initialised policy of LeRobot's, saved with its processors, and loaded again by LeRobot."""

    def __init__(self, folder: Path, kind: str, options: dict[str, Any]) -> None:
        self.folder = folder
        self.torch = import_lerobot("torch")
        self.torch.set_num_threads(1)
        self.torch.manual_seed(SEED)
        types = import_lerobot("lerobot.configs.types")
        self._factory = import_lerobot("lerobot.policies.factory")
        feature, kinds = types.PolicyFeature, types.FeatureType
        config = self._factory.make_policy_config(
            kind,
            input_features={STATE: feature(kinds.STATE, (6,)), FRONT: feature(kinds.VISUAL, (3, 32, 48))},
            output_features={"action": feature(kinds.ACTION, (6,))},
            device="cpu",
            push_to_hub=False,
            **options,
        )
        made = self._factory.get_policy_class(kind)(config)
        made.save_pretrained(folder)
        for processor in self._factory.make_pre_post_processors(config, dataset_stats=self._statistics()):
            processor.save_pretrained(folder)
        self.policy = self._factory.get_policy_class(kind).from_pretrained(folder).eval()
        self.pre, self.post = self._factory.make_pre_post_processors(config, pretrained_path=str(folder))

    def _statistics(self) -> dict[str, Any]:
        rand = self.torch.rand
        shapes = {STATE: (6,), FRONT: (3, 1, 1), "action": (6,)}
        return {
            name: {
                "mean": rand(shape),
                "std": rand(shape) + 0.5,
                "min": -rand(shape) - 1,
                "max": rand(shape) + 1,
            }
            for name, shape in shapes.items()
        }

    def batch(self, observation: dict[str, Any]) -> Any:
        """As LeRobot prepares it on a robot."""
        prepare = import_lerobot("lerobot.policies.utils").prepare_observation_for_inference
        return self.pre(
            prepare({name: value.copy() for name, value in observation.items()}, self.torch.device("cpu"))
        )

    def chunk(self, observation: dict[str, Any]) -> Any:
        """The chunk of a policy without a history."""
        with self.torch.inference_mode():
            return self.post(self.policy.predict_action_chunk(self.batch(observation)))[0].numpy()

    def action(self, observation: dict[str, Any]) -> Any:
        """One action from LeRobot's queues, whose noise comes from the seed where they are filled again."""
        with self.torch.inference_mode():
            self.torch.manual_seed(SEED)
            return self.post(self.policy.select_action(self.batch(observation)))[0].numpy()


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tmp_path_factory.mktemp("act"), "act", TINY_ACT)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tmp_path_factory.mktemp("diffusion"), "diffusion", TINY_DIFFUSION)


def observations(count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    for _ in range(count):
        yield {
            STATE: rng.uniform(-1, 1, 6).astype(np.float32),
            FRONT: rng.integers(0, 256, (32, 48, 3), dtype=np.uint8),
        }


def adapted(original: Original) -> Any:
    options = {"state": ("arm",), "actions": ("arm:6",), "seed": SEED}
    return plugins.load("policies", "lerobot")(path=str(original.folder), device="cpu", **options)


def rows(policy: Any, observation: dict[str, Any], step: int) -> Any:
    return policy.infer(Frame({"front": observation[FRONT]}, {"arm": observation[STATE]}), ChunkRequest(step)).rows


def test_the_actions_of_an_act_are_lerobots_own(act: Original) -> None:
    coordinator, policy = InferenceCoordinator(act.folder, device="cpu"), adapted(act)
    for step, observation in enumerate(observations(4)):
        wanted = act.chunk(observation)
        np.testing.assert_allclose(coordinator(observation).action, wanted, atol=1e-5)
        np.testing.assert_allclose(rows(policy, observation, step), wanted, atol=1e-5)
    assert (coordinator.policy_type, coordinator.backend_type, coordinator.chunk_size) == ("act", "lerobot", 10)


def test_the_processors_alone_are_lerobots_own(act: Original, diffusion: Original) -> None:
    for original in (act, diffusion):
        pre, post = TensorPreprocessor(original.folder), TensorPostprocessor(original.folder)
        for observation in observations(3):
            made, wanted = pre(observation), original.batch(observation)
            for name, value in made.items():
                like = value[:, -1] if pre.n_obs_steps else value
                np.testing.assert_allclose(like, wanted[name].numpy(), atol=1e-6)
        chunk = np.random.default_rng(SEED).normal(size=(10, 6)).astype(np.float32)
        wanted = original.post(original.torch.from_numpy(chunk)).numpy()
        np.testing.assert_allclose(post(chunk), wanted, atol=1e-6)


def test_the_whole_and_its_pieces_run_apart_are_the_same_to_the_last_bit(act: Original) -> None:
    coordinator = InferenceCoordinator(act.folder, device="cpu")
    for observation in observations(3):
        batch = TensorPreprocessor(act.folder)(observation)
        apart = TensorPostprocessor(act.folder)(coordinator.infer_only(batch).action)
        assert np.array_equal(apart, coordinator(observation).action)


def test_the_actions_of_a_diffusion_policy_are_those_of_lerobots_queues(diffusion: Original) -> None:
    """LeRobot's queues are fed in every step; where they run empty its chunk is ours of that step."""
    diffusion.policy.reset()
    policy = adapted(diffusion)
    for step, observation in enumerate(observations(9)):
        chunk = rows(policy, observation, step)
        action = diffusion.action(observation)
        if step % 4 == 0:
            current = chunk
        np.testing.assert_allclose(current[step % 4], action, atol=1e-5)


def test_the_directory_is_left_as_it_is(act: Original) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in act.folder.iterdir()}
    adapted(act).close()
    assert {path.name: path.stat().st_mtime_ns for path in act.folder.iterdir()} == before
