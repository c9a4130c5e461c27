"""LeRobot's own processors and ours, on what LeRobot itself has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chunkwise.engines._lerobot import import_lerobot
from chunkwise.processing.lerobot import Processors, read, state_files
from chunkwise.processing.tensors import tensors

IMAGENET = {
    "mean": np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1),
    "std": np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1),
}
SEEN = {
    "observation.state": np.array([0.3, -1.2, 0.9, 4.0, 0.5, 2.0], np.float32),
    "observation.images.top": np.random.default_rng(1).integers(0, 256, (84, 96, 3), dtype=np.uint8),
}
CHUNK = np.random.default_rng(2).normal(size=(1, 5, 6)).astype(np.float32)


def statistics(seed: int = 0) -> dict[str, dict[str, Any]]:
    """As a dataset of LeRobot's has them; column 4 stood still."""
    rows = np.random.default_rng(seed).normal(2, 3, (200, 6)).astype(np.float32)
    rows[:, 4] = 0.5
    columns = {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0)}
    columns |= {
        f"q{part:02}": np.quantile(rows, part / 100, axis=0).astype(np.float32) for part in (1, 10, 90, 99)
    }
    picture = {**IMAGENET, "min": np.zeros((3, 1, 1), np.float32), "max": np.ones((3, 1, 1), np.float32)}
    return {"observation.state": columns, "action": columns, "observation.images.top": picture}


def config(policy: str, modes: dict[str, str] | None) -> Any:
    types = import_lerobot("lerobot.configs.types")
    kind, mode = types.FeatureType, types.NormalizationMode
    made = import_lerobot("lerobot.policies.factory").make_policy_config(policy, device="cpu")
    made.input_features = {
        "observation.state": types.PolicyFeature(kind.STATE, (6,)),
        "observation.images.top": types.PolicyFeature(kind.VISUAL, (3, 84, 96)),
    }
    made.output_features = {"action": types.PolicyFeature(kind.ACTION, (6,))}
    if modes is not None:
        made.normalization_mapping = {name: mode[word] for name, word in modes.items()}
    return made


def both(
    policy: str, folder: Path, modes: dict[str, str] | None = None, known: Any = None
) -> tuple[Any, Processors]:
    """LeRobot's two pipelines, and ours of what it saved."""
    factory = import_lerobot("lerobot.policies.factory")
    given = statistics() if known is None else known
    stats = {key: {name: torch.from_numpy(value) for name, value in each.items()} for key, each in given.items()}
    theirs = factory.make_pre_post_processors(config(policy, modes), dataset_stats=stats)
    for pipeline in theirs:
        pipeline.save_pretrained(folder)
    texts = [(folder / f"policy_{name}.json").read_text() for name in ("preprocessor", "postprocessor")]
    return theirs, read(*texts, {name: (folder / name).read_bytes() for name in state_files(*texts)})


def agree(theirs: Any, ours: Processors) -> None:
    picture = torch.from_numpy(SEEN["observation.images.top"]).permute(2, 0, 1).float() / 255
    told = theirs[0](
        {"observation.state": torch.from_numpy(SEEN["observation.state"]), "observation.images.top": picture}
    )
    made = ours.pre(tensors(SEEN, ours.features))
    for key in SEEN:
        assert made[key].dtype == np.float32 and made[key].shape == tuple(told[key].shape)
        assert np.allclose(made[key], told[key].numpy(), rtol=1e-6, atol=1e-6)
    rows = theirs[1](torch.from_numpy(CHUNK)).numpy()
    answer = ours.post({"action": CHUNK})["action"]
    assert answer.dtype == np.float32 and np.allclose(answer, rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("policy", ["act", "diffusion", "vqbet", "tdmpc"])
def test_policies_are_prepared_as_lerobot_does(policy: str, tmp_path: Path) -> None:
    theirs, ours = both(policy, tmp_path)
    agree(theirs, ours)
    assert ours.warnings == () and len(ours.digest) == 64


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"])
def test_every_way_to_normalise_is_lerobots(mode: str, tmp_path: Path) -> None:
    theirs, ours = both("act", tmp_path, {"VISUAL": "MEAN_STD", "STATE": mode, "ACTION": mode})
    agree(theirs, ours)


def test_without_statistics_both_pass_and_ours_says_so(tmp_path: Path) -> None:
    theirs, ours = both("act", tmp_path, known={})
    agree(theirs, ours)
    assert len(ours.warnings) == 4 and ours.digest == ""
    assert all("passes as it is" in warning for warning in ours.warnings)


def test_prompts_of_pi05_are_lerobots() -> None:
    from chunkwise.processing.language import NewLine, StateInPrompt

    module = import_lerobot("lerobot.policies.pi05.processor_pi05")
    pi0 = import_lerobot("lerobot.policies.pi0.processor_pi0")
    core = import_lerobot("lerobot.processor.core").TransitionKey
    state = np.random.default_rng(3).uniform(-1.2, 1.2, (2, 6)).astype(np.float32)
    tasks = [" pick_up\nthe cube ", "stack"]
    told = module.Pi05PrepareStateTokenizerProcessorStep(max_state_dim=9)(
        {
            core.OBSERVATION: {"observation.state": torch.from_numpy(state)},
            core.COMPLEMENTARY_DATA: {"task": list(tasks)},
        }
    )
    made = StateInPrompt(width=9)({"observation.state": state, "task": tasks})
    assert made["task"] == told[core.COMPLEMENTARY_DATA]["task"]
    for task in (tasks, "pick", "pick\n"):
        assert NewLine()({"task": task}) == pi0.Pi0NewLineProcessor().complementary_data({"task": task})
