"""The policy type `openpi_policy`, against a stand-in of openpi's published interface."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest
from chunkwise.contract.errors import InterfaceValidationError
from chunkwise.plugins import MissingExtra
from chunkwise.policies.igris import Igris, MissingFile, PolicyFileError, build_policy

POLICY = """
model: {component_config_paths: {openpi_model: components/openpi_batched.yaml}}
policy: {type: openpi_policy}
"""
WIDTHS = ("right_arm:7", "right_gripper:1", "left_arm:7", "left_gripper:1")
BOTH: dict[str, Any] = {"state_keys": WIDTHS, "action_keys": WIDTHS}


class FakePolicy:
    """`openpi.policies.policy.Policy`: one observation in, `actions` (50, 32) out."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.noise: list[Any] = []
        self.columns = 32

    def infer(self, obs: dict[str, Any], *, noise: Any = None) -> dict[str, Any]:
        self.seen.append(obs)
        self.noise.append(noise)
        return {"actions": np.tile(np.resize(obs["state"], self.columns), (50, 1)), "policy_timing": {}}


@pytest.fixture
def openpi(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`openpi.training.config` and `openpi.policies.policy_config`, as published."""
    made = SimpleNamespace(policy=FakePolicy(), asked={}, error=None)

    def get_config(name: str) -> str:
        if name != "pi05_igris":
            raise ValueError(f"Config '{name}' not found.")
        return f"config of {name}"

    def create_trained_policy(
        train_config: Any,
        checkpoint_dir: Any,
        *,
        repack_transforms: Any = None,
        sample_kwargs: Any = None,
        default_prompt: str | None = None,
        norm_stats: Any = None,
        pytorch_device: str | None = None,
    ) -> FakePolicy:
        if made.error is not None:
            raise made.error
        made.asked = {
            "config": train_config,
            "folder": checkpoint_dir,
            "sample": sample_kwargs,
            "prompt": default_prompt,
            "device": pytorch_device,
        }
        policy: FakePolicy = made.policy
        return policy

    names = (
        "openpi",
        "openpi.training",
        "openpi.training.config",
        "openpi.policies",
        "openpi.policies.policy_config",
    )
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    modules["openpi.training.config"].get_config = get_config
    modules["openpi.policies.policy_config"].create_trained_policy = create_trained_policy
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "assets" / "igris").mkdir(parents=True)
    (folder / "assets" / "igris" / "norm_stats.json").touch()
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def yaml(folder: Any, checkpoint: Path) -> Path:
    folder.write("components/openpi_batched.yaml", params(checkpoint))
    path: Path = folder.write("openpi_policy.yaml", POLICY)
    return path


def params(checkpoint: Path, **changes: Any) -> str:
    values = {"train_config_name": "pi05_igris", "ckpt_dir": str(checkpoint), "default_prompt": "Pick up objects"}
    values |= {"action_dim": 16, "action_horizon": 50, "num_inference_steps": 7} | changes
    return "params:\n" + "".join(f"  {key}: {value}\n" for key, value in values.items() if value is not ...)


def test_it_loads_and_drives(openpi: Any, yaml: Path, checkpoint: Path, folder: Any) -> None:
    policy = Igris(config=yaml)
    policy.meet(folder.robot())
    assert openpi.asked == {
        "config": "config of pi05_igris",
        "folder": str(checkpoint),
        "sample": {"num_steps": 7},
        "prompt": "Pick up objects",
        "device": "cpu",
    }
    policy.warmup()
    frame = folder.frame()
    rows = policy.infer(frame, ChunkRequest(0)).rows  # type: ignore[union-attr]
    state = np.concatenate([frame.state[part.name] for part in folder.robot().components])
    np.testing.assert_allclose(rows, np.tile(state, (50, 1)), atol=1e-7)
    seen = openpi.policy.seen[-1]
    assert sorted(seen) == ["images", "prompt", "state"] and seen["prompt"] == "Pick up objects"
    assert sorted(seen["images"]) == ["cam_head", "cam_left", "cam_right"]
    assert seen["images"]["cam_head"].shape == (3, 24, 32) and seen["images"]["cam_head"].dtype == np.uint8
    assert seen["state"].shape == (16,) and openpi.policy.noise[-1] is None


def test_it_reads_the_newest_and_blends_with_the_plan(openpi: Any, yaml: Path, folder: Any) -> None:
    folder.params(proprio_history_size=3, num_img_obs=2)
    policy = Igris(config=yaml, **BOTH, prompt="sort")
    policy.infer(folder.frame(0), ChunkRequest(0))
    plan = np.ones((30, 16))
    rows = policy.infer(folder.frame(1), ChunkRequest(20, prefix=plan, inference_delay=5)).rows  # type: ignore[union-attr]
    frame, seen = folder.frame(1), openpi.policy.seen[-1]
    state = np.concatenate([frame.state[item.partition(":")[0]] for item in WIDTHS])
    np.testing.assert_allclose(seen["state"], state, atol=1e-7)
    assert seen["prompt"] == "sort"
    np.testing.assert_allclose(rows[:5], 1.0)
    np.testing.assert_allclose(rows[30:], np.tile(state, (20, 1)), atol=1e-7)
    assert (np.diff(rows[5:31, 0]) < 0).all(), "and in between it fades"


@pytest.mark.slow  # a graph is torch's, which takes seconds to import
def test_in_a_graph_it_is_the_same(openpi: Any, yaml: Path, folder: Any, checkpoint: Path) -> None:
    arguments = "".join(f"        {line.strip()}\n" for line in params(checkpoint).splitlines()[1:])
    folder.write(
        "components/openpi_batched.yaml",
        "schema_version: 1\nmodel:\n  graph:\n    inputs: [observation, noise]\n    modules:\n      net:\n"
        f"        _type_: openpi_batched\n{arguments}"
        "    nodes: [{name: out, call: 'module:net', kwargs: {obs: $observation, noise: $noise}}]\n"
        "    outputs: [out]\n    return: single\n",
    )
    policy = Igris(config=yaml, **BOTH)
    policy.warmup()
    assert policy.infer(folder.frame(), ChunkRequest(0)).rows.shape == (50, 16)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("model.safetensors", r"ckpt_dir: no weights .*model.safetensors$"),
        ("assets/igris/norm_stats.json", r"ckpt_dir: no statistics .*norm_stats.json"),
    ],
)
def test_missing_weights_and_statistics_are_errors_by_name(
    openpi: Any, yaml: Path, checkpoint: Path, gone: str, said: str
) -> None:
    (checkpoint / gone).unlink()
    with pytest.raises(MissingFile, match=said):
        build_policy(yaml)
    assert not openpi.asked, "openpi was never asked"


def test_weights_of_jax_are_told_from_none(openpi: Any, yaml: Path, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "params").mkdir()
    with pytest.raises(MissingFile, match="weights of JAX: convert them first"):
        build_policy(yaml)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"ckpt_dir": "/nowhere/at/all"}, MissingFile, "ckpt_dir: no folder /nowhere/at/all"),
        ({"train_config_name": "pi05_igirs"}, PolicyFileError, "Config 'pi05_igirs' not found"),
        ({"gradient_checkpointing": "true"}, PolicyFileError, "gradient_checkpointing is for training"),
        (
            {"action_horizont": 50},
            PolicyFileError,
            r"unknown key 'action_horizont' \(did you mean 'action_horizon'\?\)",
        ),
        ({"train_config_name": ...}, PolicyFileError, "missing 1 required.*train_config_name"),
    ],
)
def test_wrong_params_are_errors_by_name(
    openpi: Any, yaml: Path, folder: Any, checkpoint: Path, changes: Any, error: type[Exception], said: str
) -> None:
    folder.write("components/openpi_batched.yaml", params(checkpoint, **changes))
    with pytest.raises(error, match=said):
        build_policy(yaml)


def test_what_openpi_refuses_is_passed_on(openpi: Any, yaml: Path) -> None:
    openpi.error = FileNotFoundError("Norm stats file not found at: assets/other")
    with pytest.raises(MissingFile, match="Norm stats file not found at: assets/other"):
        build_policy(yaml)


def test_an_answer_of_other_size_is_refused(openpi: Any, yaml: Path, folder: Any) -> None:
    policy = Igris(config=yaml, **BOTH)
    openpi.policy.columns = 14
    with pytest.raises(InterfaceValidationError, match=r"openpi answered \(50, 14\).*action_dim = 16"):
        policy.infer(folder.frame(), ChunkRequest(0))


def test_what_it_reads_may_have_other_names_and_must_be_there(
    openpi: Any, yaml: Path, folder: Any, checkpoint: Path
) -> None:
    where = "{observation/state: proprio, observation/image: head}"
    folder.write("components/openpi_batched.yaml", params(checkpoint, observation=where))
    policy = Igris(config=yaml, **BOTH)
    openpi.policy.infer = lambda obs: {"actions": np.tile(obs["observation"]["state"], (50, 1))}
    assert policy.infer(folder.frame(), ChunkRequest(0)).rows.shape == (50, 16)  # type: ignore[union-attr]
    folder.write("components/openpi_batched.yaml", params(checkpoint, observation="{state: proprio, image: haed}"))
    with pytest.raises(InterfaceValidationError, match=r"no 'haed' in the observation \(did you mean 'head'\?\)"):
        Igris(config=yaml, **BOTH).infer(folder.frame(), ChunkRequest(0))


def test_without_a_task_it_says_what_to_give(openpi: Any, yaml: Path, folder: Any, checkpoint: Path) -> None:
    folder.write("components/openpi_batched.yaml", params(checkpoint, default_prompt=...))
    policy = Igris(config=yaml, **BOTH)
    policy.warmup()
    with pytest.raises(InterfaceValidationError, match=r"openpi: no prompt; give the task, --policy.prompt"):
        policy.infer(folder.frame(), ChunkRequest(0))


def test_another_component_is_refused(openpi: Any, folder: Any) -> None:
    folder.write("policy.yaml", "model: {component_config_paths: {main: a.yaml}}\npolicy: {type: openpi_policy}")
    folder.write("a.yaml", "params: {}")
    with pytest.raises(PolicyFileError, match="registered as 'a'"):
        build_policy(folder.path / "policy.yaml")


def test_without_openpi_it_says_which_package(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpi", None)
    with pytest.raises(MissingExtra, match="openpi"):
        build_policy(yaml)
